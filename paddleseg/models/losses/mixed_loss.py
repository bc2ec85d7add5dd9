"""Several losses of one output."""

from typing import Sequence

import paddle
import paddle.nn as nn

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError


@manager.LOSSES.add_component
class MixedLoss(nn.Layer):
    """The weighted sum of several losses of the same output.

    loss = sum_i coef_i losses_i(logit, label)

        - type: MixedLoss
          losses:
            - {type: CrossEntropyLoss}
            - {type: LovaszSoftmaxLoss}
          coef: [0.8, 0.2]

    Args:
        losses: the losses; each takes `logit` and `label`.
        coef: one factor for each.

    Shapes:
        what the losses take; output ().

    Raises:
        ConfigError: there isn't one factor for each loss.
    """

    def __init__(self, losses: Sequence[nn.Layer], coef: Sequence[float]):
        super().__init__()
        if not losses or len(losses) != len(coef):
            raise ConfigError(f"MixedLoss has {len(losses)} losses and {len(coef)} coef; give one coef for each loss, "
                              f"and at least one loss")
        self.losses = nn.LayerList(losses)
        self.coef = list(coef)

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        return sum(loss(logit, label) * coef for loss, coef in zip(self.losses, self.coef))
