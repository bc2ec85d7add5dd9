"""Functions of Paddle as layers, so that quantisation finds them among a model's sublayers."""

from typing import Type

import paddle
import paddle.nn as nn

__all__ = ["Add", "Concat", "Divide", "Flatten", "Multiply", "Reshape", "Subtract", "Transpose"]


class _Function(nn.Layer):
    """A layer that computes `function` of what it is given."""

    function = None

    def forward(self, *args, **kwargs):
        return type(self).function(*args, **kwargs)


def _layer(name: str) -> Type[nn.Layer]:
    """The layer of the function of `paddle` that has this name in lower case."""
    return type(name, (_Function,), {"__module__": __name__, "function": staticmethod(getattr(paddle, name.lower()))})


Add, Subtract, Multiply, Divide = _layer("Add"), _layer("Subtract"), _layer("Multiply"), _layer("Divide")
Concat, Flatten, Reshape, Transpose = _layer("Concat"), _layer("Flatten"), _layer("Reshape"), _layer("Transpose")
