"""Names that transforms and data sets written for PaddleSeg import; this project's own code uses `ops`.

As in PaddleSeg 2.8.0, sizes are (width, height), labels are (H, W), and amounts are drawn from NumPy's global
generator, which the loader seeds for each sample.
"""

from typing import List, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from paddleseg.transforms import ops
from paddleseg.transforms.hue import shift_hue


def crop(img: np.ndarray, crop_coordinate: Sequence[int]) -> np.ndarray:
    """The window from (x1, y1) up to (x2, y2), which is left out; crop_coordinate is (x1, y1, x2, y2)."""
    left, top, right, bottom = crop_coordinate
    return img[top:bottom, left:right]


def rescale_size(img_size: Sequence[int], target_size: Sequence[int]) -> Tuple[List[int], float]:
    """The size, and its scale, of the largest image of this shape whose sides are within those of target_size."""
    scale = ops.fit_scale(tuple(img_size), tuple(target_size))
    return [round(side * scale) for side in img_size], scale


def normalize(im: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(im / 255 - mean) / std in float32."""
    return (im.astype(np.float32) / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def resize(im: np.ndarray, target_size: Union[int, Sequence[int]] = 608, interp: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize to (width, height), or to a square; interp is OpenCV's."""
    size = (target_size, target_size) if isinstance(target_size, int) else tuple(target_size)
    return cv2.resize(im, size, interpolation=interp)


def resize_long(im: np.ndarray, long_size: int = 224, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize so that the long side is long_size, in proportion."""
    return _scale(im, float(long_size) / max(im.shape[:2]), interpolation)


def resize_short(im: np.ndarray, short_size: int = 224, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize so that the short side is short_size, in proportion."""
    return _scale(im, float(short_size) / min(im.shape[:2]), interpolation)


def _scale(im: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    height, width = (int(round(side * scale)) for side in im.shape[:2])
    return cv2.resize(im, (width, height), interpolation=interpolation)


def horizontal_flip(im: np.ndarray) -> np.ndarray:
    return im[:, ::-1]


def vertical_flip(im: np.ndarray) -> np.ndarray:
    return im[::-1]


def brightness(im: Image.Image, brightness_lower: float, brightness_upper: float) -> Image.Image:
    return ImageEnhance.Brightness(im).enhance(np.random.uniform(brightness_lower, brightness_upper))


def contrast(im: Image.Image, contrast_lower: float, contrast_upper: float) -> Image.Image:
    return ImageEnhance.Contrast(im).enhance(np.random.uniform(contrast_lower, contrast_upper))


def saturation(im: Image.Image, saturation_lower: float, saturation_upper: float) -> Image.Image:
    return ImageEnhance.Color(im).enhance(np.random.uniform(saturation_lower, saturation_upper))


def sharpness(im: Image.Image, sharpness_lower: float, sharpness_upper: float) -> Image.Image:
    return ImageEnhance.Sharpness(im).enhance(np.random.uniform(sharpness_lower, sharpness_upper))


def hue(im: Image.Image, hue_lower: float, hue_upper: float) -> Image.Image:
    """Turn the hue by an amount in 1/256 of the colour circle; fractions of the sum are cut off, towards 0."""
    return Image.fromarray(shift_hue(np.array(im), np.random.uniform(hue_lower, hue_upper)))


def rotate(im: Image.Image, rotate_lower: float, rotate_upper: float) -> Image.Image:
    """Turn by whole degrees, against the clock."""
    return im.rotate(int(np.random.uniform(rotate_lower, rotate_upper)))


def mask_to_onehot(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, H, W) uint8: 1 where a label is of a class."""
    return (mask == np.arange(num_classes).reshape(-1, 1, 1)).astype(np.uint8)


def onehot_to_binary_edge(mask: np.ndarray, radius: float) -> np.ndarray:
    """(1, H, W) uint8: 1 within `radius` pixels of a border between a class, of (K, H, W), and the others.

    The image's own border is one of each class that touches it.

    Raises:
        ValueError: radius is below 1.
    """
    if radius < 1:
        raise ValueError(f"radius must be 1 or more; got {radius}")
    edge = np.zeros(mask.shape[1:], bool)
    for inside in np.pad(mask.astype(np.uint8), ((0, 0), (1, 1), (1, 1))):
        distance = sum(cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (inside, 1 - inside))
        edge |= distance[1:-1, 1:-1] <= radius
    return edge[np.newaxis].astype(np.uint8)


def mask_to_binary_edge(mask: np.ndarray, radius: float, num_classes: int) -> np.ndarray:
    """`onehot_to_binary_edge` of a label."""
    return onehot_to_binary_edge(mask_to_onehot(mask.squeeze(), num_classes), radius)
