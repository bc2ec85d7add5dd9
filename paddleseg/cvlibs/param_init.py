"""Initialise one parameter in place, under the names that PaddleSeg code imports.

Each keyword argument goes to the initialiser of the same name in `paddle.nn.initializer`.
"""

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
