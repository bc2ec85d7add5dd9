"""mmsegmentation's training transforms: names, arguments, defaults and numbers of mmseg 1.2.2 and mmcv 2.1.0.

As there, images stay uint8 until Normalize, and are resized so. crop_size is (height, width), but scale is
(width, height), as mmsegmentation has them. RandomCrop doesn't pad: `Normalize` and then `Padding` with
im_padding_value 0 and label_padding_value 255 do what mmsegmentation's data preprocessor does.
"""

from typing import List, Sequence, Tuple

from paddleseg.cvlibs import manager
from paddleseg.transforms import checks, ops
from paddleseg.transforms.base import RandomMirror, RandomTransform

_DISTORTIONS = {
    "brightness": lambda image, shift: ops.linear_uint8(image, shift=shift),
    "contrast": lambda image, scale: ops.linear_uint8(image, scale=scale),
    "saturation": ops.scale_saturation_hsv,
    "hue": ops.shift_hue_hsv,
}


@manager.TRANSFORMS.add_component
class RandomResize(RandomTransform):
    """Resize to scale times one ratio, drawn uniformly from ratio_range.

    Args:
        scale: (width, height).
        ratio_range: (low, high).
        keep_ratio: instead of reaching the drawn size, fit into it: its long side bounds the image's long
            side, its short side the short one.

    Decision: the drawn size (width, height).
    """

    role = "resize"

    def __init__(self, scale: Sequence[int], ratio_range: Sequence[float], keep_ratio: bool = True):
        self.scale = checks.size("RandomResize", "scale", scale)
        self.ratio_range = checks.ordered("RandomResize", "ratio_range", ratio_range)
        checks.positive("RandomResize", "the low end of ratio_range", self.ratio_range[0])
        self.keep_ratio = keep_ratio

    def decide(self, data: dict) -> Tuple[int, int]:
        ratio = data["rng"].uniform(*self.ratio_range)
        return max(1, int(self.scale[0] * ratio)), max(1, int(self.scale[1] * ratio))

    def apply(self, data: dict, decision: Tuple[int, int]) -> dict:
        width, height = decision
        size = height, width
        if self.keep_ratio:
            before = ops.image_size(data)
            ratio = ops.fit_scale(before, size)
            size = tuple(max(1, int(side * ratio + 0.5)) for side in before)
        return ops.resize_sample(data, size)


@manager.TRANSFORMS.add_component
class RandomCrop(RandomTransform):
    """Crop a random window; an image smaller than it keeps its size.

    Args:
        crop_size: (height, width).
        cat_max_ratio: below 1, a window is drawn again, up to ten times, while one class fills this share of
            its labelled pixels, or while it shows a single class.
        ignore_index: the label value that doesn't count as labelled.

    Decision: the window's (top, left).
    """

    role = "crop"

    def __init__(self, crop_size: Sequence[int], cat_max_ratio: float = 1.0, ignore_index: int = 255):
        self.crop_size = checks.size("RandomCrop", "crop_size", crop_size, order="(height, width)")
        self.max_ratio = checks.positive("RandomCrop", "cat_max_ratio", cat_max_ratio)
        self.ignore_index = checks.integer("RandomCrop", "ignore_index", ignore_index, 0, 255)

    def decide(self, data: dict) -> Tuple[int, int]:
        return ops.draw_corner(data, self.crop_size, self.max_ratio, self.ignore_index, tries=10)

    def apply(self, data: dict, decision: Tuple[int, int]) -> dict:
        return ops.crop_sample(data, decision, self.crop_size)


@manager.TRANSFORMS.add_component
class RandomFlip(RandomMirror):
    """Mirror horizontally, vertically or diagonally (both) with probability prob."""

    role = "flip"

    def __init__(self, prob: float = 0.5, direction: str = "horizontal"):
        super().__init__(prob, direction)


@manager.TRANSFORMS.add_component
class PhotoMetricDistortion(RandomTransform):
    """Change brightness, contrast, saturation and hue, each with probability one half.

    Contrast comes second or last, by the toss of a coin. Works on uint8 RGB, for saturation and hue in
    OpenCV's 8-bit HSV.

    Args:
        brightness_delta: the brightness is shifted by -delta to delta, in 0..255.
        contrast_range, saturation_range: the factor's (low, high).
        hue_delta: the hue is shifted by -delta to delta - 1 steps of 2 degrees.

    Decision: the changes to make, [(name, factor or shift), ...], in order.
    """

    role = "distort"

    def __init__(self, brightness_delta: float = 32, contrast_range: Sequence[float] = (0.5, 1.5),
                 saturation_range: Sequence[float] = (0.5, 1.5), hue_delta: int = 18):
        owner = "PhotoMetricDistortion"
        self.brightness_delta = checks.number(owner, "brightness_delta", brightness_delta, high=255)
        self.contrast_range = checks.ordered(owner, "contrast_range", contrast_range)
        self.saturation_range = checks.ordered(owner, "saturation_range", saturation_range)
        self.hue_delta = checks.integer(owner, "hue_delta", hue_delta, 0, 90)

    def decide(self, data: dict) -> List[Tuple[str, float]]:
        rng = data["rng"]
        draws = {
            "brightness": lambda: float(rng.uniform(-self.brightness_delta, self.brightness_delta)),
            "contrast": lambda: float(rng.uniform(*self.contrast_range)),
            "saturation": lambda: float(rng.uniform(*self.saturation_range)),
            "hue": lambda: int(rng.integers(-self.hue_delta, max(self.hue_delta, 1))),
        }
        order = ["brightness", "saturation", "hue"]
        order.insert(1 if rng.integers(2) else 3, "contrast")
        return [(name, draws[name]()) for name in order if rng.integers(2)]

    def apply(self, data: dict, decision: Sequence[Tuple[str, float]]) -> dict:
        image = ops.as_uint8(data["img"])
        for name, amount in decision:
            image = _DISTORTIONS[name](image, amount)
        return {**data, "img": image}
