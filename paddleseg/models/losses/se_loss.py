"""The semantic encoding loss of EncNet.

Letters: N images, C classes, H, W size of the label.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.losses.checks import at_least_float32, check_label_values


@manager.LOSSES.add_component(aliases=("SECrossEntropyLoss", "EncodingBCELoss", "Seloss"))
class SELoss(nn.Layer):
    """Binary cross entropy between the SE layer's logits and the classes present in each image.

    Large and small objects count alike, since only presence is asked for.
    Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018, section 3.1.

    Args:
        ignore_index: the label of pixels without a class; they are present in no class.

    Shapes:
        logit (N, C), label (N, H, W) of any integer type and any size; output () in float32 at least.

    Raises:
        ConfigError: logit isn't (N, C).
        LabelValueError: on a CPU the label holds something else than a class or the ignore index; on a GPU, where
            nothing waits for its values, the loss is NaN instead.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        if logit.ndim != 2:
            shape = "(N, C, H, W)" if logit.ndim == 4 else f"shape {tuple(logit.shape)}"
            raise ConfigError(f"SELoss takes the (N, C) output of the SE layer, got {shape}: check the order "
                              "of loss.types against the model's outputs seg, aux, se")
        check_label_values("SELoss", label, logit.shape[1], self.ignore_index)
        logit = at_least_float32(logit)
        present = class_presence(label, logit.shape[1], self.ignore_index)
        return F.binary_cross_entropy_with_logits(logit, present.astype(logit.dtype))


def class_presence(label: paddle.Tensor, num_classes: int, ignore_index: int) -> paddle.Tensor:
    """Return which classes each image holds: label (N, H, W) to (N, C), 1.0 or 0.0; NaN for a label that is no class.

    The pixels of an image write into its C bins, and two more for ignored and for illegal values.
    """
    label = label.flatten(1).astype("int64")
    legal = paddle.logical_and(label >= 0, label < num_classes)
    bin_of = paddle.where(legal, label, paddle.full_like(label, num_classes + 1))
    bin_of = paddle.where(label == ignore_index, paddle.full_like(label, num_classes), bin_of)
    none = paddle.zeros([label.shape[0], num_classes + 2])
    bins = paddle.put_along_axis(none, bin_of, 1.0, axis=1)
    present, illegal = bins[:, :num_classes], bins[:, -1:]
    return paddle.where((illegal > 0).expand_as(present), paddle.full_like(present, float("nan")), present)
