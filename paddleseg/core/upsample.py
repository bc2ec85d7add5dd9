"""The class of every pixel from coarse logits, without the upsampled logits between.

Letters: C classes; h, w of the coarse logits; H, W of the size they are resized to. Sizes are (height, width).

Coarse logits and the way they come to the size of a picture are a sheet. One sheet gives the classes of a whole image;
those of several lie upon each other, as the windows do that slide over it, whose logits are averaged, or as its scales
and mirror images do, whose probabilities are summed.

On a CPU three things make it several times faster than resizing and taking the argmax, and the result is the same to
the last pixel:

    Bilinear interpolation stays between the coarse logits around. So where the largest logit of a class near a tile is
    below the smallest of another, the class is largest nowhere in the tile; most tiles of a picture are left with one.
    From the bounds of logits follow those of their sums and of probabilities.

    In the other tiles the logits are interpolated as matrix products, a band of rows at a time, which stays in the
    processor's cache. Rounding differs from Paddle's; where the largest class leads by more than both can be off, it is
    the same class.

    Elsewhere, at a few pixels in a million, the same multiplications and additions are done as in Paddle's kernels, in
    their order, with the weights that it says it takes. (Paddle's softmax of a whole picture computes the last class of
    its last pixels, fewer than 16, by another rule, which may be off by a unit in the last place from the one here.)

A GPU makes and reads the upsampled logits of a Cityscapes image in about a millisecond; there that is what is done.
"""

from functools import cache, lru_cache
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

_TILE_PX = 16  # the least height and width of a tile
# Products, sums, and weights that don't quite add up to 1 move an interpolated value by less than 9 * 2^-24 of the
# largest logit. Two values computed in one way are never off by this together, two computed in two ways never by twice
# this.
_ROUNDING = 2e-6
_UNIT = 2.0 ** -24  # by which a sum, a product or a quotient is off at most, of itself
_LANES = 64  # pixels; of a multiple Paddle's softmax computes all alike
_EXACT_PX = 1 << 14  # computed to the bit at a time


class Resize(NamedTuple):
    """One step to the size of a picture: a bilinear resize, and the axes (0 down, 1 across) to mirror after it."""

    size: Tuple[int, int]
    align_corners: bool = False
    mirrored: Tuple[int, ...] = ()


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
    sheet = make_sheet(logits, [Resize(tuple(size), align_corners)])
    if sheet is not None:
        return paddle.to_tensor(_tiled_argmax([sheet.crop(slice(crop[0]), slice(crop[1]))], False))
    upsampled = resize(logits, size, align_corners)[:, :, :crop[0], :crop[1]]
    return paddle.argmax(upsampled, axis=1, dtype="int32")[0].astype(class_dtype(logits.shape[1]))


def class_dtype(classes: int) -> str:
    """The smaller one of two that hold a class index."""
    return "uint8" if classes <= 256 else "int32"


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


class Sheet(NamedTuple):
    """Coarse logits, float32 (C, h, w), and the steps of rows and of columns from them to pixels."""

    coarse: np.ndarray
    rows: List[_Axis]
    columns: List[_Axis]

    def crop(self, down: slice, across: slice) -> "Sheet":
        """The sheet of a part of its pixels."""
        return self._replace(rows=[*self.rows[:-1], self.rows[-1].take(down)],
                             columns=[*self.columns[:-1], self.columns[-1].take(across)])

    def take(self, classes: np.ndarray, down: np.ndarray, across: np.ndarray) -> "Sheet":
        """What these classes at these pixels need, and no more."""
        rows, columns = _taken(self.rows, down), _taken(self.columns, across)
        corner = [axes[0].lower.min() for axes in (rows, columns)]
        ends = [axes[0].upper.max() + 1 for axes in (rows, columns)]
        return Sheet(self.coarse[classes, corner[0]:ends[0], corner[1]:ends[1]],
                     [rows[0].counted_from(corner[0]), *rows[1:]], [columns[0].counted_from(corner[1]), *columns[1:]])

    @property
    def error(self) -> float:
        """Of a value, computed in two ways."""
        return _ROUNDING * len(self.rows) * float(np.abs(self.coarse).max())


def _taken(axes: Sequence[_Axis], which: np.ndarray) -> List[_Axis]:
    """The steps to some targets: each gives just the pixels that the next one lies between, side by side."""
    taken = [axes[-1].take(which)]
    for axis in reversed(axes[:-1]):
        later = taken[0]
        count = len(later.lower)
        taken[0] = later._replace(lower=np.arange(count), upper=np.arange(count, 2 * count))
        taken.insert(0, axis.take(np.concatenate([later.lower, later.upper])))
    return taken


def make_sheet(logits: paddle.Tensor, steps: Sequence[Resize]) -> Optional[Sheet]:
    """The sheet of (1, C, h, w); None if these logits or steps aren't ones that tiles are made for.

    Paddle has rules of its own for lengths of 1.
    """
    if not (logits.place.is_cpu_place() and logits.dtype == paddle.float32 and _rounds_as_paddle()):
        return None
    coarse = logits[0].numpy()
    size, rows, columns = coarse.shape[1:], [], []
    for step in steps:
        if min(*size, *step.size) < 2:
            return None
        if step.size != size:
            rows.append(_axis(size[0], step.size[0], 0, step.align_corners))
            columns.append(_axis(size[1], step.size[1], 1, step.align_corners))
        for number, axes in enumerate((rows, columns)):
            if number in step.mirrored and axes:
                axes[-1] = axes[-1].take(slice(None, None, -1))
            elif number in step.mirrored:
                coarse = np.flip(coarse, number + 1)
        size = step.size
    if not rows or not np.isfinite(coarse).all():
        return None
    return Sheet(coarse, rows, columns)


@lru_cache(maxsize=256)
def _axis(length: int, target: int, axis: int, align_corners: bool) -> _Axis:
    """Ask F.interpolate: versions of Paddle round the positions of rows and of columns differently.

    The question is a unit matrix of twice the length, or of as many steps from corner to corner: positions are the same
    in its first half, and it doesn't end there, where two weights would fall upon the last pixel as one.
    """
    double, targets, used = 2 * length - align_corners, 2 * target - align_corners, length + 1
    shape = [1, used, double, 1] if axis == 0 else [1, used, 1, double]
    unit = paddle.eye(used, double, dtype="float32").reshape(shape)
    answer = resize(unit, [targets, 1] if axis == 0 else [1, targets], align_corners)
    weights = answer.numpy().reshape(used, targets)[:, :target]
    lower, each = (weights > 0).argmax(axis=0), np.arange(target)
    return _Axis(lower, np.minimum(lower + 1, length - 1), weights[lower, each], weights[lower + 1, each])


@cache
def _rounds_as_paddle() -> bool:
    """Whether `_interpolate` gives the bits of this Paddle: a compiler may fuse multiplications and additions."""
    coarse = np.random.default_rng(0).normal(size=(1, 3, 9, 11)).astype(np.float32)
    for size, align in (((72, 88), False), ((31, 53), False), ((31, 53), True)):
        values = _interpolate(coarse[0], [_axis(9, size[0], 0, align)], [_axis(11, size[1], 1, align)],
                              *np.indices(size).reshape(2, -1))
        if not np.array_equal(values.reshape(3, *size), resize(paddle.to_tensor(coarse), size, align)[0].numpy()):
            return False
    return True


def windows_argmax(sheets: Sequence[Sheet], boxes: Sequence[Tuple[slice, slice]], crop: Tuple[int, int]) -> np.ndarray:
    """The first largest class of each pixel, by the mean of all windows over it.

    Args:
        sheets: of the windows' logits, each of its window's size.
        boxes: the rows and columns of the windows; together they cover `crop`.

    Returns: `crop`, uint8; int32 if C > 256.
    """
    classes = np.empty(crop, class_dtype(len(sheets[0].coarse)))
    tops, lefts = (sorted({0, end, *(min(edge, end) for box in boxes for edge in (box[axis].start, box[axis].stop))})
                   for axis, end in enumerate(crop))
    for top, bottom in zip(tops, tops[1:]):
        for left, right in zip(lefts, lefts[1:]):
            over = [sheet.crop(slice(top - rows.start, bottom - rows.start),
                               slice(left - columns.start, right - columns.start))
                    for sheet, (rows, columns) in zip(sheets, boxes)
                    if rows.start <= top and bottom <= rows.stop and columns.start <= left and right <= columns.stop]
            classes[top:bottom, left:right] = _tiled_argmax(over, False)
    return classes


def probabilities_argmax(sheets: Sequence[Sheet], crop: Tuple[int, int]) -> np.ndarray:
    """The first largest class of each pixel, by the sum of the sheets' probabilities; `crop`, uint8 or int32."""
    return _tiled_argmax([sheet.crop(slice(crop[0]), slice(crop[1])) for sheet in sheets], True)


def _tiled_argmax(sheets: Sequence[Sheet], probabilities: bool) -> np.ndarray:
    """The first largest class of each pixel, by the mean of the sheets' logits or the sum of their probabilities."""
    reaches = [(_reach(sheet.rows), _reach(sheet.columns)) for sheet in sheets]
    tops, lefts = (_cuts(reach[0]) for reach in reaches[0])
    margin = _margin(sheets, probabilities)
    possible = _possible_classes(sheets, reaches, tops, lefts, probabilities, margin)
    dtype = class_dtype(len(possible))
    classes = possible.argmax(axis=0).astype(dtype)
    classes = classes.repeat(np.diff(tops), axis=0).repeat(np.diff(lefts), axis=1)
    is_open = possible.sum(axis=0) > 1
    evaluate, unsure = _fast_probabilities_argmax if probabilities else _fast_argmax, []
    for band in np.flatnonzero(is_open.any(axis=1)):
        down = np.arange(tops[band], tops[band + 1])
        across = np.flatnonzero(is_open[band].repeat(np.diff(lefts)))
        which = np.flatnonzero(possible[:, band, is_open[band]].any(axis=1))
        winner, lead = evaluate(sheets, which, down, across)
        classes[down[0]:down[-1] + 1, across] = which.astype(dtype)[winner]
        row, column = np.nonzero(lead <= 2 * margin)
        unsure.append((down[row], across[column]))
    if unsure:
        down, across = (np.concatenate(places) for places in zip(*unsure))
        for start in range(0, len(down), _EXACT_PX):
            some = slice(start, start + _EXACT_PX)
            classes[down[some], across[some]] = _exact_argmax(sheets, down[some], across[some], probabilities)
    return classes


def _margin(sheets: Sequence[Sheet], probabilities: bool) -> np.float32:
    """By which two classes' values, computed in one way, are never off together; half as much as in two ways."""
    count, error = len(sheets), sum(sheet.error for sheet in sheets)
    if probabilities:  # they move by half of what a logit does, and by the rounding of powers, their sum and quotients
        return np.float32(error / 2 + count * (32 + len(sheets[0].coarse) + 4 * count) * _UNIT)
    return np.float32(error + 4 * (count - 1) * _UNIT * sum(float(np.abs(sheet.coarse).max()) for sheet in sheets))


def _reach(axes: Sequence[_Axis]) -> Tuple[np.ndarray, np.ndarray]:
    """The first and the last coarse pixel that each target depends on."""
    first, last = axes[0].lower, axes[0].upper
    for axis in axes[1:]:
        first, last = (np.minimum(first[axis.lower], first[axis.upper]), np.maximum(last[axis.lower], last[axis.upper]))
    return first, last


def _cuts(first: np.ndarray) -> np.ndarray:
    """Where tiles begin, and the end of the last: where the coarse pixel changes, `_TILE_PX` or more apart."""
    cuts: List[int] = [0]
    for start in np.flatnonzero(np.diff(first)) + 1:
        if start - cuts[-1] >= _TILE_PX:
            cuts.append(start)
    return np.array([*cuts, len(first)])


def _possible_classes(sheets: Sequence[Sheet], reaches, tops: np.ndarray, lefts: np.ndarray, probabilities: bool,
                      margin: np.float32) -> np.ndarray:
    """Which classes may be largest somewhere in each tile, bool (C, bands, tiles)."""
    most = least = np.float32(0)
    for sheet, (rows, columns) in zip(sheets, reaches):
        largest, smallest = (_reduce(_reduce(sheet.coarse, 1, rows, tops, ufunc), 2, columns, lefts, ufunc)
                             for ufunc in (np.maximum, np.minimum))
        if probabilities:
            largest, smallest = _bounds_of_probabilities(largest, smallest)
        most, least = most + largest, least + smallest
    return most >= least.max(axis=0) - margin


def _bounds_of_probabilities(largest: np.ndarray, smallest: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Of softmax over the first axis, from the bounds of its arguments.

    p_k = 1 / (1 + sum over the others of e^(x_j - x_k)) is largest where x_k is and the others are smallest.
    """
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is right
        bounds = []
        for own, others, slack in ((largest, smallest, -1e-5), (smallest, largest, 1e-5)):
            shift = others.max(axis=0)
            powers = np.exp(others - shift)
            rest = np.maximum(powers.sum(axis=0) - powers + np.float32(slack), 0)  # but for rounding
            bounds.append(1 / (1 + rest * np.exp(shift - own)))
    return bounds[0], bounds[1]


def _reduce(values: np.ndarray, number: int, reach: Tuple[np.ndarray, np.ndarray], cuts: np.ndarray,
            ufunc: np.ufunc) -> np.ndarray:
    """Reduce the coarse pixels that a tile depends on to one value, along the axis of this number."""
    ends = cuts[:-1], cuts[1:] - 1  # one of them is first, in a mirror image the other
    first, last = np.minimum(*(reach[0][end] for end in ends)), np.maximum(*(reach[1][end] for end in ends))
    reduced = np.take(values, first, axis=number)
    for step in range(1, (last - first).max() + 1):
        ufunc(reduced, np.take(values, np.minimum(first + step, last), axis=number), out=reduced)
    return reduced


def _fast_argmax(sheets: Sequence[Sheet], which: np.ndarray, down: np.ndarray,
                 across: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The class of the largest sum of logits and its lead over the next one, as matrix products happen to round."""
    parts = [_as_products(sheet.take(which, down, across)) for sheet in sheets]
    left, right = np.concatenate([part[0] for part in parts], 1), np.concatenate([part[1] for part in parts], 1)
    ranking = _Ranking(len(down), len(across), len(which))
    value = np.empty((len(down), len(across)), np.float32)
    for matrix in right:
        ranking.add(np.matmul(left, matrix, out=value))
    return ranking.winner, ranking.best - ranking.second


def _fast_probabilities_argmax(sheets: Sequence[Sheet], which: np.ndarray, down: np.ndarray,
                               across: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """As `_fast_argmax`, of the sum of probabilities, to which all classes contribute."""
    everything = np.arange(len(sheets[0].coarse))
    total = np.zeros((len(which), len(down), len(across)), np.float32)
    for sheet in sheets:
        left, right = _as_products(sheet.take(everything, down, across))
        powers = np.matmul(left, right)
        powers -= powers.max(axis=0)
        np.exp(powers, out=powers)
        scale = 1 / powers.sum(axis=0)
        for values, place in zip(total, which):
            values += np.multiply(powers[place], scale, out=powers[place])
    ranking = _Ranking(len(down), len(across), len(which))
    for values in total:
        ranking.add(values)
    return ranking.winner, ranking.best - ranking.second


def _as_products(sheet: Sheet) -> Tuple[np.ndarray, np.ndarray]:
    """A matrix (rows, r) and one for each class (C, r, columns), whose products are the interpolated values."""
    left, right = np.eye(sheet.coarse.shape[1], dtype=np.float32), sheet.coarse
    for axis in sheet.rows:
        left = left[axis.lower] * axis.lower_weight[:, np.newaxis] + left[axis.upper] * axis.upper_weight[:, np.newaxis]
    for axis in sheet.columns:
        right = (np.take(right, axis.lower, axis=2) * axis.lower_weight
                 + np.take(right, axis.upper, axis=2) * axis.upper_weight)
    return left, right


class _Ranking:
    """The first largest and the second largest of values that are added class by class."""

    def __init__(self, height: int, width: int, classes: int):
        self.best, self.second, self._lesser = np.full((3, height, width), -np.inf, np.float32)
        self.winner, self._index = np.zeros((2, height, width), class_dtype(classes))
        self._is_better = np.empty((height, width), bool)
        self._count = 0

    def add(self, value: np.ndarray) -> None:
        np.greater(value, self.best, out=self._is_better)
        np.multiply(self._is_better, self._index.dtype.type(self._count), out=self._index)
        np.maximum(self.winner, self._index, out=self.winner)
        np.minimum(value, self.best, out=self._lesser)
        np.maximum(self.second, self._lesser, out=self.second)
        np.maximum(value, self.best, out=self.best)
        self._count += 1


def _exact_argmax(sheets: Sequence[Sheet], down: np.ndarray, across: np.ndarray, probabilities: bool) -> np.ndarray:
    """The first largest class at single pixels, by their rows and columns, from values to the bit as Paddle's."""
    total = None
    for sheet in sheets:
        values = _interpolate(sheet.coarse, sheet.rows, sheet.columns, down, across)
        if probabilities:
            values = _softmax(values)
        total = values if total is None else total + values
    if not probabilities and len(sheets) > 1:
        total /= np.float32(len(sheets))
    return total.argmax(axis=0)


def _softmax(values: np.ndarray) -> np.ndarray:
    """Paddle's softmax over the classes of (C, pixels)."""
    count = values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -count % _LANES)))
    return F.softmax(paddle.to_tensor(padded[np.newaxis]), axis=1)[0].numpy()[:, :count]


def _interpolate(coarse: np.ndarray, rows: Sequence[_Axis], columns: Sequence[_Axis], down: np.ndarray,
                 across: np.ndarray) -> np.ndarray:
    """(C, pixels) float32 as Paddle's kernel computes them: these products and sums in this order."""
    if not rows:
        return coarse[:, down, across]
    row, column = rows[-1].take(down), columns[-1].take(across)
    corners = _interpolate(coarse, rows[:-1], columns[:-1],
                           np.concatenate([row.lower, row.upper, row.lower, row.upper]),
                           np.concatenate([column.lower, column.lower, column.upper, column.upper]))
    above_left, below_left, above_right, below_right = np.split(corners, 4, axis=1)
    return (above_left * row.lower_weight * column.lower_weight
            + below_left * row.upper_weight * column.lower_weight
            + above_right * row.lower_weight * column.upper_weight
            + below_right * row.upper_weight * column.upper_weight)
