"""Pillow's shift of an image's hue, bit for bit, without its conversions to HSV and back, pixel by pixel.

Pillow's HSV has 8 bits: hue h and saturation s are cut off to 1/255 of their range, v is the largest channel.
Of a pixel whose channels are max >= mid >= min:

    h depends on which channel is which, on max - mid and on max - min: a table, filled by Pillow itself;
    v s depends on max and min: a table, too;
    back in RGB each channel is v - round(v s w / 21675), where w, from 0 to 85, depends on h and the channel.

21675 = 255 * 85 is odd and v s w an integer, so there is never a half to round, and float32 is exact enough.
"""

from functools import cache
from typing import Tuple

import cv2
import numpy as np
from PIL import Image

_STEPS = 85  # of hue in a third of the circle; h = 0..255 goes 6 h / 255 = h / 42.5 sextants far
_STRIP = 32  # rows at a time, for the planes of a strip to stay in the processor's cache


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue of a uint8 RGB image by shift / 256 of the colour circle, as Pillow computes it."""
    # Through int64 because casting a negative float to uint8 is undefined; this is what it does on x86.
    turned = (np.arange(256) + float(shift)).astype(np.int64) % 256
    weights = _channel_weights()[:, turned]
    shifted = np.empty_like(image, order="C")
    for top in range(0, len(image), _STRIP):
        strip = slice(top, top + _STRIP)
        shifted[strip] = _shift_strip(image[strip], weights)
    return shifted


def _shift_strip(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    hue_table, saturation_table = _tables()
    red, green, blue = cv2.split(image)
    value = cv2.max(cv2.max(red, green), blue)
    least = cv2.min(cv2.min(red, green), blue)
    middle = red ^ green ^ blue ^ value ^ least
    order = _order(red, green, blue)
    key = cv2.merge((value - least, value - middle, order, np.zeros_like(order)))
    hue = hue_table.take(key.view(np.int32)[..., 0], mode="clip")
    colour = saturation_table.take(cv2.merge((least, value)).view(np.uint16)[..., 0], mode="clip")
    channels = []
    for weight in weights:
        less = cv2.multiply(colour, cv2.LUT(hue, weight), scale=1 / (255 * _STEPS), dtype=cv2.CV_8U)
        channels.append(value - less)
    return cv2.merge(channels)


def _order(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Return the order of the largest and the smallest channel as a number from 1 to 7."""
    first, second, third = (pair.view(np.uint8) for pair in (red >= green, green >= blue, blue >= red))
    third += third
    third += second
    third += third  # additions of bytes are several times faster than shifts
    third += first
    return third


@cache
def _tables() -> Tuple[np.ndarray, np.ndarray]:
    """Pillow's hue by (order, max - mid, max - min), uint8; its v * s by (max, min), float32; both flat."""
    low, high = (grid.astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    hue = np.zeros((8, 256, 256), np.uint8)  # [order, max - mid, max - min]
    value, middle, least = np.full_like(low, 255), 255 - high, 255 - low
    possible = high <= low  # max - mid <= max - min
    for red, green, blue in ((value, middle, least), (value, least, middle), (middle, value, least),
                             (least, value, middle), (middle, least, value), (least, middle, value)):
        order = _order(red, green, blue)
        pixels = np.stack((red, green, blue), axis=-1)[possible]
        hue[order[possible], high[possible], low[possible]] = _pillow_hsv(pixels)[:, 0]
    value, least = np.maximum(high, low), low
    saturation = _pillow_hsv(np.stack((value, least, least), axis=-1).reshape(-1, 3))[:, 1]
    return hue.ravel(), high.ravel() * saturation.astype(np.float32)


def _pillow_hsv(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 RGB in Pillow's HSV."""
    return np.array(Image.fromarray(pixels[np.newaxis]).convert("HSV"))[0]


def _channel_weights() -> np.ndarray:
    """Distance of each of (R, G, B) below v at each hue, in 1/85 of s: (3, 256) float32.

    Zero where the channel is the largest, 85 where it's the smallest, and linear in between.
    """
    steps = 2 * np.arange(256)  # in 1/85 of a sextant
    distances = [np.abs((steps - start + 3 * _STEPS) % (6 * _STEPS) - 3 * _STEPS) for start in (0, 170, 340)]
    return np.clip(np.stack(distances) - _STEPS, 0, _STEPS).astype(np.float32)
