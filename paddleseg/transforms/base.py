"""What every transform shares: the sample, and the split of a random transform into decision and effect.

A sample is a dict with these keys:
    'img': (H, W, 3), with values 0..255 as uint8 or float32 until Normalize.
    'label': (H, W) uint8, if there is one.
    'gt_fields': the keys of the labels that follow the image's geometry.
    'trans_info': a list of (name, (height, width)), the size before each resizing and padding.
    'rng': a numpy Generator, the only source of randomness.
    'path': the image's file, for messages.

A transform takes a sample and returns a new one; it writes neither into the dict nor into its arrays.
"""

from functools import partial
from typing import Callable, Optional, Sequence, Tuple

import cv2
import numpy as np

from paddleseg.transforms import arrays


class RandomTransform:
    """A transform whose random decision can be recorded, and applied again.

    A subclass has `decide(data)`, which draws from data['rng'] and returns the decision, made of plain
    numbers, strings, tuples and lists, and `apply(data, decision)`, which draws nothing.
    """

    def __call__(self, data: dict) -> dict:
        return self.apply(data, self.decide(data))


class Replay:
    """A random transform with its decision given, in the transform's place in a list."""

    def __init__(self, transform: RandomTransform, decision):
        self.transform = transform
        self.decision = decision

    def __call__(self, data: dict) -> dict:
        return self.transform.apply(data, self.decision)


def image_size(data: dict) -> Tuple[int, int]:
    """(height, width) of the sample's image."""
    return data["img"].shape[:2]


def change(data: dict, image: Callable, label: Optional[Callable] = None) -> dict:
    """A new sample: `image` is applied to the image, `label` to every array that follows its geometry."""
    changed = {**data, "img": image(data["img"])}
    if label is not None:
        for key in data.get("gt_fields", ()):
            changed[key] = label(data[key])
    return changed


def remember_size(data: dict, name: str) -> dict:
    """A new sample, whose trans_info ends with the present size: a prediction can be brought back to it."""
    return {**data, "trans_info": [*data.get("trans_info", ()), (name, image_size(data))]}


def resize(data: dict, size: Tuple[int, int], interp: str = "LINEAR") -> dict:
    """Resize the image with `interp` and its labels by nearest neighbour to (height, width)."""
    return change(remember_size(data, "resize"),
                  lambda image: arrays.resize(image, size, interp),
                  lambda label: arrays.resize(label, size, "NEAREST"))


def resize_in_float(data: dict, size: Tuple[int, int], interp: str = "LINEAR") -> dict:
    """As `resize`, in float32: PaddleSeg holds images so, and interpolated values keep their fractions."""
    return resize({**data, "img": data["img"].astype(np.float32)}, size, interp)


def crop(data: dict, corner: Tuple[int, int], size: Tuple[int, int]) -> dict:
    """Crop image and labels to at most `size`, from corner = (top, left)."""
    cut = partial(arrays.crop, corner=corner, size=size)
    return change(data, cut, cut)


def flip(data: dict, direction: str) -> dict:
    """Mirror image and labels."""
    mirror = partial(arrays.flip, direction=direction)
    return change(data, mirror, mirror)


def pad(data: dict, size: Tuple[int, int], image_value: Sequence[float], label_value: int) -> dict:
    """Extend image and labels to at least `size`, at the bottom and the right; a padded image becomes float32."""
    height, width = image_size(data)
    if height >= size[0] and width >= size[1]:
        return data
    return change(data,
                  lambda image: arrays.pad_bottom_right(image.astype(np.float32), size, image_value),
                  lambda label: arrays.pad_bottom_right(label, size, label_value))


def draw_corner(data: dict, crop_size: Tuple[int, int], max_ratio: float, ignore_index: int,
                tries: int) -> Tuple[int, int]:
    """Draw the (top, left) of a crop, again while one class fills at least max_ratio of its labelled pixels.

    The rule is mmsegmentation's RandomCrop: a crop must show two classes or more; the corner drawn after
    the last try is taken unseen. With max_ratio 1, or without a label that follows the image, the first draw
    counts.
    """
    height, width = image_size(data)
    margins = max(height - crop_size[0], 0), max(width - crop_size[1], 0)

    def draw():
        return tuple(int(data["rng"].integers(0, margin + 1)) for margin in margins)

    corner = draw()
    if max_ratio >= 1 or "label" not in data.get("gt_fields", ()):
        return corner
    for _ in range(tries):
        if _is_varied(arrays.crop(data["label"], corner, crop_size), max_ratio, ignore_index):
            break
        corner = draw()
    return corner


def _is_varied(label: np.ndarray, max_ratio: float, ignore_index: int) -> bool:
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).astype(np.int64)  # a third of np.bincount's time
    counts[ignore_index] = 0
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_ratio
