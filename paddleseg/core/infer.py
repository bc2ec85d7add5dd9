"""From an image tensor to logits and classes: whole image, sliding window, scales and flips.

Letters: N images, C classes, H and W of the network's input. Window sizes are (width, height), as in
PaddleSeg's YAML and flags.
"""

import itertools
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple, Union

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError


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


def predict_classes(model: nn.Layer, image: paddle.Tensor, trans_info: List, options: InferOptions) -> paddle.Tensor:
    """Classes of one image at the size it had before its transforms.

    Args:
        image: float32 (1, 3, H, W).
        trans_info: (name, (height, width)) before each resize or padding, in order.

    Returns: int32 (height, width).
    """
    logits = augmented_logits(model, image, options) if options.aug_eval else plain_logits(model, image, options)
    return restore_size(logits, trans_info).argmax(axis=1)[0].astype("int32")


def restore_size(logits: paddle.Tensor, trans_info: List) -> paddle.Tensor:
    """Undo the resizes and paddings of `trans_info`, last one first."""
    for name, (height, width) in reversed(trans_info):
        if name == "padding":
            logits = logits[:, :, :height, :width]
        else:
            logits = _resize(logits, height, width)
    return logits


def _resize(tensor: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    if list(tensor.shape[2:]) == [height, width]:
        return tensor
    return F.interpolate(tensor, [height, width], mode="bilinear", align_corners=False)


def plain_logits(model: nn.Layer, image: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Logits (N, C, H, W) of the whole image or from sliding windows."""
    return _sliding_logits(model, image, options.crop_size, options.stride) if options.is_slide else model(image)[0]


def window_starts(length: int, crop: int, stride: int) -> List[int]:
    """Where windows begin along one side; the last one ends at the border."""
    last = max(length - crop, 0)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})


def _sliding_logits(model, image, crop_size, stride) -> paddle.Tensor:
    """The mean of all windows that cover a pixel."""
    height, width = image.shape[2:]
    tops = window_starts(height, crop_size[1], stride[1])
    lefts = window_starts(width, crop_size[0], stride[0])
    total, count = None, paddle.zeros([1, 1, height, width], dtype=image.dtype)
    for top, left in itertools.product(tops, lefts):
        rows, columns = slice(top, top + crop_size[1]), slice(left, left + crop_size[0])
        logits = model(image[:, :, rows, columns])[0]
        if total is None:
            total = paddle.zeros([logits.shape[0], logits.shape[1], height, width], dtype=logits.dtype)
        total[:, :, rows, columns] = total[:, :, rows, columns] + logits
        count[:, :, rows, columns] = count[:, :, rows, columns] + 1.0
    return total / count.astype(total.dtype)


def augmented_logits(model: nn.Layer, image: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Class probabilities (N, C, H, W) summed over all scales and flips."""
    height, width = image.shape[2:]
    flips = [axes for axes in ([], [3], [2], [2, 3])
             if (3 not in axes or options.flip_horizontal) and (2 not in axes or options.flip_vertical)]
    total = 0.0
    for scale, axes in itertools.product(options.scales, flips):
        scaled = _resize(image, int(height * scale + 0.5), int(width * scale + 0.5))
        logits = plain_logits(model, scaled.flip(axes) if axes else scaled, options)
        logits = logits.flip(axes) if axes else logits
        total = total + F.softmax(_resize(logits, height, width), axis=1)
    return total
