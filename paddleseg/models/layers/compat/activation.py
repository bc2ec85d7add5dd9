"""Activations by name."""

from typing import Optional

import paddle
import paddle.nn as nn

from paddleseg.cvlibs.errors import ConfigError

_BY_NAME = {name.lower(): kind for name, kind in vars(nn.layer.activation).items()
            if isinstance(kind, type) and issubclass(kind, nn.Layer) and kind is not nn.Layer}


class Activation(nn.Layer):
    """The activation of `paddle.nn` whose class has the name `act` in lower case, with its own defaults.

    Args:
        act: such as relu, leakyrelu or prelu; None for x itself.

    Shapes:
        output as the input.

    Raises:
        ConfigError: there is no such activation.
    """

    def __init__(self, act: Optional[str] = None):
        super().__init__()
        self._act = act
        if act is not None:
            if act not in _BY_NAME:
                raise ConfigError(f"{act} is no activation; known are {', '.join(sorted(_BY_NAME))}")
            self.act_func = _BY_NAME[act]()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x if self._act is None else self.act_func(x)
