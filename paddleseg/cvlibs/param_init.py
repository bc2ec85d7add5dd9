"""Initialise one parameter, or one layer, in place, under the names that PaddleSeg code imports.

Each keyword argument goes to the initialiser of the same name in `paddle.nn.initializer`.
"""

import math

import paddle
import paddle.nn as nn


def constant_init(param: paddle.Tensor, **kwargs) -> None:
    """Fill with `value` (default 0)."""
    nn.initializer.Constant(**kwargs)(param)


def uniform_init(param: paddle.Tensor, **kwargs) -> None:
    """Draw from U(`low`, `high`) (default -1, 1)."""
    nn.initializer.Uniform(**kwargs)(param)


def normal_init(param: paddle.Tensor, **kwargs) -> None:
    """Draw from N(`mean`, `std`^2) (default 0, 1)."""
    nn.initializer.Normal(**kwargs)(param)


def kaiming_normal_init(param: paddle.Tensor, **kwargs) -> None:
    """Draw from N(0, 2 / fan_in).  He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10."""
    nn.initializer.KaimingNormal(**kwargs)(param)


def kaiming_uniform(param: paddle.Tensor, **kwargs) -> None:
    """Draw from U(-b, b), b = sqrt(6 / fan_in), the variance of `kaiming_normal_init`."""
    nn.initializer.KaimingUniform(**kwargs)(param)


def xavier_uniform(param: paddle.Tensor, **kwargs) -> None:
    """Draw from U(-b, b), b = sqrt(6 / (fan_in + fan_out)).  Glorot and Bengio, AISTATS 2010, eq. 16."""
    nn.initializer.XavierUniform(**kwargs)(param)


def trunc_normal_init(param: paddle.Tensor, **kwargs) -> None:
    """Draw from N(`mean`, `std`^2) (default 0, 1), again where a value is off by more than two deviations on Paddle 2,
    by more than 2 on Paddle 3."""
    nn.initializer.TruncatedNormal(**kwargs)(param)


def multihead_fill(layer: nn.Layer, qkv_same_embed_dim: bool = True) -> None:
    """Initialise a `paddle.nn.MultiHeadAttention` as PyTorch does.

    Args:
        qkv_same_embed_dim: the three projections count as one matrix of three times the outputs, so that their bound
            is sqrt(6 / (fan_in + 3 fan_out)); else every matrix is drawn by `xavier_uniform`.
    """
    if not qkv_same_embed_dim:
        for param in layer.parameters():
            if param.ndim > 1:
                xavier_uniform(param)
        return
    for projection in (layer.q_proj, layer.k_proj, layer.v_proj):
        rows, columns = projection.weight.shape
        bound = math.sqrt(6 / (3 * rows + columns))
        uniform_init(projection.weight, low=-bound, high=bound)
    xavier_uniform(layer.out_proj.weight)


def th_linear_fill(layer: nn.Layer) -> None:
    """Initialise a `paddle.nn.Linear` as PyTorch does: weight and bias from U(-b, b), b = 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(layer.weight.shape[0])
    uniform_init(layer.weight, low=-bound, high=bound)
    if getattr(layer, "bias", None) is not None:
        uniform_init(layer.bias, low=-bound, high=bound)
