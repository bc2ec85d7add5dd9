"""Arrays that are resized only where a crop cuts them out.

For the same numbers, cv2.resize must see the crop's part of the source at the same phase. Pixel i of n resized ones
lies at (i + 1/2) source / target - 1/2 of the source, so a part may begin where a resized pixel's edge falls on a
source pixel's: every target / gcd(source, target) pixels. But cv2.resize holds positions in float32, which round
differently there. It makes less than 0.001 of a grey level, which in a float32 image is nothing; in a uint8 image it
would let a few pixels in a thousand round to a neighbouring level, so that there the part begins at the array's corner,
and the numbers are the same.
"""

import math
from typing import NamedTuple, Optional, Tuple, Union

import cv2
import numpy as np

INTERPOLATIONS = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}

FLIP_CODES = {"horizontal": 1, "vertical": 0, "diagonal": -1}


class Deferred:
    """An image or label whose resizing waits for a crop.

    It has what transforms ask for between the two: shape, ndim, dtype, `astype`, `resize`, and slices
    [rows, columns], which compute an array.

    Args:
        source: (H, W) or (H, W, C), never written to.
        cut_off: of a uint8 source, arrays are uint8 again: the next step would cut off the fractions anyway.
        dtype: the values are cast to it before they are resized; by default the source's.
        size: (height, width) to resize to; by default the source's.
        interp: "LINEAR" or "NEAREST".
        mirrored: whether (rows, columns) are in reverse order, after resizing.
    """

    def __init__(self, source: np.ndarray, cut_off: bool = False, dtype: Optional[np.dtype] = None,
                 size: Optional[Tuple[int, int]] = None, interp: str = "NEAREST",
                 mirrored: Tuple[bool, bool] = (False, False)):
        self.source = source
        self.cut_off = cut_off
        self.dtype = np.dtype(dtype or source.dtype)
        self.shape = (*(size or source.shape[:2]), *source.shape[2:])
        self.ndim = source.ndim
        self.interp = interp
        self.mirrored = mirrored
        self._last = None  # the last slices and their array: a crop is looked at before it's taken

    def astype(self, dtype: np.dtype) -> "Deferred":
        return Deferred(self.source, self.cut_off, dtype, self.shape[:2], self.interp, self.mirrored)

    def resize(self, size: Tuple[int, int], interp: str) -> Union["Deferred", np.ndarray]:
        """Only of an array that isn't resized yet; interpolations that look far around compute the whole array."""
        if interp in ("LINEAR", "NEAREST"):
            return Deferred(self.source, self.cut_off, self.dtype, size, interp)
        return cv2.resize(self.source.astype(self.dtype, copy=False), size[::-1],
                          interpolation=INTERPOLATIONS[interp])

    def flip(self, direction: str) -> "Deferred":
        rows, columns = self.mirrored
        return Deferred(self.source, self.cut_off, self.dtype, self.shape[:2], self.interp,
                        (rows ^ (direction != "horizontal"), columns ^ (direction != "vertical")))

    def __getitem__(self, slices: Tuple[slice, slice]) -> np.ndarray:
        bounds = [part.indices(length)[:2] for part, length in zip(slices, self.shape)]
        if self._last is None or self._last[0] != bounds:
            self._last = bounds, self._cut(bounds)
        return self._last[1]

    def _cut(self, bounds) -> np.ndarray:
        bounds = [(length - stop, length - start) if mirrored else (start, stop)
                  for (start, stop), length, mirrored in zip(bounds, self.shape, self.mirrored)]
        result = self.source.dtype if self.cut_off else self.dtype
        if self.source.shape == self.shape:
            array = self.source[slice(*bounds[0]), slice(*bounds[1])]
        elif self.interp == "NEAREST":
            array = _nearest(self.source, self.shape[:2], bounds)
        else:
            array = _linear(self.source, self.dtype, self.shape[:2], bounds)
        return _mirror(array.astype(result, copy=False), self.mirrored)


def _mirror(array: np.ndarray, mirrored: Tuple[bool, bool]) -> np.ndarray:
    direction = {(True, False): "vertical", (False, True): "horizontal", (True, True): "diagonal"}.get(tuple(mirrored))
    return array if direction is None else cv2.flip(array, FLIP_CODES[direction])


def _nearest(source: np.ndarray, size: Tuple[int, int], bounds) -> np.ndarray:
    """The window of the array resized by nearest neighbour; positions as cv2.resize computes them."""
    rows, columns = (np.minimum(np.floor(np.arange(*bound) * (1 / (target / length))).astype(np.intp), length - 1)
                     for bound, target, length in zip(bounds, size, source.shape))
    part = source[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    steps = [(rows - rows[0], 0), (columns - columns[0], 1)]
    if len(part) < len(rows):
        steps.reverse()  # first the axis that makes less of it
    for positions, axis in steps:
        part = part.take(positions, axis, mode="clip")
    return part


class _Span(NamedTuple):
    """Along an axis, the part of the source to resize and where in the result the window lies.

    If `mirrored`, everything counts from the far end.
    """

    first: int
    last: int
    start: int
    stop: int
    mirrored: bool


def _linear(source: np.ndarray, dtype: np.dtype, size: Tuple[int, int], bounds) -> np.ndarray:
    """The window of the array resized bilinearly."""
    choose = _span_from_corner if dtype == np.uint8 else _span_from_edge
    rows, columns = (choose(*bound, length, target) for bound, length, target in zip(bounds, source.shape, size))
    scales = size[0] / source.shape[0], size[1] / source.shape[1]
    if all(round((span.last - span.first) * scale) == span.last - span.first
           for span, scale in zip((rows, columns), scales)):
        # A part so small that its size stays would be copied instead of resized.
        whole = cv2.resize(source.astype(dtype, copy=False), size[::-1], interpolation=cv2.INTER_LINEAR)
        return whole[slice(*bounds[0]), slice(*bounds[1])]
    mirrored = rows.mirrored, columns.mirrored
    part = source[_source_slice(rows, source.shape[0]), _source_slice(columns, source.shape[1])]
    resized = cv2.resize(_mirror(part.astype(dtype, copy=False), mirrored), None, fx=scales[1], fy=scales[0],
                         interpolation=cv2.INTER_LINEAR)
    return _mirror(resized[rows.start:rows.stop, columns.start:columns.stop], mirrored)


def _source_slice(span: _Span, length: int) -> slice:
    return slice(length - span.last, length - span.first) if span.mirrored else slice(span.first, span.last)


def _span_from_corner(start: int, stop: int, source: int, target: int) -> _Span:
    """Source range for the window start..stop of an axis resized from `source` to `target`, with all before it."""
    return _Span(0, _last(stop, source, target), start, stop, False)


def _span_from_edge(start: int, stop: int, source: int, target: int) -> _Span:
    """The same from an edge that both sizes share, from the left or, mirrored, from the right: what is nearer."""
    edge, far_edge = _edge_before(start, source, target), _edge_before(target - stop, source, target)
    mirrored = start - edge > target - stop - far_edge
    if mirrored:
        start, stop, edge = target - stop, target - start, far_edge
    return _Span(edge * source // target, _last(stop, source, target), start - edge, stop - edge, mirrored)


def _last(stop: int, source: int, target: int) -> int:
    """Return the source's smallest end: the last pixel has its right neighbour, the resized part reaches `stop`."""
    scale = source / target
    return min(source, max(math.ceil(stop * scale), math.floor((stop - 0.5) * scale - 0.5) + 2))


def _edge_before(start: int, source: int, target: int) -> int:
    """The last resized pixel at or before `start` whose edge is an edge of the source.

    Unless it's the array's own edge, pixel `start` must not need a source pixel beyond it.
    """
    step = target // math.gcd(source, target)
    edge = start // step * step
    needed = math.floor((start + 0.5) * source / target - 0.5)
    return edge if edge * source // target <= max(needed, 0) else edge - step
