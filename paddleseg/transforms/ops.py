"""Pure operations on arrays and on samples: no transform state, and the input is never written to.

An image is (H, W, 3), a label (H, W). Sizes are (height, width). For samples see `paddleseg.transforms.base`.
"""

import math
from functools import partial
from typing import Callable, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageStat

from paddleseg.transforms.deferred import FLIP_CODES, INTERPOLATIONS, Deferred
from paddleseg.transforms.hue import shift_hue

Array = Union[np.ndarray, Deferred]

_GREY_LEVELS = np.arange(256, dtype=np.uint8)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """The image in 0..255 as uint8, fractions cut off.

    Values outside 0..255, which cubic and Lanczos resizing make, are clipped; a bare cast would wrap them.
    """
    if image.dtype == np.uint8:
        return image
    if not (image.min() >= 0 and image.max() < 256):  # to look costs less than to clip
        image = np.clip(image, 0, 255)
    return image.astype(np.uint8)


def resize(array: Array, size: Tuple[int, int], interp: str = "LINEAR") -> Array:
    """Resize to (height, width); the dtype stays."""
    if isinstance(array, Deferred):
        return array.resize(size, interp)
    height, width = size
    return cv2.resize(array, (width, height), interpolation=INTERPOLATIONS[interp])


def scaled_size(size: Tuple[int, int], scale: float) -> Tuple[int, int]:
    """Both sides times scale, halves to even as Python's round does, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fit_scale(size: Tuple[int, int], bound: Tuple[int, int]) -> float:
    """The largest scale that keeps the long side within max(bound) and the short side within min(bound)."""
    return min(max(bound) / max(size), min(bound) / min(size))


def round_up(size: Tuple[int, int], divisor: int) -> Tuple[int, int]:
    """Both sides raised to the next multiple of divisor."""
    return math.ceil(size[0] / divisor) * divisor, math.ceil(size[1] / divisor) * divisor


def flip(array: Array, direction: str) -> Array:
    """Mirror along 'horizontal' (left-right), 'vertical' (up-down) or 'diagonal' (both)."""
    if isinstance(array, Deferred):
        return array.flip(direction)
    return cv2.flip(array, FLIP_CODES[direction])


def crop(array: Array, corner: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """The window of at most `size` whose upper left pixel is corner = (top, left); of an array, a view."""
    top, left = corner
    return array[top:top + size[0], left:left + size[1]]


def pad_bottom_right(array: np.ndarray, size: Tuple[int, int], value: Sequence[float]) -> np.ndarray:
    """Extend to at least size; `value` is one number, or one per channel, and must suit the dtype."""
    height, width = array.shape[:2]
    if height >= size[0] and width >= size[1]:
        return array
    padded = np.empty((max(height, size[0]), max(width, size[1])) + array.shape[2:], array.dtype)
    padded[:height, :width] = array
    padded[height:] = value
    padded[:height, width:] = value
    return padded


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(image / 255 - mean) / std in float32, for an image in 0..255.

    Computed as (image - 255 mean) / (255 std): the division by 255 then costs no pass over the image, and the
    result is bit for bit that of mmsegmentation's preprocessor, whose mean and std are stated on 0..255. It is
    (H, W, 3) like the image, but lies in memory as (3, H, W), which a model takes; of uint8, it is looked up.
    """
    means, stds = (np.broadcast_to((np.asarray(values, np.float64) * 255).astype(np.float32), 3)
                   for values in (mean, std))
    planes = np.empty((3, *image.shape[:2]), np.float32)
    if image.dtype == np.uint8:
        levels = _GREY_LEVELS.astype(np.float32)
        for channel, plane, offset, divisor in zip(cv2.split(image), planes, means, stds):
            cv2.LUT(channel, (levels - offset) / divisor, dst=plane)
    else:
        for index, plane in enumerate(planes):
            np.subtract(image[..., index], means[index], out=plane)
            plane /= stds[index]
    return planes.transpose(1, 2, 0)


def enhance(image: np.ndarray, operations: Sequence[Tuple[str, float]]) -> np.ndarray:
    """Run Pillow's enhancers on a uint8 RGB image, one after the other; bit for bit what they compute.

    `operations` are (name, amount): the amount of 'brightness', 'contrast', 'saturation' and 'sharpness' is
    Pillow's factor (1 changes nothing), that of 'hue' a shift in 1/256 of the colour circle.
    """
    for name, amount in operations:
        if name == "brightness":
            image = _blend_with_grey(image, 0, amount)
        elif name == "contrast":
            image = _blend_with_grey(image, int(ImageStat.Stat(_grey(image)).mean[0] + 0.5), amount)
        elif name == "saturation":
            grey = _grey(image)  # plane by plane: Pillow's RGB has a fourth byte that is blended, too
            image = cv2.merge([np.asarray(Image.blend(grey, Image.fromarray(plane), amount))
                               for plane in cv2.split(image)])
        elif name == "hue":
            image = shift_hue(image, amount)
        else:
            image = np.array(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(amount))
    return image


def _grey(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).convert("L")


def _blend_with_grey(image: np.ndarray, grey: int, factor: float) -> np.ndarray:
    """Pillow's blend of an image with one of equal pixels: the same table for every channel."""
    levels = Image.fromarray(_GREY_LEVELS[np.newaxis])
    return cv2.LUT(image, np.array(Image.blend(Image.new("L", levels.size, grey), levels, factor))[0])


def linear_uint8(array: np.ndarray, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """scale * array + shift in float32, clipped to 0..255 and cut to uint8, for a uint8 array."""
    table = np.arange(256, dtype=np.float32) * float(scale) + float(shift)
    return cv2.LUT(array, np.clip(table, 0, 255).astype(np.uint8))


def scale_saturation_hsv(image: np.ndarray, scale: float) -> np.ndarray:
    """Multiply the saturation of a uint8 RGB image in OpenCV's 8-bit HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    tables = np.stack((_GREY_LEVELS, linear_uint8(_GREY_LEVELS, scale=scale).ravel(), _GREY_LEVELS), axis=-1)
    return cv2.cvtColor(cv2.LUT(hsv, tables[np.newaxis]), cv2.COLOR_HSV2RGB)


def shift_hue_hsv(image: np.ndarray, shift: int) -> np.ndarray:
    """Turn the hue of a uint8 RGB image by 2 * shift degrees in OpenCV's 8-bit HSV, whose hue is 0..179."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    turned = ((np.arange(256) + int(shift)) % 180).astype(np.uint8)
    tables = np.stack((turned, _GREY_LEVELS, _GREY_LEVELS), axis=-1)
    return cv2.cvtColor(cv2.LUT(hsv, tables[np.newaxis]), cv2.COLOR_HSV2RGB)


# ---- samples ----------------------------------------------------------------------------------------------

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


def resize_sample(data: dict, size: Tuple[int, int], interp: str = "LINEAR") -> dict:
    """Resize the image with `interp` and its labels by nearest neighbour to (height, width)."""
    return change(remember_size(data, "resize"),
                  lambda image: resize(image, size, interp),
                  lambda label: resize(label, size, "NEAREST"))


def resize_sample_in_float(data: dict, size: Tuple[int, int], interp: str = "LINEAR") -> dict:
    """Resize as `resize_sample`, in float32, as PaddleSeg holds images: interpolated values keep their fractions."""
    return resize_sample({**data, "img": data["img"].astype(np.float32)}, size, interp)


def crop_sample(data: dict, corner: Tuple[int, int], size: Tuple[int, int]) -> dict:
    """Crop image and labels to at most `size`, from corner = (top, left)."""
    cut = partial(crop, corner=corner, size=size)
    return change(data, cut, cut)


def flip_sample(data: dict, direction: str) -> dict:
    """Mirror image and labels."""
    mirror = partial(flip, direction=direction)
    return change(data, mirror, mirror)


def pad_sample(data: dict, size: Tuple[int, int], image_value: Sequence[float], label_value: int) -> dict:
    """Extend image and labels to at least `size`, at the bottom and the right; a padded image becomes float32."""
    height, width = image_size(data)
    if height >= size[0] and width >= size[1]:
        return data
    return change(data,
                  lambda image: pad_bottom_right(image.astype(np.float32), size, image_value),
                  lambda label: pad_bottom_right(label, size, label_value))


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
        if _is_varied(crop(data["label"], corner, crop_size), max_ratio, ignore_index):
            break
        corner = draw()
    return corner


def _is_varied(label: np.ndarray, max_ratio: float, ignore_index: int) -> bool:
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).astype(np.int64)  # a third of np.bincount's time
    counts[ignore_index] = 0
    return np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < max_ratio
