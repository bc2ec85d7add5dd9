"""The Lovász-Softmax loss.

Letters: N images, C classes, H, W size of the image, P = N * H * W pixels.
"""

from typing import Sequence, Union

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.losses.checks import check_map


@manager.LOSSES.add_component
class LovaszSoftmaxLoss(nn.Layer):
    """A convex stand-in for 1 - IoU, the mean over classes.

    loss = mean_c sum_i m_c(i) g_c(i)

    m_c are the errors |[y = c] - p(c)| of all pixels that have a class, in falling order, and g_c(i) is by how much
    the Jaccard loss 1 - IoU of class c grows if the pixel of m_c(i) is wrong beside those before it.
    Berman et al., "The Lovász-Softmax loss", CVPR 2018, eq. 8-11 and algorithm 1.

    Pixels of all images of a batch are taken together, as in PaddleSeg.

    Args:
        ignore_index: the label of pixels without a class.
        classes: which classes the mean is over: "present" in the labels of the batch, "all", or a list of classes.

    Shapes:
        logit (N, C, H, W), label (N, H, W) of any integer type; output () in float32 at least.

    Raises:
        ConfigError: logit isn't a map, or the label has another size; `classes` names no class.
    """

    def __init__(self, ignore_index: int = 255, classes: Union[str, Sequence[int]] = "present"):
        super().__init__()
        if not classes or isinstance(classes, str) and classes not in ("present", "all"):
            raise ConfigError(f"LovaszSoftmaxLoss: classes {classes!r} must be present, all, or a list of classes")
        self.ignore_index = ignore_index
        self.classes = classes

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        logit, label = check_map("LovaszSoftmaxLoss", logit, label)
        classes = range(logit.shape[1]) if isinstance(self.classes, str) else self.classes
        if not all(0 <= number < logit.shape[1] for number in classes):
            raise ConfigError(f"LovaszSoftmaxLoss: classes {list(classes)} are not all within 0..{logit.shape[1] - 1}")
        label = label.flatten()
        has_class = (label != self.ignore_index).astype(logit.dtype)
        probabilities = F.softmax(logit, axis=1).transpose([1, 0, 2, 3]).flatten(1)  # (C, P)
        losses, counted = [], []
        for number in classes:
            is_own = (label == number).astype(logit.dtype) * has_class
            # An ignored pixel has no error, so it comes last, where it adds nothing.
            losses.append(_lovasz((is_own - probabilities[number]).abs() * has_class, is_own))
            counted.append((is_own.max() > 0).astype(logit.dtype) if self.classes == "present" else
                           paddle.ones([], logit.dtype))
        counted = paddle.stack(counted)
        return (paddle.stack(losses) * counted).sum() / paddle.clip(counted.sum(), min=1.0)


def _lovasz(errors: paddle.Tensor, is_own: paddle.Tensor) -> paddle.Tensor:
    """sum_i m(i) g(i) of one class; both (P,), `is_own` 1.0 or 0.0."""
    order = paddle.argsort(errors.detach(), descending=True)
    growth = jaccard_growth(paddle.gather(is_own, order))
    return (paddle.gather(errors, order) * growth.detach()).sum()


def jaccard_growth(is_own: paddle.Tensor) -> paddle.Tensor:
    """The growth of 1 - IoU with each further wrong pixel, (P,); algorithm 1 of the paper.

    Args:
        is_own: (P,) 1.0 where a pixel is of the class, else 0.0.
    """
    missed = paddle.cumsum(is_own, axis=0)
    own = missed[-1:]
    jaccard = 1.0 - (own - missed) / (own + paddle.cumsum(1.0 - is_own, axis=0))
    return paddle.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
