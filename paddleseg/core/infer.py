"""Inference on an image tensor, to logits and classes: whole image, sliding window, scales and flips.

Letters: N images, C classes, H and W of the network's input. Window sizes are (width, height), as in
PaddleSeg's YAML and flags.
"""

from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple, Union

import paddle
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.utils import logger

# Sliding windows go through the model together as long as they have no more pixels than this, two crops of 512 x 1024.
_WINDOW_BATCH_PX = 2 ** 20
LARGE_PX = 2 ** 24  # of the network's input; eight times an image of Cityscapes
_RESIZED_VALUES = 2 ** 26  # of the scores that are resized at a time for their argmax

Forward = Callable[[paddle.Tensor], Sequence[paddle.Tensor]]  # a model: images to a list of outputs, logits first


@dataclass
class InferOptions:
    """Inference options: `test_config` in the YAML, flags of val.py and predict.py.

    Attributes:
        aug_eval: average the probabilities over scales and flips.
        scales: one scale or several; used with aug_eval.
        flip_horizontal, flip_vertical: average over mirrored images too; used with aug_eval.
        is_slide: slide a window of `crop_size` by `stride`, both (width, height).
        slide_batch_size: windows of each image that go through the model together; None for as many as have the pixels
            of two crops of 512 x 1024. A GPU may be faster with more.
        eval_batch_size: images that go through the model together in an evaluation, as far as they are of one size.
            A CPU gains nothing by it; val.py's --batch_size.
    """

    aug_eval: bool = False
    scales: Union[float, Sequence[float]] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: Optional[Tuple[int, int]] = None
    stride: Optional[Tuple[int, int]] = None
    slide_batch_size: Optional[int] = None
    eval_batch_size: int = 1

    def __post_init__(self):
        for name in ("slide_batch_size", "eval_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"test_config.{name}: {getattr(self, name)} is below 1")
        self.scales = [self.scales] if isinstance(self.scales, (int, float)) else list(self.scales)
        if min(self.scales, default=0) <= 0:
            raise ConfigError(f"test_config.scales {self.scales}: at least one scale above 0 is needed")
        if not self.aug_eval and (self.flip_horizontal or self.flip_vertical or self.scales != [1.0]):
            raise ConfigError("scales and flips take effect only with aug_eval (--aug_eval; predict.py: --aug_pred)")
        if not self.is_slide:
            if self.crop_size or self.stride or self.slide_batch_size:
                raise ConfigError("crop_size, stride and slide_batch_size take effect only with is_slide (--is_slide)")
            return
        if not self.crop_size or not self.stride:
            raise ConfigError("is_slide needs crop_size and stride, such as --crop_size 1024 512 --stride 768 384")
        if min(*self.crop_size, *self.stride) < 1 or any(s > c for s, c in zip(self.stride, self.crop_size)):
            raise ConfigError(f"stride {tuple(self.stride)} must be at least 1 and at most crop_size "
                              f"{tuple(self.crop_size)}, or pixels between two windows are left out")


def predict_classes(model: Forward, image: paddle.Tensor, trans_info: List, options: InferOptions) -> paddle.Tensor:
    """Classes of one image (1, 3, H, W) at the size it had before its transforms; see `predict_batch`."""
    return predict_batch(model, image, [trans_info], options)[0]


def predict_batch(model: Forward, images: paddle.Tensor, trans_infos: Sequence[List],
                  options: InferOptions) -> List[paddle.Tensor]:
    """Classes of each image at the size it had before its transforms.

    Args:
        model: returns a list whose first item is logits (N, C, H, W).
        images: float32 (N, 3, H, W).
        trans_infos: of each image, (name, (height, width)) before each resize or padding, in order.

    Returns: uint8 (height, width) of each; int32 if C > 256.
    """
    scores = (augmented_probabilities if options.aug_eval else plain_logits)(model, images, options)
    return [_undo_and_argmax(scores[index:index + 1], trans_info) for index, trans_info in enumerate(trans_infos)]


def warn_large_image(path: str, size: Sequence[int], largest_px: int, options: InferOptions) -> int:
    """Warn if an image of this (H, W) goes through the model whole and is larger than any before.

    Args:
        largest_px: what this returned for the image before; LARGE_PX for the first one.

    Returns: the pixels of the largest image so far.
    """
    height, width = size
    if options.is_slide or height * width <= largest_px:
        return largest_px
    logger.warning(f"{path} goes through the model whole, {height}x{width} (height x width); if that takes more memory "
                   "than there is, add --is_slide --crop_size 1024 1024 --stride 768 768 (or set them in test_config)")
    return height * width


def _undo_and_argmax(scores: paddle.Tensor, trans_info: List) -> paddle.Tensor:
    """Undo resizes and paddings of (1, C, H, W), the last one first, and take the largest class of each pixel."""
    resized_first = bool(trans_info) and trans_info[0][0] == "resize"
    for name, (height, width) in reversed(trans_info[resized_first:]):
        scores = scores[:, :, :height, :width] if name == "padding" else resize(scores, (height, width))
    return resized_argmax(scores, trans_info[0][1] if resized_first else scores.shape[2:])


def resized_argmax(scores: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Return the first largest class of each pixel of (1, C, h, w) resized to `size`; uint8, or int32 if C > 256.

    A photograph of 150 classes may have more scores at its full size than there is memory, so a few classes are
    resized at a time.
    """
    num_classes = scores.shape[1]
    together = max(1, _RESIZED_VALUES // (size[0] * size[1]))
    largest = classes = None
    for first in range(0, num_classes, together):
        part = resize(scores[:, first:first + together], size)
        winner = paddle.argmax(part, axis=1, dtype="int32") + first
        value = part.max(axis=1) if together < num_classes else None
        if classes is None:
            largest, classes = value, winner
        else:
            classes = paddle.where(value > largest, winner, classes)
            largest = paddle.maximum(value, largest)
    return classes[0].astype("uint8" if num_classes <= 256 else "int32")


def resize(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, *size)."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear")


def plain_logits(model: Forward, images: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Logits (N, C, H, W) of the whole images, or the mean of those of all sliding windows over a pixel."""
    if not options.is_slide:
        return model(images)[0]
    count, _, height, width = images.shape
    boxes = window_boxes((height, width), options)
    together = options.slide_batch_size or max(1, _WINDOW_BATCH_PX // (count * options.crop_size[0]
                                                                       * options.crop_size[1]))
    total, covered = None, paddle.zeros([height, width])
    for first in range(0, len(boxes), together):
        batch = boxes[first:first + together]
        logits = model(paddle.concat([images[:, :, rows, columns] for rows, columns in batch]))[0]
        if total is None:
            total = paddle.zeros([count, logits.shape[1], height, width], logits.dtype)
        for window, (rows, columns) in zip(logits.split(len(batch)), batch):
            total[:, :, rows, columns] += window
            covered[rows, columns] += 1.0
    return total / covered.astype(total.dtype)


def window_boxes(size: Tuple[int, int], options: InferOptions) -> List[Tuple[slice, slice]]:
    """The rows and columns of every window over (H, W), from left to right and down."""
    (height, width), (crop_width, crop_height), (right, down) = size, options.crop_size, options.stride
    return [(slice(top, min(top + crop_height, height)), slice(left, min(left + crop_width, width)))
            for top in window_starts(height, crop_height, down) for left in window_starts(width, crop_width, right)]


def window_starts(length: int, crop: int, stride: int) -> List[int]:
    """Return the starts of windows along one side; the last one ends at the border."""
    last = max(length - crop, 0)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})


def augmented_probabilities(model: Forward, images: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Class probabilities (N, C, H, W) summed over all scales and flips."""
    size, total = images.shape[2:], 0.0
    flips = [axes for axes in ([], [3], [2], [2, 3])
             if (3 not in axes or options.flip_horizontal) and (2 not in axes or options.flip_vertical)]
    for scale in options.scales:
        scaled = resize(images, [int(length * scale + 0.5) for length in size])
        for axes in flips:
            logits = plain_logits(model, scaled.flip(axes) if axes else scaled, options)
            total = total + F.softmax(resize(logits.flip(axes) if axes else logits, size), axis=1)
    return total
