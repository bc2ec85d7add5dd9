"""From an image tensor to logits and classes: whole image, sliding window, scales and flips.

Letters: N images, C classes, H and W of the network's input. Window sizes are (width, height), as in
PaddleSeg's YAML and flags.
"""

import inspect
import itertools
from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.core.upsample import resize, upsampled_argmax
from paddleseg.cvlibs.errors import ConfigError

# Sliding windows go through the model together as long as they have no more pixels than this, two crops of 512 x 1024.
_WINDOW_BATCH_PX = 2 ** 20


@dataclass
class InferOptions:
    """How to infer; `test_config` in the YAML, flags of val.py and predict.py.

    Attributes:
        aug_eval: average the probabilities over scales and flips.
        scales: one scale or several; used with aug_eval.
        flip_horizontal, flip_vertical: average over mirrored images too; used with aug_eval.
        is_slide: slide a window of `crop_size` by `stride`, both (width, height).
    """

    aug_eval: bool = False
    scales: Union[float, Sequence[float]] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: Optional[Tuple[int, int]] = None
    stride: Optional[Tuple[int, int]] = None

    def __post_init__(self):
        self.scales = [self.scales] if isinstance(self.scales, (int, float)) else list(self.scales)
        if min(self.scales, default=0) <= 0:
            raise ConfigError(f"test_config.scales {self.scales}: at least one scale above 0 is needed")
        if not self.aug_eval and (self.flip_horizontal or self.flip_vertical or self.scales != [1.0]):
            raise ConfigError("scales and flips take effect only with aug_eval (--aug_eval; predict.py: --aug_pred)")
        if not self.is_slide:
            if self.crop_size or self.stride:
                raise ConfigError("crop_size and stride take effect only with is_slide (--is_slide)")
            return
        if not self.crop_size or not self.stride:
            raise ConfigError("is_slide needs crop_size and stride, such as --crop_size 1024 512 --stride 768 384")
        if min(*self.crop_size, *self.stride) < 1 or any(s > c for s, c in zip(self.stride, self.crop_size)):
            raise ConfigError(f"stride {tuple(self.stride)} must be at least 1 and at most crop_size "
                              f"{tuple(self.crop_size)}, or pixels between two windows are left out")


class Change(NamedTuple):
    """Of the size of logits: "resize", bilinearly, or "padding", which is cut off at right and below.

    `size` is the (height, width) after it.
    """

    name: str
    size: Tuple[int, int]
    align_corners: bool = False


def predict_classes(model: nn.Layer, image: paddle.Tensor, trans_info: List, options: InferOptions) -> paddle.Tensor:
    """Classes of one image at the size it had before its transforms.

    Args:
        model: returns a list whose first item is logits (1, C, H, W). If its `forward` has an argument `at_input_size`,
            these are taken before the model resizes them (by F.interpolate with the model's `align_corners`), as their
            argmax is found faster together with the resize.
        image: float32 (1, 3, H, W).
        trans_info: (name, (height, width)) before each resize or padding, in order.

    Returns: uint8 (height, width); int32 if C > 256.
    """
    if options.aug_eval:
        logits, changes = augmented_logits(model, image, options), []
    elif options.is_slide:
        logits, changes = plain_logits(model, image, options), []
    else:
        logits, changes = _coarse_logits(model, image)
    changes = changes + [Change(name, tuple(size)) for name, size in reversed(trans_info)]
    return _classes_after(changes, logits)


def _coarse_logits(model: nn.Layer, image: paddle.Tensor) -> Tuple[paddle.Tensor, List[Change]]:
    """Logits as early as the model gives them, and what is still to be done to them."""
    size = tuple(image.shape[2:])
    # towards a length of 1 our models don't resize as F.interpolate does
    if 1 in size or not _takes_at_input_size(model):
        return model(image)[0], []
    return model(image, at_input_size=False)[0], [Change("resize", size, model.align_corners)]


def _takes_at_input_size(model: nn.Layer) -> bool:
    try:
        return "at_input_size" in inspect.signature(model.forward).parameters
    except ValueError:  # of a forward that paddle.jit.to_static has made, on Paddle 3
        return False


def _classes_after(changes: Sequence[Change], logits: paddle.Tensor) -> paddle.Tensor:
    """The largest class of each pixel after `changes` of (1, C, h, w); the last resize makes no tensor of logits."""
    size, effective = tuple(logits.shape[2:]), []
    for change in changes:
        if change.name == "padding":
            change = change._replace(size=tuple(min(pair) for pair in zip(size, change.size)))
        if change.size != size:
            effective.append(change)
        size = change.size
    while effective and effective[-1].name == "padding":
        effective.pop()  # `size` has them all
    last = effective.pop() if effective else Change("resize", tuple(logits.shape[2:]))
    for change in effective:
        logits = _changed(logits, change)
    return upsampled_argmax(logits, last.size, last.align_corners, crop=size)


def _changed(logits: paddle.Tensor, change: Change) -> paddle.Tensor:
    if change.name == "padding":
        return logits[:, :, :change.size[0], :change.size[1]]
    return resize(logits, change.size, change.align_corners)


def plain_logits(model: nn.Layer, image: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Logits (N, C, H, W) of the whole image or from sliding windows."""
    if not options.is_slide:
        return model(image)[0]
    return _sliding_logits(model, image, options.crop_size, options.stride, on_host=image.place.is_cpu_place())


def window_starts(length: int, crop: int, stride: int) -> List[int]:
    """Where windows begin along one side; the last one ends at the border."""
    last = max(length - crop, 0)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})


def _sliding_logits(model, image, crop_size, stride, on_host: bool) -> paddle.Tensor:
    """The mean of all windows that cover a pixel.

    Paddle adds to a part of a tensor by copying all of it, 160 MB for each window of a Cityscapes image. A GPU does
    that in a millisecond; for a CPU, `on_host`, NumPy adds in place.
    """
    height, width = image.shape[2:]
    total, count = None, np.zeros([height, width], np.float32)
    for rows, columns, logits in _window_logits(model, image, crop_size, stride):
        values = logits.numpy() if on_host else logits
        if total is None:
            total = (np if on_host else paddle).zeros([*values.shape[:2], height, width], dtype=values.dtype)
        total[:, :, rows, columns] += values
        count[rows, columns] += 1.0
    if not on_host:
        return total / paddle.to_tensor(count).astype(total.dtype)
    total /= count
    return paddle.to_tensor(total)


def _window_logits(model, image, crop_size, stride) -> Iterator[Tuple[slice, slice, paddle.Tensor]]:
    """The rows, columns and logits of every window."""
    height, width = image.shape[2:]
    windows = [(slice(top, top + crop_size[1]), slice(left, left + crop_size[0]))
               for top in window_starts(height, crop_size[1], stride[1])
               for left in window_starts(width, crop_size[0], stride[0])]
    together = max(1, _WINDOW_BATCH_PX // (image.shape[0] * crop_size[0] * crop_size[1]))
    for first in range(0, len(windows), together):
        batch = windows[first:first + together]
        logits = model(paddle.concat([image[:, :, rows, columns] for rows, columns in batch]))[0]
        for start, (rows, columns) in zip(range(0, len(logits), image.shape[0]), batch):
            yield rows, columns, logits[start:start + image.shape[0]]


def augmented_logits(model: nn.Layer, image: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Class probabilities (N, C, H, W) summed over all scales and flips."""
    size = image.shape[2:]
    flips = [axes for axes in ([], [3], [2], [2, 3])
             if (3 not in axes or options.flip_horizontal) and (2 not in axes or options.flip_vertical)]
    total = None
    for scale, axes in itertools.product(options.scales, flips):
        scaled = resize(image, [int(length * scale + 0.5) for length in size])
        logits = plain_logits(model, scaled.flip(axes) if axes else scaled, options)
        probabilities = F.softmax(resize(_view_flipped(logits, axes), size), axis=1)
        total = probabilities if total is None else total.add_(probabilities)
    return total


def _view_flipped(tensor: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
    """As `flip`, but nothing is copied; of logits at the size of an image that is as slow as to interpolate them."""
    return tensor[tuple(slice(None, None, -1 if axis in axes else 1) for axis in range(4))]
