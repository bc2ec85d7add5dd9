"""The class of every pixel from coarse logits, without the upsampled logits between.

Letters: C classes; h, w of the coarse logits; H, W of the size they are resized to. Sizes are (height, width).

On a CPU three things make it several times faster than resizing and taking the argmax, and the result is the same to
the last pixel:

    Bilinear interpolation stays between the coarse logits around. So where the largest logit of a class near a tile is
    below the smallest of another, the class is largest nowhere in the tile; most tiles of a picture are left with one.

    In the other tiles the logits are interpolated as two matrix products, a band of rows at a time, which stays in the
    processor's cache. Rounding differs from Paddle's; where the largest class leads by more than both can be off, it is
    the same class.

    Elsewhere, at a few pixels in a million, the same multiplications and additions are done as in Paddle's kernel, in
    its order, with the weights that it says it takes.

A GPU makes and reads the upsampled logits of a Cityscapes image in about a millisecond; there that is what is done.
"""

from functools import cache, lru_cache
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

_TILE_PX = 16  # the least height and width of a tile
# Products, sums, and weights that don't quite add up to 1 move an interpolated value by less than 9 * 2^-24 of the
# largest logit. Two values computed in one way are never off by this together, two computed in two ways never by twice
# this.
_ROUNDING = 2e-6


def resize(x: paddle.Tensor, size: Sequence[int], align_corners: bool = False) -> paddle.Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, H, W)."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


def upsampled_argmax(logits: paddle.Tensor, size: Sequence[int], align_corners: bool,
                     crop: Tuple[int, int]) -> paddle.Tensor:
    """`resize(logits, size, align_corners)`, cropped at right and below, and the first largest class of each pixel.

    Args:
        logits: (1, C, h, w).
        crop: the size that is left, at most `size`.

    Returns: `crop`, uint8; int32 if C > 256.
    """
    dtype = "uint8" if logits.shape[1] <= 256 else "int32"
    if _is_tiled(logits, size):
        coarse = logits[0].numpy()
        if np.isfinite(coarse).all():
            return paddle.to_tensor(_tiled_argmax(coarse, size, align_corners, crop, dtype))
    upsampled = resize(logits, size, align_corners)[:, :, :crop[0], :crop[1]]
    return paddle.argmax(upsampled, axis=1, dtype="int32")[0].astype(dtype)


def _is_tiled(logits: paddle.Tensor, size: Sequence[int]) -> bool:
    """Whether the resize is one that `_tiled_argmax` computes; Paddle has rules of its own for lengths of 1."""
    lengths = list(logits.shape[2:])
    return (logits.place.is_cpu_place() and logits.dtype == paddle.float32 and lengths != list(size)
            and min(*lengths, *size) > 1 and _rounds_as_paddle())


class _Axis(NamedTuple):
    """Along one axis, the two coarse pixels that each upsampled one lies between, and their weights."""

    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray
    upper_weight: np.ndarray

    def take(self, which) -> "_Axis":
        return _Axis(*(values[which] for values in self))

    def counted_from(self, first: int) -> "_Axis":
        return self._replace(lower=self.lower - first, upper=self.upper - first)


@lru_cache(maxsize=256)
def _axis(length: int, target: int, axis: int, align_corners: bool) -> _Axis:
    """Ask F.interpolate: versions of Paddle round the positions of rows and of columns differently.

    The question is a unit matrix of twice the length, or of as many steps from corner to corner: positions are the same
    in its first half, and it doesn't end there, where two weights would fall upon the last pixel as one.
    """
    double, targets = 2 * length - align_corners, 2 * target - align_corners
    unit = paddle.eye(double, dtype="float32").reshape([1, double, double, 1] if axis == 0 else [1, double, 1, double])
    answer = resize(unit, [targets, 1] if axis == 0 else [1, targets], align_corners)
    weights = answer.numpy().reshape(double, targets)[:, :target]
    lower, each = (weights > 0).argmax(axis=0), np.arange(target)
    return _Axis(lower, np.minimum(lower + 1, length - 1), weights[lower, each], weights[lower + 1, each])


@cache
def _rounds_as_paddle() -> bool:
    """Whether `_interpolate` gives the bits of this Paddle: a compiler may fuse multiplications and additions."""
    coarse = np.random.default_rng(0).normal(size=(1, 3, 9, 11)).astype(np.float32)
    return all(np.array_equal(_interpolate(coarse[0], _axis(9, size[0], 0, align), _axis(11, size[1], 1, align)),
                              resize(paddle.to_tensor(coarse), size, align)[0].numpy())
               for size, align in (((72, 88), False), ((31, 53), False), ((31, 53), True)))


def _tiled_argmax(coarse: np.ndarray, size: Sequence[int], align_corners: bool, crop: Tuple[int, int],
                  dtype: str) -> np.ndarray:
    """As `upsampled_argmax`, of (C, h, w) float32."""
    rows = _axis(coarse.shape[1], size[0], 0, align_corners).take(slice(crop[0]))
    columns = _axis(coarse.shape[2], size[1], 1, align_corners).take(slice(crop[1]))
    margin = np.float32(_ROUNDING) * np.abs(coarse).max()
    tops, lefts = _cuts(rows.lower), _cuts(columns.lower)
    possible = _possible_classes(coarse, rows, tops, columns, lefts, margin)
    classes = possible.argmax(axis=0).astype(dtype)
    classes = classes.repeat(np.diff(tops), axis=0).repeat(np.diff(lefts), axis=1)
    is_open = possible.sum(axis=0) > 1
    for band in np.flatnonzero(is_open.any(axis=1)):
        height = slice(tops[band], tops[band + 1])
        where = np.flatnonzero(is_open[band].repeat(np.diff(lefts)))
        which = np.flatnonzero(possible[:, band, is_open[band]].any(axis=1))
        first, last = rows.lower[height.start], rows.upper[height.stop - 1]
        winner = _band_argmax(coarse[which, first:last + 1], rows.take(height).counted_from(first),
                              columns.take(where), margin, dtype)
        classes[height, where] = which.astype(dtype)[winner]
    return classes


def _cuts(lower: np.ndarray) -> np.ndarray:
    """Where tiles begin, and the end of the last: where the coarse pixel changes, `_TILE_PX` or more apart."""
    cuts: List[int] = [0]
    for start in np.flatnonzero(np.diff(lower)) + 1:
        if start - cuts[-1] >= _TILE_PX:
            cuts.append(start)
    return np.array([*cuts, len(lower)])


def _possible_classes(coarse: np.ndarray, rows: _Axis, tops: np.ndarray, columns: _Axis, lefts: np.ndarray,
                      margin: np.float32) -> np.ndarray:
    """Which classes may be largest somewhere in each tile, bool (C, bands, tiles)."""
    largest, smallest = (_reduce(_reduce(coarse, 1, rows, tops, ufunc), 2, columns, lefts, ufunc)
                         for ufunc in (np.maximum, np.minimum))
    return largest >= smallest.max(axis=0) - margin


def _reduce(values: np.ndarray, number: int, axis: _Axis, cuts: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
    """Reduce the coarse pixels that a tile lies between to one value, along the axis of this number."""
    first, last = axis.lower[cuts[:-1]], axis.upper[cuts[1:] - 1]
    reduced = np.take(values, first, axis=number)
    for step in range(1, (last - first).max() + 1):
        ufunc(reduced, np.take(values, np.minimum(first + step, last), axis=number), out=reduced)
    return reduced


def _band_argmax(part: np.ndarray, rows: _Axis, columns: _Axis, margin: np.float32, dtype: str) -> np.ndarray:
    """The first largest of K classes at each row and column; `part` is (K, coarse rows, w)."""
    winner, lead = _fast_argmax(part, rows, columns, dtype)
    unsure = np.flatnonzero((lead <= 2 * margin).any(axis=0))
    if len(unsure):
        winner[:, unsure] = _interpolate(part, rows, columns.take(unsure)).argmax(axis=0)
    return winner


def _fast_argmax(part: np.ndarray, rows: _Axis, columns: _Axis, dtype: str) -> Tuple[np.ndarray, np.ndarray]:
    """The largest of K classes and its lead over the next one, as a matrix product happens to round."""
    across = (np.take(part, columns.lower, axis=2) * columns.lower_weight
              + np.take(part, columns.upper, axis=2) * columns.upper_weight)
    down, each = np.zeros((len(rows.lower), part.shape[1]), np.float32), np.arange(len(rows.lower))
    down[each, rows.lower] = rows.lower_weight
    down[each, rows.upper] += rows.upper_weight
    shape = len(rows.lower), len(columns.lower)
    best, second, value, lesser = np.empty((4, *shape), np.float32)
    is_better, winner, index = np.empty(shape, bool), np.zeros(shape, dtype), np.empty(shape, dtype)
    np.matmul(down, across[0], out=best)
    second.fill(-np.inf)
    for k in range(1, len(part)):
        np.matmul(down, across[k], out=value)
        np.greater(value, best, out=is_better)
        np.multiply(is_better, index.dtype.type(k), out=index)
        np.maximum(winner, index, out=winner)
        np.minimum(value, best, out=lesser)
        np.maximum(second, lesser, out=second)
        np.maximum(value, best, out=best)
    return winner, best - second


def _interpolate(part: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    """(K, rows, columns) float32 as Paddle's kernel computes it: these products and sums in this order."""
    above, below = part[:, rows.lower], part[:, rows.upper]
    of_above, of_below = rows.lower_weight[:, np.newaxis], rows.upper_weight[:, np.newaxis]
    return (above[:, :, columns.lower] * of_above * columns.lower_weight
            + below[:, :, columns.lower] * of_below * columns.lower_weight
            + above[:, :, columns.upper] * of_above * columns.upper_weight
            + below[:, :, columns.upper] * of_below * columns.upper_weight)
