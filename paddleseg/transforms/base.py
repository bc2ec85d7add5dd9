"""The sample, random transforms with a decision that can be recorded, and Compose, which runs a list of transforms.

A sample is a dict with these keys:
    'img': (H, W, 3), with values 0..255 as uint8 or float32 until Normalize.
    'label': (H, W) uint8, if there is one.
    'gt_fields': the keys of the labels that follow the image's geometry.
    'trans_info': a list of (name, (height, width)), the size before each resizing and padding.
    'rng': a numpy Generator, the only source of randomness.
    'path': the image's file, for messages.

A transform takes a sample and returns a new one; it writes neither into the dict nor into its arrays. Those of this
project state a `role`: resize, flip, crop, distort (changes colours, and begins by making the image uint8), blur,
normalize or pad.
"""

import os
from typing import Callable, Optional, Sequence

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.transforms import checks, ops
from paddleseg.transforms.deferred import Deferred
from paddleseg.transforms.image_io import read_image, read_label

_NEED_PIXEL_VALUES = ("distort", "blur", "normalize")


class RandomTransform:
    """A transform whose random decision can be recorded, and applied again.

    A subclass has `decide(data)`, which draws from data['rng'] and returns the decision, made of plain
    numbers, strings, tuples and lists, and `apply(data, decision)`, which draws nothing.
    """

    def __call__(self, data: dict) -> dict:
        return self.apply(data, self.decide(data))


class RandomMirror(RandomTransform):
    """Mirror in a direction of `ops.flip` with probability prob. Decision: whether to."""

    def __init__(self, prob: float, direction: str):
        self.prob = checks.number(type(self).__name__, "prob", prob, high=1)
        self.direction = checks.one_of(type(self).__name__, "direction", direction, list(ops.FLIP_CODES))

    def decide(self, data: dict) -> bool:
        return bool(data["rng"].random() < self.prob)

    def apply(self, data: dict, decision: bool) -> dict:
        return ops.flip_sample(data, self.direction) if decision else data


class Replay:
    """A random transform with its decision given, in the transform's place in a list."""

    def __init__(self, transform: RandomTransform, decision):
        self.transform = transform
        self.decision = decision

    def __call__(self, data: dict) -> dict:
        return self.transform.apply(data, self.decision)


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
        'img' becomes (3, H, W) float32, 'label' (H, W) uint8.

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
            role = getattr(transform, "role", None)
            if normalized and role in _NEED_PIXEL_VALUES:
                raise ConfigError(f"transforms[{index}], {_name(transform)}, needs pixel values 0..255; "
                                  "put it before Normalize")
            normalized = normalized or role == "normalize"
        self._roles = [_own_role(transform) for transform in self.transforms]
        self._deferring = {index: _cuts_off(self._roles[index:]) for index in range(len(self._roles))
                           if fuse and _resizes_for_crop(self._roles[index:])}

    def __call__(self, data: dict) -> dict:
        return self.run(self.read(data))

    def run(self, data: dict) -> dict:
        """Transform a sample as `read` returns it."""
        for index, transform in enumerate(self.transforms):
            if index in self._deferring:
                data = _defer(data, self._deferring[index])
            elif self._roles[index] is None:
                data = {**data, "img": np.ascontiguousarray(data["img"])}  # which Normalize's isn't
            data = transform(data)
            if not isinstance(data, dict) or "img" not in data:
                raise ConfigError(f"transforms[{index}], {_name(transform)}, returned {type(data).__name__} "
                                  "instead of the sample with its 'img'")
        finished = {key: value for key, value in data.items() if key != "rng"}
        finished["img"] = np.ascontiguousarray(data["img"].transpose(2, 0, 1), dtype=np.float32)
        if finished.get("label") is not None:
            finished["label"] = np.ascontiguousarray(finished["label"])
        return finished

    def read(self, data: dict) -> dict:
        """The sample with arrays in the place of paths, and with 'trans_info', 'gt_fields' and 'rng'."""
        if data.get("img") is None:
            raise DataError("the sample has no 'img'; give the path of an image or an (H, W, 3) array")
        data = {"trans_info": [], "gt_fields": [], **data}
        data["rng"] = data.get("rng") or np.random.default_rng()
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


def _own_role(transform: Callable) -> Optional[str]:
    """The role that the transform's class itself states: a subclass may do anything, so it inherits none."""
    return vars(type(transform.transform if isinstance(transform, Replay) else transform)).get("role")


def _resizes_for_crop(roles: Sequence[Optional[str]]) -> bool:
    """Return True if a resizing comes first and then, flips aside, a crop."""
    return roles[0] == "resize" and next((role for role in roles[1:] if role != "flip"), None) == "crop"


def _cuts_off(roles: Sequence[Optional[str]]) -> bool:
    """Return True if the step after the resizing and the crop, flips aside, cuts fractions off."""
    return next((role for role in roles[1:] if role not in ("flip", "crop")), None) == "distort"


def _defer(data: dict, cut_off: bool) -> dict:
    """The sample with its image, and the labels that follow its geometry, resized no sooner than cropped."""
    image = Deferred(data["img"], cut_off and data["img"].dtype == np.uint8)
    return {**data, **{key: Deferred(data[key]) for key in data.get("gt_fields", ())}, "img": image}


def _name(transform: Callable) -> str:
    return type(transform).__name__


def _is_array(value, ndim: int, dtypes: Sequence[type]) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == ndim and value.dtype in dtypes


def _describe(value) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
