"""Paired operations on an image and its label, in PaddleSeg's and in mmsegmentation's version."""

from paddleseg.transforms import functional
from paddleseg.transforms.compose import Compose
from paddleseg.transforms.geometric import (
    Padding,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    RandomVerticalFlip,
    Resize,
    ResizeByLong,
    ResizeByShort,
    ResizeStepScaling,
)
from paddleseg.transforms.mmseg import PhotoMetricDistortion, RandomCrop, RandomFlip, RandomResize
from paddleseg.transforms.photometric import Normalize, RandomBlur, RandomDistort

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
