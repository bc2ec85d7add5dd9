"""Functions of Paddle as layers, so that quantisation finds them among a model's sublayers."""

from typing import Optional, Sequence

import paddle
import paddle.nn as nn

__all__ = ["Add", "Concat", "Divide", "Flatten", "Multiply", "Reshape", "Subtract", "Transpose"]


class Add(nn.Layer):
    """x + y."""

    def forward(self, x: paddle.Tensor, y: paddle.Tensor, name: Optional[str] = None) -> paddle.Tensor:
        return paddle.add(x, y, name)


class Subtract(nn.Layer):
    """x - y."""

    def forward(self, x: paddle.Tensor, y: paddle.Tensor, name: Optional[str] = None) -> paddle.Tensor:
        return paddle.subtract(x, y, name)


class Multiply(nn.Layer):
    """x * y."""

    def forward(self, x: paddle.Tensor, y: paddle.Tensor, name: Optional[str] = None) -> paddle.Tensor:
        return paddle.multiply(x, y, name)


class Divide(nn.Layer):
    """x / y."""

    def forward(self, x: paddle.Tensor, y: paddle.Tensor, name: Optional[str] = None) -> paddle.Tensor:
        return paddle.divide(x, y, name)


class Reshape(nn.Layer):
    """The values of x in another shape."""

    def forward(self, x: paddle.Tensor, shape: Sequence[int], name: Optional[str] = None) -> paddle.Tensor:
        return paddle.reshape(x, shape, name)


class Transpose(nn.Layer):
    """x with its axes in the order `perm`."""

    def forward(self, x: paddle.Tensor, perm: Sequence[int], name: Optional[str] = None) -> paddle.Tensor:
        return paddle.transpose(x, perm, name)


class Concat(nn.Layer):
    """Several tensors joined along `axis`."""

    def forward(self, x: Sequence[paddle.Tensor], axis: int = 0, name: Optional[str] = None) -> paddle.Tensor:
        return paddle.concat(x, axis, name)


class Flatten(nn.Layer):
    """x with the axes from `start_axis` to `stop_axis` made one."""

    def forward(self, x: paddle.Tensor, start_axis: int = 0, stop_axis: int = -1,
                name: Optional[str] = None) -> paddle.Tensor:
        return paddle.flatten(x, start_axis, stop_axis, name)
