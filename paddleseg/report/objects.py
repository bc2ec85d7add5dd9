"""IoU by the size of objects.

An object is a connected component, over 8 neighbours, of the pixels of a class. Letters: H and W of an image, C
classes, B bins of size.
"""

from typing import Tuple

import cv2
import numpy as np

EDGES_PX = (8, 16, 32, 64, 128, 256)  # between bins: sides of the squares that have an object's area
BIN_NAMES = (f"below {EDGES_PX[0]} px", *(f"{low}-{high} px" for low, high in zip(EDGES_PX, EDGES_PX[1:])),
             f"{EDGES_PX[-1]} px and more")


class ObjectSizes:
    """Counts by class and size, int64 (C, B).

    The sums of `hits`, `labelled` and `false` over all bins are those of a confusion matrix: TP, TP + FN and FP.

    Attributes:
        counts: the four below, (4, C, B).
        objects: true objects.
        labelled: pixels of true objects, in the bin of the object.
        hits: those of them that were predicted as the object's class.
        false: pixels predicted as another class than the true one, in the bin of the predicted object that they lie in.
    """

    def __init__(self, num_classes: int, ignore_index: int):
        self.ignore_index = ignore_index
        self.counts = np.zeros([4, num_classes, len(EDGES_PX) + 1], np.int64)

    objects = property(lambda self: self.counts[0])
    labelled = property(lambda self: self.counts[1])
    hits = property(lambda self: self.counts[2])
    false = property(lambda self: self.counts[3])

    def add(self, pred: np.ndarray, label: np.ndarray) -> None:
        """Count an image; both (H, W), pixels labelled `ignore_index` are part of no true object."""
        known, right = label != self.ignore_index, pred == label
        for kind in np.unique(label[known]).tolist():
            areas, hits = _components(label == kind, right)
            for table, values in ((self.objects, np.ones_like(areas)), (self.labelled, areas), (self.hits, hits)):
                np.add.at(table[kind], _bins(areas), values)
        for kind in np.unique(pred).tolist():
            areas, wrong = _components(pred == kind, known & ~right)
            np.add.at(self.false[kind], _bins(areas), wrong)

    @property
    def iou(self) -> np.ndarray:
        """hits / (labelled + false); NaN where no true object is."""
        return np.where(self.objects > 0, self.hits / np.maximum(self.labelled + self.false, 1), np.nan)

    @property
    def mean_iou(self) -> np.ndarray:
        """(B,): the mean over the classes that have objects of the size; NaN where none has."""
        iou, count = self.iou, (self.objects > 0).sum(axis=0)
        return np.where(count > 0, np.nansum(iou, axis=0) / np.maximum(count, 1), np.nan)


def _bins(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.square(EDGES_PX), areas, side="right")


def _components(mask: np.ndarray, flags: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the area of each component of a mask, and how many of its pixels are set in `flags`; all (H, W) bool."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    mask, flags = mask[y:y + height, x:x + width], flags[y:y + height, x:x + width]
    count, numbers = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)  # 0 is what isn't in the mask
    areas, flagged = (np.bincount(numbers[pixels], minlength=count)[1:] for pixels in (mask, mask & flags))
    return areas, flagged
