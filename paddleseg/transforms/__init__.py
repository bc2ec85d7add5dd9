"""Paired operations on an image and its label, in PaddleSeg's and in mmsegmentation's version."""

from paddleseg.transforms import functional
from paddleseg.transforms.base import Compose
from paddleseg.transforms.mmseg import PhotoMetricDistortion, RandomCrop, RandomFlip, RandomResize
from paddleseg.transforms.transforms import (
    Normalize,
    Padding,
    RandomBlur,
    RandomDistort,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    RandomVerticalFlip,
    Resize,
    ResizeByLong,
    ResizeByShort,
    ResizeStepScaling,
)

__all__ = [
    "Compose",
    "Normalize",
    "Padding",
    "PhotoMetricDistortion",
    "RandomBlur",
    "RandomCrop",
    "RandomDistort",
    "RandomFlip",
    "RandomHorizontalFlip",
    "RandomPaddingCrop",
    "RandomResize",
    "RandomVerticalFlip",
    "Resize",
    "ResizeByLong",
    "ResizeByShort",
    "ResizeStepScaling",
    "functional",
]
