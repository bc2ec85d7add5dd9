"""Colors of classes."""

import numpy as np


def color_map(num_classes: int) -> np.ndarray:
    """PASCAL VOC's colors, RGB uint8 (num_classes, 3).

    Bit j of the class index, taken in threes, sets bit 7 - j of red, green and blue.
    """
    index = np.arange(num_classes)
    colors = np.zeros((num_classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors
