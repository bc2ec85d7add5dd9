"""Pure functions on arrays: no transform state, no randomness, the input is never written to.

An image is (H, W, 3), a label (H, W). Sizes are (height, width).
"""

import math
from typing import Sequence, Tuple

import cv2
import numpy as np
from PIL import Image, ImageEnhance

INTERPOLATIONS = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}

FLIP_CODES = {"horizontal": 1, "vertical": 0, "diagonal": -1}

_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def as_uint8(image: np.ndarray) -> np.ndarray:
    """The image in 0..255 as uint8, fractions cut off.

    Values outside 0..255, which cubic and Lanczos resizing make, are clipped; a bare cast would wrap them.
    """
    if image.dtype == np.uint8:
        return image
    return np.clip(image, 0, 255).astype(np.uint8)


def resize(array: np.ndarray, size: Tuple[int, int], interp: str = "LINEAR") -> np.ndarray:
    """Resize to (height, width); the dtype stays."""
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


def flip(array: np.ndarray, direction: str) -> np.ndarray:
    """Mirror along 'horizontal' (left-right), 'vertical' (up-down) or 'diagonal' (both)."""
    return cv2.flip(array, FLIP_CODES[direction])


def crop(array: np.ndarray, corner: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """The window of at most `size` whose upper left pixel is corner = (top, left); a view."""
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
    result is bit for bit that of mmsegmentation's preprocessor, whose mean and std are stated on 0..255.
    """
    normalized = image.astype(np.float32)
    normalized -= (np.asarray(mean, np.float64) * 255).astype(np.float32)
    normalized /= (np.asarray(std, np.float64) * 255).astype(np.float32)
    return normalized


def enhance(image: np.ndarray, operations: Sequence[Tuple[str, float]]) -> np.ndarray:
    """Run Pillow's enhancers on a uint8 RGB image, one after the other.

    `operations` are (name, amount): the amount of 'brightness', 'contrast', 'saturation' and 'sharpness' is
    Pillow's factor (1 changes nothing), that of 'hue' a shift in 1/256 of the colour circle.
    """
    picture = Image.fromarray(image)
    for name, amount in operations:
        if name == "hue":
            picture = _shift_hue(picture, amount)
        else:
            picture = _ENHANCERS[name](picture).enhance(amount)
    return np.array(picture)


def _shift_hue(picture: Image.Image, shift: float) -> Image.Image:
    # Through int64 because casting a negative float to uint8 is undefined; this is what it does on x86.
    table = (np.arange(256) + float(shift)).astype(np.int64) % 256
    hue, saturation, value = picture.convert("HSV").split()
    return Image.merge("HSV", (hue.point(table.tolist()), saturation, value)).convert("RGB")


def linear_uint8(array: np.ndarray, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """scale * array + shift in float32, clipped to 0..255 and cut to uint8, for a uint8 array."""
    table = np.arange(256, dtype=np.float32) * float(scale) + float(shift)
    return cv2.LUT(array, np.clip(table, 0, 255).astype(np.uint8))


def scale_saturation_hsv(image: np.ndarray, scale: float) -> np.ndarray:
    """Multiply the saturation of a uint8 RGB image in OpenCV's 8-bit HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = linear_uint8(np.ascontiguousarray(hsv[..., 1]), scale=scale)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def shift_hue_hsv(image: np.ndarray, shift: int) -> np.ndarray:
    """Turn the hue of a uint8 RGB image by 2 * shift degrees in OpenCV's 8-bit HSV, whose hue is 0..179."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    table = ((np.arange(256) + int(shift)) % 180).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(np.ascontiguousarray(hsv[..., 0]), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
