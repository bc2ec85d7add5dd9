"""Compose: from files or arrays, through a list of transforms, to what a model takes."""

import os
from typing import Callable, Sequence

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.transforms.base import Replay
from paddleseg.transforms.deferred import Deferred
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
from paddleseg.transforms.image_io import read_image, read_label
from paddleseg.transforms.mmseg import PhotoMetricDistortion, RandomCrop, RandomFlip, RandomResize
from paddleseg.transforms.photometric import Normalize, RandomBlur, RandomDistort

_NEED_PIXEL_VALUES = (Normalize, RandomBlur, RandomDistort, PhotoMetricDistortion)
_RESIZES = (RandomResize, Resize, ResizeByLong, ResizeByShort, ResizeStepScaling)
_FLIPS = (RandomFlip, RandomHorizontalFlip, RandomVerticalFlip)
_CROPS = (RandomCrop, RandomPaddingCrop)
_CUT_OFF = (RandomDistort, PhotoMetricDistortion)  # begin by making the image uint8
_OWN = (*_NEED_PIXEL_VALUES, *_RESIZES, *_FLIPS, *_CROPS, Padding)


class Compose:
    """Read a sample and run it through transforms.

    Where a resizing is followed by a crop, with nothing but flips in between, only what the crop cuts out is
    resized, to the same values; in float32 to 0.001 of a grey level (see `paddleseg.transforms.deferred`).
    Decisions are the same, and transforms from elsewhere always get whole arrays.

    Args:
        transforms: the transforms, in order; may be empty.
        to_rgb: whether image files are read as RGB or BGR. An array is taken as it is.
        fuse: False computes every step in full, the reference for tests.

    Shapes:
        'img' becomes (3, H, W) float32, 'label' (H, W) uint8. See `paddleseg.transforms.base` for the sample.

    Raises:
        ConfigError: the list can't work: not callables, or pixel values needed after Normalize.
        ImageReadError: a file can't be read.
        DataError: the image or a label of gt_fields is missing, or of another shape or dtype.
    """

    def __init__(self, transforms: Sequence[Callable], to_rgb: bool = True, fuse: bool = True):
        if not isinstance(transforms, (list, tuple)):
            raise ConfigError(f"transforms must be a list; got {type(transforms).__name__}")
        self.transforms = list(transforms)
        self.to_rgb = to_rgb
        normalized = False
        for index, transform in enumerate(self.transforms):
            if not callable(transform):
                raise ConfigError(f"transforms[{index}] is not callable: {transform!r}")
            if normalized and isinstance(transform, _NEED_PIXEL_VALUES):
                raise ConfigError(f"transforms[{index}], {_name(transform)}, needs pixel values 0..255; "
                                  "put it before Normalize")
            normalized = normalized or isinstance(transform, Normalize)
        kinds = [_kind(transform) for transform in self.transforms]
        self._deferring = {index: _cuts_off(kinds[index:]) for index in range(len(kinds))
                           if fuse and _resizes_for_crop(kinds[index:])}
        self._foreign = {index for index, kind in enumerate(kinds) if kind not in _OWN}

    def __call__(self, data: dict) -> dict:
        data = self.read(data)
        for index, transform in enumerate(self.transforms):
            if index in self._deferring:
                data = _defer(data, self._deferring[index])
            elif index in self._foreign:
                data = {**data, "img": np.ascontiguousarray(data["img"])}  # which Normalize's isn't
            data = transform(data)
            if not isinstance(data, dict) or "img" not in data:
                raise ConfigError(f"transforms[{index}], {_name(transform)}, returned {type(data).__name__} "
                                  "instead of the sample with its 'img'")
        image = np.ascontiguousarray(data["img"].transpose(2, 0, 1), dtype=np.float32)
        finished = {key: value for key, value in data.items() if key != "rng"}
        finished["img"] = image
        if finished.get("label") is not None:
            finished["label"] = np.ascontiguousarray(finished["label"])
        return finished

    def read(self, data: dict) -> dict:
        """The sample with arrays in the place of paths, and with 'trans_info', 'gt_fields' and 'rng'."""
        if data.get("img") is None:
            raise DataError("the sample has no 'img'; give the path of an image or an (H, W, 3) array")
        data = {"trans_info": [], "gt_fields": [], "rng": None, **data}
        if data["rng"] is None:
            data["rng"] = np.random.default_rng()
        if isinstance(data["img"], (str, os.PathLike)):
            data.setdefault("path", str(data["img"]))
            data["img"] = read_image(data["img"], self.to_rgb)
        if isinstance(data.get("label"), (str, os.PathLike)):
            data["label"] = read_label(data["label"])
        image, label = data["img"], data.get("label")
        if not (_is_array(image, 3, (np.uint8, np.float32)) and image.shape[2] == 3):
            raise DataError(f"{data.get('path', 'img')}: an image must be an (H, W, 3) array of uint8 or "
                            f"float32; got {_describe(image)}")
        if not (label is None or _is_array(label, 2, (np.uint8,))):
            raise DataError(f"label of {data.get('path', 'img')}: a label must be an (H, W) array of uint8; "
                            f"got {_describe(label)}")
        for key in data["gt_fields"]:
            if data.get(key) is None:
                raise DataError(f"{data.get('path', 'the sample')} has no '{key}', which its gt_fields name")
        return data


def _kind(transform: Callable) -> type:
    return type(transform.transform if isinstance(transform, Replay) else transform)


def _resizes_for_crop(kinds: Sequence[type]) -> bool:
    """Whether a resizing comes first and then, flips aside, a crop. Subclasses, which may do anything, are neither."""
    following = next((kind for kind in kinds[1:] if kind not in _FLIPS), None)
    return kinds[0] in _RESIZES and following in _CROPS


def _cuts_off(kinds: Sequence[type]) -> bool:
    """Whether what follows the resizing and the crop, flips aside, cuts fractions off."""
    return next((kind for kind in kinds[1:] if kind not in (*_FLIPS, *_CROPS)), None) in _CUT_OFF


def _defer(data: dict, cut_off: bool) -> dict:
    """The sample with its image, and the labels that follow its geometry, resized no sooner than cropped."""
    image = Deferred(data["img"], cut_off and data["img"].dtype == np.uint8)
    return {**data, **{key: Deferred(data[key]) for key in data.get("gt_fields", ())}, "img": image}


def _name(transform: Callable) -> str:
    return type(transform).__name__


def _is_array(value, ndim: int, dtypes: Sequence[type]) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == ndim and value.dtype in dtypes


def _describe(value) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
