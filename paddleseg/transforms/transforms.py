"""PaddleSeg's transforms: its names, arguments, defaults and numbers (transforms.py of 2.8.0).

As in PaddleSeg, target_size and crop_size are (width, height), and images are resized in float32.
"""

from typing import List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.transforms import checks, ops
from paddleseg.transforms.base import RandomMirror, RandomTransform

_BLURS = {
    "gaussian": lambda image, kernel: cv2.GaussianBlur(image, (kernel, kernel), 0),
    "median": cv2.medianBlur,
    "blur": lambda image, kernel: cv2.blur(image, (kernel, kernel)),
}


@manager.TRANSFORMS.add_component
class Resize(RandomTransform):
    """Resize to target_size; labels by nearest neighbour.

    Args:
        target_size: (width, height).
        keep_ratio: instead of reaching target_size, fit into it: its long side bounds the image's long side,
            its short side the short one.
        size_divisor: raise both sides to a multiple of it.
        interp: NEAREST, LINEAR, CUBIC, AREA, LANCZOS4, or RANDOM for one of them per sample.

    Decision: the name of the interpolation.
    """

    role = "resize"

    def __init__(self, target_size: Sequence[int] = (512, 512), keep_ratio: bool = False,
                 size_divisor: Optional[int] = None, interp: str = "LINEAR"):
        self.target_size = checks.size("Resize", "target_size", target_size)[::-1]
        self.keep_ratio = keep_ratio
        self.size_divisor = size_divisor
        if size_divisor is not None:
            checks.integer("Resize", "size_divisor", size_divisor, low=1)
        self.interp = checks.one_of("Resize", "interp", interp, [*ops.INTERPOLATIONS, "RANDOM"])

    def decide(self, data: dict) -> str:
        if self.interp != "RANDOM":
            return self.interp
        names = list(ops.INTERPOLATIONS)
        return names[data["rng"].integers(len(names))]

    def apply(self, data: dict, decision: str) -> dict:
        size = self.target_size
        if self.keep_ratio:
            before = ops.image_size(data)
            size = ops.scaled_size(before, ops.fit_scale(before, size))
        if self.size_divisor is not None:
            size = ops.round_up(size, self.size_divisor)
        return ops.resize_sample_in_float(data, size, decision)


@manager.TRANSFORMS.add_component
class ResizeByLong:
    """Resize so that the long side is long_size pixels, keeping the aspect ratio."""

    role = "resize"

    def __init__(self, long_size: int):
        self.long_size = checks.integer("ResizeByLong", "long_size", long_size, low=1)

    def __call__(self, data: dict) -> dict:
        size = ops.image_size(data)
        return ops.resize_sample_in_float(data, ops.scaled_size(size, self.long_size / max(size)))


@manager.TRANSFORMS.add_component
class ResizeByShort(RandomTransform):
    """Resize so that the short side is short_size pixels, keeping the aspect ratio.

    Args:
        short_size: pixels, or a list of which each sample draws one.
        max_size: where the long side would exceed it, the short side becomes int(max_size * short / long).

    Decision: the short side in pixels, before max_size bounds it.
    """

    role = "resize"

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
        size = ops.image_size(data)
        short, long = min(size), max(size)
        if decision / short * long > self.max_size:
            decision = int(self.max_size / long * short)
        return ops.resize_sample_in_float(data, ops.scaled_size(size, decision / short))


@manager.TRANSFORMS.add_component
class ResizeStepScaling(RandomTransform):
    """Scale both sides by a factor drawn from evenly spaced ones.

    Args:
        min_scale_factor, max_scale_factor: the smallest and the largest factor.
        scale_step_size: the spacing; 0 draws uniformly from the whole range.

    Decision: the factor.
    """

    role = "resize"

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
        return ops.resize_sample_in_float(data, ops.scaled_size(ops.image_size(data), decision))


@manager.TRANSFORMS.add_component
class RandomPaddingCrop(RandomTransform):
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

    role = "crop"

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
        return ops.draw_corner(data, self.crop_size, self.max_ratio, self.ignore_index, self.tries)

    def apply(self, data: dict, decision: Tuple[int, int]) -> dict:
        cropped = ops.crop_sample(data, decision, self.crop_size)
        return ops.pad_sample(cropped, self.crop_size, self.image_value, self.label_value)


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

    role = "pad"

    def __init__(self, target_size: Sequence[int], im_padding_value: Union[float, Sequence[float]] = 127.5,
                 label_padding_value: int = 255):
        self.target_size = checks.size("Padding", "target_size", target_size)[::-1]
        self.image_value = checks.channels("Padding", "im_padding_value", im_padding_value, -255, 255)
        self.label_value = checks.integer("Padding", "label_padding_value", label_padding_value, 0, 255)

    def __call__(self, data: dict) -> dict:
        height, width = ops.image_size(data)
        if height > self.target_size[0] or width > self.target_size[1]:
            target = list(self.target_size[::-1])
            raise DataError(f"{data.get('path', 'image')} is larger here, [{width}, {height}], than "
                            f"Padding's target_size {target}; resize or crop it first, or raise target_size")
        remembered = ops.remember_size(data, "padding")
        return ops.pad_sample(remembered, self.target_size, self.image_value, self.label_value)


@manager.TRANSFORMS.add_component
class RandomHorizontalFlip(RandomMirror):
    """Mirror left-right with probability prob."""

    role = "flip"

    def __init__(self, prob: float = 0.5):
        super().__init__(prob, "horizontal")


@manager.TRANSFORMS.add_component
class RandomVerticalFlip(RandomMirror):
    """Mirror up-down with probability prob."""

    role = "flip"

    def __init__(self, prob: float = 0.1):
        super().__init__(prob, "vertical")


@manager.TRANSFORMS.add_component
class RandomDistort(RandomTransform):
    """Change brightness, contrast, saturation, hue and sharpness in random order, each with its probability.

    Works on uint8 with Pillow's enhancers; fractions are cut off even if nothing is changed, as in PaddleSeg.

    Args:
        *_range: the factor is drawn from 1 - range to 1 + range; the shift of hue from -range to range, in
            1/256 of the colour circle.
        *_prob: the probability of each change.

    Decision: the changes to make, [(name, factor or shift), ...], in order.
    """

    role = "distort"

    def __init__(self, brightness_range: float = 0.5, brightness_prob: float = 0.5,
                 contrast_range: float = 0.5, contrast_prob: float = 0.5,
                 saturation_range: float = 0.5, saturation_prob: float = 0.5,
                 hue_range: float = 18, hue_prob: float = 0.5,
                 sharpness_range: float = 0.5, sharpness_prob: float = 0):
        self.changes = {
            "brightness": (brightness_range, brightness_prob),
            "contrast": (contrast_range, contrast_prob),
            "saturation": (saturation_range, saturation_prob),
            "sharpness": (sharpness_range, sharpness_prob),
            "hue": (hue_range, hue_prob),
        }
        for name, (spread, prob) in self.changes.items():
            checks.number("RandomDistort", f"{name}_range", spread, high=128 if name == "hue" else None)
            checks.number("RandomDistort", f"{name}_prob", prob, high=1)

    def decide(self, data: dict) -> List[Tuple[str, float]]:
        rng = data["rng"]
        names = list(self.changes)
        decision = []
        for index in rng.permutation(len(names)):
            spread, prob = self.changes[names[index]]
            if rng.random() < prob:
                centre = 0 if names[index] == "hue" else 1
                decision.append((names[index], float(rng.uniform(centre - spread, centre + spread))))
        return decision

    def apply(self, data: dict, decision: Sequence[Tuple[str, float]]) -> dict:
        return ops.change(data, lambda image: ops.enhance(ops.as_uint8(image), decision))


@manager.TRANSFORMS.add_component
class RandomBlur(RandomTransform):
    """Blur with probability prob, on uint8, with an odd kernel of 3 to 9 pixels.

    Args:
        prob: the probability. (PaddleSeg blurs with 1 / int(1 / prob): always, if prob is above one half.)
        blur_type: gaussian, median, blur (the mean), or random for one of them per sample.

    Decision: None, or (blur type, kernel size in pixels).
    """

    role = "blur"

    def __init__(self, prob: float = 0.1, blur_type: str = "gaussian"):
        self.prob = checks.number("RandomBlur", "prob", prob, high=1)
        self.blur_type = checks.one_of("RandomBlur", "blur_type", blur_type, [*_BLURS, "random"])

    def decide(self, data: dict) -> Optional[Tuple[str, int]]:
        rng = data["rng"]
        if rng.random() >= self.prob:
            return None
        kernel = int(rng.integers(3, 10)) // 2 * 2 + 1  # PaddleSeg's: 3, 5, 5, 7, 7, 9, 9
        if self.blur_type != "random":
            return self.blur_type, kernel
        draw = rng.random()
        return "gaussian" if draw < 0.3 else "median" if draw < 0.6 else "blur", kernel

    def apply(self, data: dict, decision: Optional[Tuple[str, int]]) -> dict:
        if decision is None:
            return data
        blur_type, kernel = decision
        return ops.change(data, lambda image: _BLURS[blur_type](ops.as_uint8(image), kernel))


@manager.TRANSFORMS.add_component
class Normalize:
    """(image / 255 - mean) / std, in float32, with one mean and std or one per channel (R, G, B).

    mean and std are on the scale 0..1: mmsegmentation's 123.675 and 58.395 are 0.485 and 0.229 here.
    """

    role = "normalize"

    def __init__(self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)):
        self.mean = checks.channels("Normalize", "mean (123.675 is 0.485 here)", mean, 0, 1)
        self.std = checks.channels("Normalize", "std (58.395 is 0.229 here)", std, 1e-6, 1)

    def __call__(self, data: dict) -> dict:
        return ops.change(data, lambda image: ops.normalize(image, self.mean, self.std))
