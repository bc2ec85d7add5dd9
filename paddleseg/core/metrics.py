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
        label: classes 0..C-1, or `ignore_index`.

    Raises:
        ValueError: shapes differ, or a value is out of range.
    """
    if pred.shape != label.shape:
        raise ValueError(f"prediction {pred.shape} and label {label.shape} differ in shape")
    valid = label != ignore_index
    pred, label = pred[valid], label[valid]
    for name, classes in (("prediction", pred), ("label", label)):
        for value in (classes.min(), classes.max()) if classes.size else ():
            if not 0 <= value < num_classes:
                raise ValueError(f"a {name} of {value} is neither a class 0..{num_classes - 1} nor {ignore_index}, "
                                 f"which is ignored")
    pairs = label.astype(np.int64) * num_classes + pred
    return np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix; per-class arrays have length C, NaN where undefined.

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
