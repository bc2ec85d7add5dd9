"""Sizes of feature maps, and bilinear resizing."""

from typing import List, Union

import paddle
import paddle.nn.functional as F


def shape_of(x: paddle.Tensor) -> List[Union[int, paddle.Tensor]]:
    """The shape of x as numbers; in an exported graph those that it leaves open are tensors, which reshape takes."""
    if paddle.in_dynamic_mode():
        return list(x.shape)
    return [paddle.shape(x)[axis] if length < 0 else length for axis, length in enumerate(x.shape)]


def size_of(x: paddle.Tensor):
    """(H, W) of a map (N, C, H, W); a tensor in an exported graph, which may leave it open."""
    return x.shape[2:] if paddle.in_dynamic_mode() else paddle.shape(x)[2:]


def resize(x: paddle.Tensor, like: paddle.Tensor, align_corners: bool = False) -> paddle.Tensor:
    """Resize `x` bilinearly to the height and width of `like`.

    Towards a height or width of 1 without `align_corners`, F.interpolate takes the first row or
    column, where the half-pixel rule asks for the middle; such an axis is reduced here first (not in an
    exported graph, which would need a branch for it).

    Shapes:
        x (N, C, h, w), like (_, _, H, W), output (N, C, H, W).
    """
    if paddle.in_dynamic_mode() and not align_corners:
        for axis in (2, 3):
            if like.shape[axis] == 1 and x.shape[axis] > 1:
                x = _middle(x, axis)
    return F.interpolate(x, size_of(like), mode="bilinear", align_corners=align_corners)


def _middle(x: paddle.Tensor, axis: int) -> paddle.Tensor:
    """The value half way along an axis: its middle element, or the mean of the two."""
    length = x.shape[axis]
    return x.slice([axis], [(length - 1) // 2], [length // 2 + 1]).mean(axis=axis, keepdim=True)
