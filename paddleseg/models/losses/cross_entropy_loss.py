"""Cross entropy per pixel.

Letters: N images, C classes, H, W size of the image.
"""

import math
from typing import Optional, Sequence

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.losses.checks import check_label_values, check_map


@manager.LOSSES.add_component
class CrossEntropyLoss(nn.Layer):
    """Mean softmax cross entropy over the pixels that have a class.

    loss = sum_i w(y_i) (-log p_i(y_i)) / divisor,   i over the pixels with y_i != ignore_index

    The divisor is the total weight sum_i w(y_i) of those pixels (their number without weights), as in
    PaddleSeg and torch; or N * H * W, ignored pixels included, as mmsegmentation has it by default.
    Where every pixel is ignored the loss is 0 and so is its gradient.

    Args:
        weight: one factor for each class, at least 0; None for 1.
        ignore_index: the label of pixels without a class.
        avg_non_ignore: False divides by the number of all pixels.

    Shapes:
        logit (N, C, H, W), label (N, H, W) of any integer type, output () in float32 at least.

    Raises:
        ConfigError: logit isn't a map, the label has another size, `weight` another length than C, or a factor is below
            0 or all are 0.
        LabelValueError: on a CPU the label holds something else than a class or the ignore index.
    """

    def __init__(self, weight: Optional[Sequence[float]] = None, ignore_index: int = 255,
                 avg_non_ignore: bool = True):
        super().__init__()
        if weight is not None and not (all(0 <= value < math.inf for value in weight) and any(weight)):
            raise ConfigError(f"CrossEntropyLoss: weight {list(weight)}: each must be at least 0 and finite, and one "
                              f"above 0")
        self.weight = None if weight is None else paddle.to_tensor(list(weight), dtype="float64")
        self.ignore_index = ignore_index
        self.avg_non_ignore = avg_non_ignore

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        logit, label = check_map("CrossEntropyLoss", logit, label)
        if self.weight is not None and len(self.weight) != logit.shape[1]:
            raise ConfigError(f"CrossEntropyLoss: weight has {len(self.weight)} values, the model has "
                              f"{logit.shape[1]} classes; give one value for each class")
        check_label_values("CrossEntropyLoss", label, logit.shape[1], self.ignore_index)
        weight = None if self.weight is None else self.weight.astype(logit.dtype)
        total = F.cross_entropy(logit, label, weight=weight, ignore_index=self.ignore_index, reduction="sum", axis=1)
        if not self.avg_non_ignore:
            return total / label.size
        divisor = self._valid_weight(label, weight, logit.dtype)
        return total / paddle.where(divisor > 0, divisor, paddle.ones_like(divisor))

    def _valid_weight(self, label, weight, dtype) -> paddle.Tensor:
        """The total class weight of the pixels that aren't ignored."""
        valid = label != self.ignore_index
        if weight is None:
            return valid.astype("int64").sum().astype(dtype)
        classes = paddle.where(valid, label, paddle.zeros_like(label))
        return (paddle.gather(weight, classes.flatten()) * valid.flatten().astype(dtype)).sum()
