"""Defaults are the references'; bad arguments are refused when the transform is built."""

import inspect
import math

import pytest

from paddleseg import transforms as T
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError

DEFAULTS = {
    "Normalize": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "Padding": {"im_padding_value": 127.5, "label_padding_value": 255},
    "PhotoMetricDistortion": {"brightness_delta": 32, "contrast_range": (0.5, 1.5),
                              "saturation_range": (0.5, 1.5), "hue_delta": 18},
    "RandomBlur": {"prob": 0.1, "blur_type": "gaussian"},
    "RandomCrop": {"cat_max_ratio": 1.0, "ignore_index": 255},
    "RandomDistort": {"brightness_range": 0.5, "brightness_prob": 0.5, "contrast_range": 0.5,
                      "contrast_prob": 0.5, "saturation_range": 0.5, "saturation_prob": 0.5, "hue_range": 18,
                      "hue_prob": 0.5, "sharpness_range": 0.5, "sharpness_prob": 0},
    "RandomFlip": {"prob": 0.5, "direction": "horizontal"},
    "RandomHorizontalFlip": {"prob": 0.5},
    "RandomPaddingCrop": {"crop_size": (512, 512), "im_padding_value": 127.5, "label_padding_value": 255,
                          "category_max_ratio": 1.0, "ignore_index": 255, "loop_times": 10},
    "RandomResize": {"keep_ratio": True},
    "RandomVerticalFlip": {"prob": 0.1},
    "Resize": {"target_size": (512, 512), "keep_ratio": False, "size_divisor": None, "interp": "LINEAR"},
    "ResizeByLong": {},
    "ResizeByShort": {"max_size": 1e10},
    "ResizeStepScaling": {"min_scale_factor": 0.75, "max_scale_factor": 1.25, "scale_step_size": 0.25},
}

REFUSED = [
    (T.Normalize, {"mean": [0.5, 0.5]}, "mean"),
    (T.Normalize, {"mean": [123.675, 116.28, 103.53]}, "123.675 is 0.485"),
    (T.Normalize, {"std": [0.5, 0.0, 0.5]}, "std"),
    (T.Padding, {"target_size": [0, 512]}, "target_size"),
    (T.Padding, {"target_size": 512}, "target_size"),
    (T.Padding, {"target_size": [64, 64], "im_padding_value": [0, 0]}, "im_padding_value"),
    (T.Padding, {"target_size": [64, 64], "label_padding_value": 256}, "label_padding_value"),
    (T.PhotoMetricDistortion, {"brightness_delta": -1}, "brightness_delta"),
    (T.PhotoMetricDistortion, {"contrast_range": [1.5, 0.5]}, "contrast_range"),
    (T.PhotoMetricDistortion, {"hue_delta": 1.5}, "hue_delta"),
    (T.RandomBlur, {"prob": 1.5}, "prob"),
    (T.RandomBlur, {"blur_type": "Gaussian"}, "blur_type must be one of gaussian, median, blur, random"),
    (T.RandomCrop, {"crop_size": [512, -1]}, r"crop_size .*\(height, width\)"),
    (T.RandomCrop, {"crop_size": [512, 1024], "cat_max_ratio": 0}, "cat_max_ratio"),
    (T.RandomDistort, {"hue_range": 200}, "hue_range"),
    (T.RandomDistort, {"sharpness_prob": math.nan}, "sharpness_prob"),
    (T.RandomFlip, {"direction": "left"}, "direction must be one of horizontal, vertical, diagonal"),
    (T.RandomPaddingCrop, {"crop_size": [512.5, 512]}, r"crop_size .*\(width, height\)"),
    (T.RandomPaddingCrop, {"loop_times": 0}, "loop_times"),
    (T.RandomResize, {"scale": [2048, 1024], "ratio_range": [2.0, 0.5]}, "ratio_range"),
    (T.RandomVerticalFlip, {"prob": "0.5"}, "prob"),
    (T.Resize, {"interp": "BILINEAR"}, "interp must be one of NEAREST, LINEAR, .*got 'BILINEAR'"),
    (T.Resize, {"size_divisor": 0}, "size_divisor"),
    (T.ResizeByLong, {"long_size": -3}, "long_size"),
    (T.ResizeByShort, {"short_size": [256, 0]}, "short_size"),
    (T.ResizeStepScaling, {"min_scale_factor": 2.0, "max_scale_factor": 0.5}, "max_scale_factor"),
    (T.ResizeStepScaling, {"scale_step_size": -0.25}, "scale_step_size"),
]


@pytest.mark.parametrize("name", sorted(manager.TRANSFORMS))
def test_defaults(name):
    arguments = inspect.signature(manager.TRANSFORMS[name]).parameters.values()
    assert {each.name: each.default for each in arguments if each.default is not each.empty} == DEFAULTS[name]


@pytest.mark.parametrize("transform, arguments, message", REFUSED)
def test_bad_arguments(transform, arguments, message):
    with pytest.raises(ConfigError, match=message) as raised:
        transform(**arguments)
    assert str(raised.value).startswith(transform.__name__) and "\n" not in str(raised.value)
