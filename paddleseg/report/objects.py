"""How well objects of each size are found.

An object is a connected component, over 8 neighbours, of the pixels of a class. Letters: H and W of an image, C
classes, B bins of size, R runs, which are stretches of one class in a row.
"""

from typing import List, NamedTuple

import numpy as np

EDGES_PX = (8, 16, 32, 64, 128, 256)  # between bins: sides of the squares that have an object's area
_PREDICTED = 256  # added to the class of a predicted object; a label has 8 bits


class Components(NamedTuple):
    """The connected components of all classes of an image.

    Attributes:
        starts: (R,), the first pixel of each run, counted row by row.
        number: (R,), the component that a run belongs to.
        classes: of each component.
        areas: of each component, in pixels, int64.
    """

    starts: np.ndarray
    number: np.ndarray
    classes: np.ndarray
    areas: np.ndarray

    def count(self, flags: np.ndarray) -> np.ndarray:
        """How many pixels of each component are set in (H, W) bool, as int64."""
        of_runs = np.add.reduceat(flags.ravel().view(np.uint8), self.starts, dtype=np.int64)
        return _sums(self.number, of_runs, len(self.areas))


def components(classes: np.ndarray) -> Components:
    """Find the components of (H, W) integers; runs are joined, not pixels, which takes a tenth of the time.

    Two runs of neighbouring rows touch exactly if the pixel above or below the first pixel of one, or the one to the
    left of that, lies in the other.
    """
    flat, width = np.ascontiguousarray(classes).ravel(), classes.shape[1]
    begins = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    kinds, count = flat[starts], len(starts)
    in_second_row, in_last_row = np.searchsorted(starts, [width, flat.size - width])
    is_first = starts % width == 0  # of its row
    one, other = [], []
    for runs, step in ((slice(in_second_row, count), -width), (slice(0, in_last_row), width)):
        reached = starts[runs] + step
        found = np.searchsorted(starts, reached, side="right") - 1
        # Where a run begins just there, the pixel to the left is of the run before it.
        corner = (starts[found] == reached) & ~is_first[runs] & (kinds[found - 1] == kinds[runs])
        for touched, is_so in ((found, kinds[found] == kinds[runs]), (found - 1, corner)):
            places = np.flatnonzero(is_so)
            one.append(places + runs.start)
            other.append(touched[places])
    root = _join(count, np.concatenate(one), np.concatenate(other))
    is_root = root == np.arange(count)
    number = (np.cumsum(is_root) - 1)[root]
    classes = kinds[is_root]
    return Components(starts, number, classes, _sums(number, np.diff(starts, append=flat.size), len(classes)))


def _join(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smallest member of the group of each of `count` items; pairs (one, other) are of one group."""
    root = np.arange(count)
    while len(one):
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        higher = root[root]
        while (higher != root).any():
            root, higher = higher, higher[higher]
        one, other = root[one], root[other]
        apart = np.flatnonzero(one != other)
        one, other = one[apart], other[apart]
    return root


def _sums(number: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The sum of the values of each number, as int64."""
    return np.bincount(number, weights=values, minlength=count).astype(np.int64)  # exact up to 2 ** 53


def bin_names() -> List[str]:
    """Each bin in words, such as "8-16 px"."""
    inner = [f"{low}-{high} px" for low, high in zip(EDGES_PX, EDGES_PX[1:])]
    return [f"below {EDGES_PX[0]} px", *inner, f"{EDGES_PX[-1]} px and more"]


class ObjectSizes:
    """Counts of pixels by class and size, int64 (C, B).

    The sums of `hits`, `truth` and `false` over all bins are those of a confusion matrix: TP, TP + FN and FP.

    Attributes:
        objects: true objects.
        truth: pixels of true objects, in the bin of the object.
        hits: those of them that were predicted as the object's class.
        false: pixels predicted as another class than the true one, in the bin of the predicted object that they lie in.
    """

    def __init__(self, num_classes: int, ignore_index: int):
        self.ignore_index = ignore_index
        self.counts = np.zeros([4, num_classes, len(EDGES_PX) + 1], np.int64)

    @property
    def objects(self) -> np.ndarray:
        return self.counts[0]

    @property
    def truth(self) -> np.ndarray:
        return self.counts[1]

    @property
    def hits(self) -> np.ndarray:
        return self.counts[2]

    @property
    def false(self) -> np.ndarray:
        return self.counts[3]

    def add(self, pred: np.ndarray, label: np.ndarray) -> None:
        """Count an image; both (H, W), pixels labelled `ignore_index` are part of no true object."""
        right, ignored = pred == label, label == self.ignore_index
        # Both at once takes little longer than one; with numbers of their own, classes of the two don't touch.
        found = components(np.concatenate([label, pred.astype(np.int16) + _PREDICTED]))
        flagged = found.count(np.concatenate([right, ~(right | ignored)]))
        classes, bins = self.counts.shape[1:]
        is_true = (found.classes < classes) & (found.classes != self.ignore_index)
        is_predicted = found.classes >= _PREDICTED
        place = found.classes % _PREDICTED * bins + np.searchsorted(np.square(EDGES_PX), found.areas, side="right")
        for table, kept, values in ((self.objects, is_true, np.ones_like(flagged)), (self.truth, is_true, found.areas),
                                    (self.hits, is_true, flagged), (self.false, is_predicted, flagged)):
            table += _sums(place[kept], values[kept], classes * bins).reshape(classes, bins)

    @property
    def iou(self) -> np.ndarray:
        """hits / (truth + false); NaN where no true object is."""
        return np.where(self.objects > 0, self.hits / np.maximum(self.truth + self.false, 1), np.nan)

    @property
    def mean_iou(self) -> np.ndarray:
        """(B,): the mean over the classes that have objects of the size; NaN where none has."""
        iou = self.iou
        return np.array([column[~np.isnan(column)].mean() if not np.isnan(column).all() else np.nan
                         for column in iou.T])
