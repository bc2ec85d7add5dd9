"""Scores of a segmentation from one integer confusion matrix.

Letters: C classes; matrix[i, j] counts the pixels of class i that were predicted as j.
"""

from dataclasses import dataclass, field
from typing import Dict

import numpy as np


def confusion_matrix(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """Count pixels by (label, prediction) as int64 (C, C); pixels labelled `ignore_index` don't count.

    Args:
        pred: classes 0..C-1, of the label's shape.
        label: classes 0..C-1, or `ignore_index`; fastest as uint8.

    Raises:
        ValueError: shapes differ, or a value is out of range.
    """
    if pred.shape != label.shape:
        raise ValueError(f"prediction {pred.shape} and label {label.shape} differ in shape")
    values = max(256, num_classes)  # that a label can have
    pairs = _in_range(label, values, "label").astype(np.min_scalar_type(values * num_classes - 1))
    pairs *= pairs.dtype.type(num_classes)
    pairs += _in_range(pred, num_classes, "prediction").astype(pairs.dtype, copy=False)
    counts = np.bincount(pairs.ravel(), minlength=values * num_classes).reshape(values, num_classes)
    if 0 <= ignore_index < values:
        counts[ignore_index] = 0
    if counts[num_classes:].any():
        raise ValueError(f"the label {num_classes + counts[num_classes:].any(axis=1).argmax()} is neither a class "
                         f"0..{num_classes - 1} nor {ignore_index}, which is ignored")
    return counts[:num_classes]


def _in_range(classes: np.ndarray, end: int, name: str) -> np.ndarray:
    """The same array, where all is in 0..end-1; else a ValueError."""
    if classes.size and np.iinfo(classes.dtype).max >= end:
        for value in (classes.min(), classes.max()):
            if not 0 <= value < end:
                raise ValueError(f"a {name} of {value} is not in 0..{end - 1}")
    return classes


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; per-class arrays have length C, NaN where undefined.

    A class that occurs neither in labels nor in predictions has no IoU and doesn't enter
    the means, as in Cityscapes' own evaluation.

    Attributes:
        losses: the mean of each over the images, where an evaluation was asked for them.
    """

    matrix: np.ndarray
    losses: Dict[str, float] = field(default_factory=dict)

    @property
    def _hits(self) -> np.ndarray:
        return np.diag(self.matrix).astype(np.float64)

    @property
    def _labelled(self) -> np.ndarray:
        return self.matrix.sum(axis=1).astype(np.float64)

    @property
    def _predicted(self) -> np.ndarray:
        return self.matrix.sum(axis=0).astype(np.float64)

    @property
    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN)."""
        return _ratio(self._hits, self._labelled + self._predicted - self._hits)

    @property
    def precision(self) -> np.ndarray:
        """TP / (TP + FP)."""
        return _ratio(self._hits, self._predicted)

    @property
    def recall(self) -> np.ndarray:
        """TP / (TP + FN)."""
        return _ratio(self._hits, self._labelled)

    @property
    def dice(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self._hits, self._labelled + self._predicted)

    @property
    def miou(self) -> float:
        return _mean(self.iou)

    @property
    def mdice(self) -> float:
        return _mean(self.dice)

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        return float(_ratio(self._hits.sum(), self._labelled.sum()))

    @property
    def kappa(self) -> float:
        """Cohen's kappa: accuracy beyond chance agreement."""
        total = self._labelled.sum()
        chance = _ratio((self._labelled * self._predicted).sum(), total * total)
        return float(_ratio(self.accuracy - chance, 1 - chance))

    @property
    def commonest_class_miou(self) -> float:
        """The mIoU of predicting the commonest class everywhere, over the classes in the labels."""
        labelled = self._labelled
        present = np.count_nonzero(labelled)
        return float(labelled.max() / labelled.sum() / present) if present else float("nan")


def _ratio(part, whole):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(whole) != 0, np.divide(part, whole), np.nan)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
