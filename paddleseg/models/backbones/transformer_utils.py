"""The small parts of transformers that PaddleSeg's models import from here."""

from typing import Any, Optional, Tuple

import paddle
import paddle.nn as nn

__all__ = ["DropPath", "Identity", "init_weights", "ones_", "to_2tuple", "trunc_normal_", "zeros_"]

Identity = nn.Identity
trunc_normal_ = nn.initializer.TruncatedNormal(std=0.02)
zeros_ = nn.initializer.Constant(0.0)
ones_ = nn.initializer.Constant(1.0)


def to_2tuple(x: Any) -> Tuple[Any, Any]:
    """(x, x)."""
    return x, x


class DropPath(nn.Layer):
    """Set a sample to 0 with probability p in training, and divide it by 1 - p otherwise.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Args:
        drop_prob: p, from 0 to below 1; None for 0.

    Shapes:
        input (N, ...), output as the input.
    """

    def __init__(self, drop_prob: Optional[float] = None):
        super().__init__()
        self.drop_prob = drop_prob or 0.0

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        kept = 1 - self.drop_prob
        drawn = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1))
        return x / kept * (drawn < kept).astype(x.dtype)


def init_weights(layer: nn.Layer) -> None:
    """Draw the weight of a Linear from a truncated N(0, 0.02^2); start a LayerNorm at 1; biases at 0."""
    if isinstance(layer, nn.Linear):
        trunc_normal_(layer.weight)
    elif isinstance(layer, nn.LayerNorm):
        ones_(layer.weight)
    if isinstance(layer, (nn.Linear, nn.LayerNorm)) and layer.bias is not None:
        zeros_(layer.bias)
