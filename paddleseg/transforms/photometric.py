"""PaddleSeg's photometric transforms: its names, arguments, defaults and numbers (transforms.py of 2.8.0)."""

from typing import List, Optional, Sequence, Tuple

import cv2

from paddleseg.cvlibs import manager
from paddleseg.transforms import arrays, base, checks

_BLURS = {
    "gaussian": lambda image, kernel: cv2.GaussianBlur(image, (kernel, kernel), 0),
    "median": cv2.medianBlur,
    "blur": lambda image, kernel: cv2.blur(image, (kernel, kernel)),
}


@manager.TRANSFORMS.add_component
class RandomDistort(base.RandomTransform):
    """Change brightness, contrast, saturation, hue and sharpness in random order, each with its probability.

    Works on uint8 with Pillow's enhancers; fractions are cut off even if nothing is changed, as in PaddleSeg.

    Args:
        *_range: the factor is drawn from 1 - range to 1 + range; the shift of hue from -range to range, in
            1/256 of the colour circle.
        *_prob: the probability of each change.

    Decision: the changes to make, [(name, factor or shift), ...], in order.
    """

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
        return base.change(data, lambda image: arrays.enhance(arrays.as_uint8(image), decision))


@manager.TRANSFORMS.add_component
class RandomBlur(base.RandomTransform):
    """Blur with probability prob, on uint8, with an odd kernel of 3 to 9 pixels.

    Args:
        prob: the probability. (PaddleSeg blurs with 1 / int(1 / prob): always, if prob is above one half.)
        blur_type: gaussian, median, blur (the mean), or random for one of them per sample.

    Decision: None, or (blur type, kernel size in pixels).
    """

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
        return base.change(data, lambda image: _BLURS[blur_type](arrays.as_uint8(image), kernel))


@manager.TRANSFORMS.add_component
class Normalize:
    """(image / 255 - mean) / std, in float32, with one mean and std or one per channel (R, G, B).

    mean and std are on the scale 0..1: mmsegmentation's 123.675 and 58.395 are 0.485 and 0.229 here.
    """

    def __init__(self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)):
        self.mean = checks.channels("Normalize", "mean (123.675 is 0.485 here)", mean, 0, 1)
        self.std = checks.channels("Normalize", "std (58.395 is 0.229 here)", std, 1e-6, 1)

    def __call__(self, data: dict) -> dict:
        return base.change(data, lambda image: arrays.normalize(image, self.mean, self.std))
