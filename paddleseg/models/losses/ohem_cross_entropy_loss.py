"""Cross entropy of the hardest pixels.

Letters: N images, C classes, H, W size of the image.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.losses.checks import check_map

_EPSILON = 1e-5  # PaddleSeg's


@manager.LOSSES.add_component
class OhemCrossEntropyLoss(nn.Layer):
    """Cross entropy of the pixels whose own class gets little probability (online hard example mining).

    loss = mean_i(k_i (-log p_i(y_i))) / (mean_i(k_i) + 1e-5),   i over all pixels
    k_i = 1 where y_i != ignore_index and p_i(y_i) < t, else 0
    t = max(thresh, the min_kept-th smallest p(y) of the batch)

    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", CVPR 2016; for pixels
    and in this form, the 1e-5 and the strict < too, as in PaddleSeg.

    Args:
        thresh: probability below which a pixel is hard.
        min_kept: t rises until about so many pixels of a batch are kept. All are kept where no more than these have a
            class, and with 0.
        ignore_index: the label of pixels without a class.

    Shapes:
        logit (N, C, H, W), label (N, H, W) of any integer type; output () in float32 at least.

    Raises:
        ConfigError: logit isn't a map, or the label has another size; thresh isn't within 0..1, or min_kept below 0.
    """

    def __init__(self, thresh: float = 0.7, min_kept: int = 10000, ignore_index: int = 255):
        super().__init__()
        if not 0 <= thresh <= 1 or min_kept < 0:
            raise ConfigError(f"OhemCrossEntropyLoss: thresh {thresh} must be within 0..1, min_kept {min_kept} at "
                              f"least 0")
        self.thresh = thresh
        self.min_kept = min_kept
        self.ignore_index = ignore_index

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        logit, label = check_map("OhemCrossEntropyLoss", logit, label)
        losses = F.cross_entropy(logit, label, ignore_index=self.ignore_index, reduction="none", axis=1).flatten()
        has_class = (label != self.ignore_index).flatten()
        kept = paddle.logical_and(has_class, self._is_hard(losses.detach(), has_class)).astype(losses.dtype)
        return (losses * kept).mean() / (kept.mean() + _EPSILON)

    def _is_hard(self, losses: paddle.Tensor, has_class: paddle.Tensor) -> paddle.Tensor:
        """The pixels below t, or all where too few have a class; nothing waits for the device."""
        if self.min_kept == 0 or self.min_kept >= losses.size:
            return paddle.ones_like(has_class)
        probability = paddle.exp(-losses)
        easiest = paddle.full_like(probability, 2.0)  # behind every pixel that has a class
        smallest = paddle.sort(paddle.where(has_class, probability, easiest))[self.min_kept - 1]
        too_few = has_class.astype("int64").sum() <= self.min_kept
        return paddle.logical_or(probability < paddle.clip(smallest, min=self.thresh), too_few)
