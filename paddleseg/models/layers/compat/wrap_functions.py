"""Functions of Paddle as layers, so that quantisation finds them among a model's sublayers."""

import paddle
import paddle.nn as nn

__all__ = ["Add", "Concat", "Divide", "Flatten", "Multiply", "Reshape", "Subtract", "Transpose"]


class _Function(nn.Layer):
    """A layer that computes `function` of what it is given."""

    function = None

    def forward(self, *args, **kwargs):
        return type(self).function(*args, **kwargs)


class Add(_Function):
    function = staticmethod(paddle.add)


class Subtract(_Function):
    function = staticmethod(paddle.subtract)


class Multiply(_Function):
    function = staticmethod(paddle.multiply)


class Divide(_Function):
    function = staticmethod(paddle.divide)


class Reshape(_Function):
    function = staticmethod(paddle.reshape)


class Transpose(_Function):
    function = staticmethod(paddle.transpose)


class Concat(_Function):
    function = staticmethod(paddle.concat)


class Flatten(_Function):
    function = staticmethod(paddle.flatten)
