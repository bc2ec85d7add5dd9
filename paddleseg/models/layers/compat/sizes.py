"""Sizes of feature maps in a graph that leaves some of them open."""

from typing import List, Union

import paddle


def shape_of(x: paddle.Tensor) -> List[Union[int, paddle.Tensor]]:
    """The shape of x as numbers; in an exported graph those that it leaves open are tensors, which reshape takes."""
    if paddle.in_dynamic_mode():
        return list(x.shape)
    return [paddle.shape(x)[axis] if length < 0 else length for axis, length in enumerate(x.shape)]
