"""PaddleSeg's geometric transforms: its names, arguments, defaults and numbers (transforms.py of 2.8.0).

As in PaddleSeg, target_size and crop_size are (width, height), and images are resized in float32.
"""

from typing import Optional, Sequence, Tuple, Union

import numpy as np

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.transforms import arrays, base, checks


@manager.TRANSFORMS.add_component
class Resize(base.RandomTransform):
    """Resize to target_size; labels by nearest neighbour.

    Args:
        target_size: (width, height).
        keep_ratio: instead of reaching target_size, fit into it: its long side bounds the image's long side,
            its short side the short one.
        size_divisor: raise both sides to a multiple of it.
        interp: NEAREST, LINEAR, CUBIC, AREA, LANCZOS4, or RANDOM for one of them per sample.

    Decision: the name of the interpolation.
    """

    def __init__(self, target_size: Sequence[int] = (512, 512), keep_ratio: bool = False,
                 size_divisor: Optional[int] = None, interp: str = "LINEAR"):
        self.target_size = checks.size("Resize", "target_size", target_size)[::-1]
        self.keep_ratio = keep_ratio
        self.size_divisor = size_divisor
        if size_divisor is not None:
            checks.integer("Resize", "size_divisor", size_divisor, low=1)
        self.interp = checks.one_of("Resize", "interp", interp, [*arrays.INTERPOLATIONS, "RANDOM"])

    def decide(self, data: dict) -> str:
        if self.interp != "RANDOM":
            return self.interp
        names = list(arrays.INTERPOLATIONS)
        return names[data["rng"].integers(len(names))]

    def apply(self, data: dict, decision: str) -> dict:
        size = self.target_size
        if self.keep_ratio:
            before = base.image_size(data)
            size = arrays.scaled_size(before, arrays.fit_scale(before, size))
        if self.size_divisor is not None:
            size = arrays.round_up(size, self.size_divisor)
        return base.resize_in_float(data, size, decision)


@manager.TRANSFORMS.add_component
class ResizeByLong:
    """Resize so that the long side is long_size pixels, keeping the aspect ratio."""

    def __init__(self, long_size: int):
        self.long_size = checks.integer("ResizeByLong", "long_size", long_size, low=1)

    def __call__(self, data: dict) -> dict:
        size = base.image_size(data)
        return base.resize_in_float(data, arrays.scaled_size(size, self.long_size / max(size)))


@manager.TRANSFORMS.add_component
class ResizeByShort(base.RandomTransform):
    """Resize so that the short side is short_size pixels, keeping the aspect ratio.

    Args:
        short_size: pixels, or a list of which each sample draws one.
        max_size: where the long side would exceed it, the short side becomes int(max_size * short / long).

    Decision: the short side in pixels, before max_size bounds it.
    """

    def __init__(self, short_size: Union[int, Sequence[int]], max_size: float = 1e10):
        sizes = short_size if isinstance(short_size, (list, tuple)) else [short_size]
        if not sizes:
            raise ConfigError("ResizeByShort: short_size is an empty list; give at least one size")
        self.short_sizes = [checks.integer("ResizeByShort", "short_size", size, low=1) for size in sizes]
        self.max_size = checks.number("ResizeByShort", "max_size", max_size, low=1)

    def decide(self, data: dict) -> int:
        if len(self.short_sizes) == 1:
            return self.short_sizes[0]
        return self.short_sizes[data["rng"].integers(len(self.short_sizes))]

    def apply(self, data: dict, decision: int) -> dict:
        size = base.image_size(data)
        short, long = min(size), max(size)
        if decision / short * long > self.max_size:
            decision = int(self.max_size / long * short)
        return base.resize_in_float(data, arrays.scaled_size(size, decision / short))


@manager.TRANSFORMS.add_component
class ResizeStepScaling(base.RandomTransform):
    """Scale both sides by a factor drawn from evenly spaced ones.

    Args:
        min_scale_factor, max_scale_factor: the smallest and the largest factor.
        scale_step_size: the spacing; 0 draws uniformly from the whole range.

    Decision: the factor.
    """

    def __init__(self, min_scale_factor: float = 0.75, max_scale_factor: float = 1.25,
                 scale_step_size: float = 0.25):
        self.low = checks.positive("ResizeStepScaling", "min_scale_factor", min_scale_factor)
        self.high = checks.number("ResizeStepScaling", "max_scale_factor (not below min_scale_factor)",
                                  max_scale_factor, low=self.low)
        self.step = checks.number("ResizeStepScaling", "scale_step_size", scale_step_size)

    def decide(self, data: dict) -> float:
        if self.low == self.high:
            return float(self.low)
        if self.step == 0:
            return float(data["rng"].uniform(self.low, self.high))
        factors = np.linspace(self.low, self.high, int((self.high - self.low) / self.step + 1))
        return float(data["rng"].choice(factors))

    def apply(self, data: dict, decision: float) -> dict:
        return base.resize_in_float(data, arrays.scaled_size(base.image_size(data), decision))


@manager.TRANSFORMS.add_component
class RandomPaddingCrop(base.RandomTransform):
    """Crop a random window; what the image lacks of it is padded at the bottom and the right.

    Args:
        crop_size: (width, height).
        im_padding_value: 0..255, one number or three (R, G, B).
        label_padding_value: the label of padded pixels.
        category_max_ratio: below 1, a window is drawn again while one class fills this share of its labelled
            pixels, or while it shows a single class. (PaddleSeg 2.8.0 has this argument, but then puts the
            label in the place of the image.)
        ignore_index: the label value that doesn't count as labelled.
        loop_times: how often a window may be drawn again.

    Decision: the window's (top, left).
    """

    def __init__(self, crop_size: Sequence[int] = (512, 512),
                 im_padding_value: Union[float, Sequence[float]] = 127.5, label_padding_value: int = 255,
                 category_max_ratio: float = 1.0, ignore_index: int = 255, loop_times: int = 10):
        owner = "RandomPaddingCrop"
        self.crop_size = checks.size(owner, "crop_size", crop_size)[::-1]
        self.image_value = checks.channels(owner, "im_padding_value", im_padding_value, 0, 255)
        self.label_value = checks.integer(owner, "label_padding_value", label_padding_value, 0, 255)
        self.max_ratio = checks.positive(owner, "category_max_ratio", category_max_ratio)
        self.ignore_index = checks.integer(owner, "ignore_index", ignore_index, 0, 255)
        self.tries = checks.integer(owner, "loop_times", loop_times, low=1)

    def decide(self, data: dict) -> Tuple[int, int]:
        return base.draw_corner(data, self.crop_size, self.max_ratio, self.ignore_index, self.tries)

    def apply(self, data: dict, decision: Tuple[int, int]) -> dict:
        cropped = base.crop(data, decision, self.crop_size)
        return base.pad(cropped, self.crop_size, self.image_value, self.label_value)


@manager.TRANSFORMS.add_component
class Padding:
    """Pad at the bottom and the right up to target_size.

    Placed after Normalize with im_padding_value 0, this is the padding of mmsegmentation's data preprocessor.

    Args:
        target_size: (width, height).
        im_padding_value: one number or three (R, G, B), in the image's values at this place of the list.
        label_padding_value: the label of padded pixels.

    Raises:
        DataError: the image is larger than target_size.
    """

    def __init__(self, target_size: Sequence[int], im_padding_value: Union[float, Sequence[float]] = 127.5,
                 label_padding_value: int = 255):
        self.target_size = checks.size("Padding", "target_size", target_size)[::-1]
        self.image_value = checks.channels("Padding", "im_padding_value", im_padding_value, -255, 255)
        self.label_value = checks.integer("Padding", "label_padding_value", label_padding_value, 0, 255)

    def __call__(self, data: dict) -> dict:
        height, width = base.image_size(data)
        if height > self.target_size[0] or width > self.target_size[1]:
            target = list(self.target_size[::-1])
            raise DataError(f"{data.get('path', 'image')} is larger here, [{width}, {height}], than "
                            f"Padding's target_size {target}; resize or crop it first, or raise target_size")
        remembered = base.remember_size(data, "padding")
        return base.pad(remembered, self.target_size, self.image_value, self.label_value)


@manager.TRANSFORMS.add_component
class RandomHorizontalFlip(base.RandomTransform):
    """Mirror left-right with probability prob. Decision: whether to."""

    def __init__(self, prob: float = 0.5):
        self.prob = checks.number("RandomHorizontalFlip", "prob", prob, high=1)

    def decide(self, data: dict) -> bool:
        return bool(data["rng"].random() < self.prob)

    def apply(self, data: dict, decision: bool) -> dict:
        return base.flip(data, "horizontal") if decision else data


@manager.TRANSFORMS.add_component
class RandomVerticalFlip(base.RandomTransform):
    """Mirror up-down with probability prob. Decision: whether to."""

    def __init__(self, prob: float = 0.1):
        self.prob = checks.number("RandomVerticalFlip", "prob", prob, high=1)

    def decide(self, data: dict) -> bool:
        return bool(data["rng"].random() < self.prob)

    def apply(self, data: dict, decision: bool) -> dict:
        return base.flip(data, "vertical") if decision else data
