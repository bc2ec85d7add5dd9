"""From an image tensor to logits and classes: whole image, sliding window, scales and flips.

Letters: N images, C classes, H and W of the network's input. Window sizes are (width, height), as in
PaddleSeg's YAML and flags.
"""

from dataclasses import dataclass
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.core.outputs import takes_at_input_size
from paddleseg.core.upsample import Resize, make_sheet, probabilities_argmax, resize, upsampled_argmax, windows_argmax
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.utils import logger

# Sliding windows go through the model together as long as they have no more pixels than this, two crops of 512 x 1024.
_WINDOW_BATCH_PX = 2 ** 20
HUGE_PX = 2 ** 24  # of the network's input; eight times an image of Cityscapes


@dataclass
class InferOptions:
    """How to infer; `test_config` in the YAML, flags of val.py and predict.py.

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


class Change(NamedTuple):
    """Of the size of logits: "resize", bilinearly, or "padding", which is cut off at right and below.

    `size` is the (height, width) after it.
    """

    name: str
    size: Tuple[int, int]
    align_corners: bool = False


class Part(NamedTuple):
    """Logits (N, C, h, w) of a window, or of a scale or a mirror image, the steps to their size, and where they lie."""

    logits: paddle.Tensor
    steps: List[Resize]
    box: Tuple[slice, slice]


def predict_classes(model: nn.Layer, image: paddle.Tensor, trans_info: List, options: InferOptions) -> paddle.Tensor:
    """Classes of one image at the size it had before its transforms; see `predict_batch`.

    Args:
        image: float32 (1, 3, H, W).
        trans_info: (name, (height, width)) before each resize or padding, in order.

    Returns: uint8 (height, width); int32 if C > 256.
    """
    return predict_batch(model, image, [trans_info], options)[0]


def predict_batch(model: nn.Layer, images: paddle.Tensor, trans_infos: Sequence[List],
                  options: InferOptions) -> List[paddle.Tensor]:
    """Classes of each image at the size it had before its transforms.

    Args:
        model: returns a list whose first item is logits (N, C, H, W). If its `forward` has an argument `at_input_size`,
            these are taken before the model resizes them (by F.interpolate with the model's `align_corners`), as their
            argmax is found faster together with the resize.
        images: float32 (N, 3, H, W).
        trans_infos: of each image, (name, (height, width)) before each resize or padding, in order.

    Returns: uint8 (height, width) of each; int32 if C > 256.
    """
    changes = [[Change(name, tuple(size)) for name, size in reversed(trans_info)] for trans_info in trans_infos]
    if not (options.aug_eval or options.is_slide):
        logits, steps = _coarse_logits(model, images)
        changes = [[*(Change("resize", step.size, step.align_corners) for step in steps), *own] for own in changes]
    elif options.aug_eval and options.is_slide or not (images.place.is_cpu_place() and takes_at_input_size(model)):
        logits = (augmented_logits if options.aug_eval else plain_logits)(model, images, options)
    else:
        parts = list((_changed_images if options.aug_eval else _windows)(model, images, options))
        size = tuple(images.shape[2:])
        return [_merged_classes([part._replace(logits=part.logits[index:index + 1]) for part in parts], size, own,
                                options.aug_eval) for index, own in enumerate(changes)]
    return [_classes_after(own, logits[index:index + 1]) for index, own in enumerate(changes)]


def warn_of_huge(path: str, size: Sequence[int], largest_px: int, options: InferOptions) -> int:
    """Say it if an image of this (H, W) goes through the model whole and is larger than any before.

    Args:
        largest_px: what this gave for the image before; HUGE_PX for the first one.

    Returns: the pixels of the largest image so far.
    """
    height, width = size
    if options.is_slide or height * width <= largest_px:
        return largest_px
    logger.warning(f"{path} goes through the model whole, {height}x{width} (height x width); if that takes more memory "
                   "than there is, add --is_slide --crop_size 1024 1024 --stride 768 768 (or set them in test_config)")
    return height * width


def _merged_classes(parts: Sequence[Part], size: Tuple[int, int], changes: Sequence[Change],
                    probabilities: bool) -> paddle.Tensor:
    """The largest class by the mean of windows or the sum of probabilities of one image, after `changes` of these."""
    crop = _crop_alone(changes, size)
    sheets = [make_sheet(part.logits, part.steps) for part in parts] if crop else [None]
    if any(sheet is None for sheet in sheets):
        return _classes_after(changes, _sum_of_probabilities(parts) if probabilities else _mean_of_windows(parts, size))
    if probabilities:
        return paddle.to_tensor(probabilities_argmax(sheets, crop))
    return paddle.to_tensor(windows_argmax(sheets, [part.box for part in parts], crop))


def _crop_alone(changes: Sequence[Change], size: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """The size after `changes` if they only cut off padding; else None."""
    for change in changes:
        if change.name == "resize" and change.size != size:
            return None
        size = tuple(min(pair) for pair in zip(size, change.size))
    return size


def _coarse_logits(model: nn.Layer, images: paddle.Tensor) -> Tuple[paddle.Tensor, List[Resize]]:
    """Logits as early as the model gives them, and how they come to the size of its input."""
    size = tuple(images.shape[2:])
    # towards a length of 1 our models don't resize as F.interpolate does
    if 1 in size or not takes_at_input_size(model):
        return model(images)[0], []
    return model(images, at_input_size=False)[0], [Resize(size, model.align_corners)]


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


def plain_logits(model: nn.Layer, images: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Logits (N, C, H, W) of the whole images or from sliding windows."""
    if not options.is_slide:
        return model(images)[0]
    return _mean_of_windows(_windows(model, images, options), images.shape[2:], images.place.is_cpu_place())


def augmented_logits(model: nn.Layer, images: paddle.Tensor, options: InferOptions) -> paddle.Tensor:
    """Class probabilities (N, C, H, W) summed over all scales and flips."""
    return _sum_of_probabilities(_changed_images(model, images, options))


def window_starts(length: int, crop: int, stride: int) -> List[int]:
    """Where windows begin along one side; the last one ends at the border."""
    last = max(length - crop, 0)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})


def _windows(model: nn.Layer, images: paddle.Tensor, options: InferOptions) -> Iterator[Part]:
    """Every window, from left to right and down."""
    (count, _, height, width), crop_size, stride = images.shape, options.crop_size, options.stride
    boxes = [(slice(top, min(top + crop_size[1], height)), slice(left, min(left + crop_size[0], width)))
             for top in window_starts(height, crop_size[1], stride[1])
             for left in window_starts(width, crop_size[0], stride[0])]
    together = options.slide_batch_size or max(1, _WINDOW_BATCH_PX // (count * crop_size[0] * crop_size[1]))
    pixels, pack = (images.numpy(), _packed_on_host) if images.place.is_cpu_place() else (images, paddle.concat)
    for first in range(0, len(boxes), together):
        batch = boxes[first:first + together]
        logits, steps = _coarse_logits(model, pack([pixels[:, :, rows, columns] for rows, columns in batch]))
        for start, box in zip(range(0, len(logits), count), batch):
            yield Part(logits[start:start + count], steps, box)


def _packed_on_host(windows: Sequence[np.ndarray]) -> paddle.Tensor:
    """As paddle.concat, in a quarter of the time that Paddle takes on a CPU for windows that lie in an image."""
    return paddle.to_tensor(np.concatenate(windows))


def _mean_of_windows(windows: Iterable[Part], size: Sequence[int], on_host: bool = True) -> paddle.Tensor:
    """The mean of all windows that cover a pixel.

    Paddle adds to a part of a tensor by copying all of it, 160 MB for each window of a Cityscapes image. A GPU does
    that in a millisecond; for a CPU, `on_host`, NumPy adds in place.
    """
    total, count = None, np.zeros(size, np.float32)
    for window in windows:
        values = _at_size(window).numpy() if on_host else _at_size(window)
        if total is None:
            total = (np if on_host else paddle).zeros([*values.shape[:2], *size], dtype=values.dtype)
        total[:, :, window.box[0], window.box[1]] += values
        count[window.box] += 1.0
    if not on_host:
        return total / paddle.to_tensor(count).astype(total.dtype)
    total /= count
    return paddle.to_tensor(total)


def _at_size(part: Part) -> paddle.Tensor:
    """Its logits after its steps."""
    logits = part.logits
    for step in part.steps:
        logits = _view_mirrored(resize(logits, step.size, step.align_corners), step.mirrored)
    return logits


def _changed_images(model: nn.Layer, images: paddle.Tensor, options: InferOptions) -> Iterator[Part]:
    """The images at every scale and mirrored in every way."""
    size = tuple(images.shape[2:])
    whole = slice(0, size[0]), slice(0, size[1])
    ways = [axes for axes in ([], [1], [0], [0, 1])
            if (1 not in axes or options.flip_horizontal) and (0 not in axes or options.flip_vertical)]
    for scale in options.scales:
        scaled = resize(images, [int(length * scale + 0.5) for length in size])
        for axes in ways:
            changed = _mirrored(scaled, axes)
            logits, steps = ((plain_logits(model, changed, options), []) if options.is_slide else
                             _coarse_logits(model, changed))
            scaled_size = tuple(scaled.shape[2:])
            align_corners = steps[0].align_corners if steps else False
            yield Part(logits, [Resize(scaled_size, align_corners, tuple(axes)), Resize(size)], whole)


def _sum_of_probabilities(parts: Iterable[Part]) -> paddle.Tensor:
    """Of all parts, which have one size after their steps."""
    total = None
    for part in parts:
        probabilities = F.softmax(_at_size(part), axis=1)
        total = probabilities if total is None else total.add_(probabilities)
    return total


def _mirrored(images: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
    """Mirrored along axes 0 (down) and 1 (across); NumPy takes less than half of Paddle's time on a CPU."""
    if not axes:
        return images
    numbers = [axis + 2 for axis in axes]
    if images.place.is_cpu_place():
        return paddle.to_tensor(np.ascontiguousarray(np.flip(images.numpy(), numbers)))
    return images.flip(numbers)


def _view_mirrored(tensor: paddle.Tensor, axes: Sequence[int]) -> paddle.Tensor:
    """As `flip`, but nothing is copied; of logits at the size of an image that is as slow as to interpolate them."""
    if not axes:
        return tensor
    return tensor[tuple(slice(None, None, -1 if axis - 2 in axes else 1) for axis in range(4))]
