import numpy as np

from paddleseg.utils.palette import color_map


def test_is_pascal_vocs_colour_map():
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128),
                20: (0, 64, 128)}
    colors = color_map(256)
    assert colors.dtype == np.uint8
    assert {index: tuple(colors[index].tolist()) for index in expected} == expected
    assert len({tuple(color) for color in colors.tolist()}) == 256
