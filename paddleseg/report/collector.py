"""Statistics for a report, gathered while a model is evaluated."""

import math
from typing import List, Tuple

import numpy as np

from paddleseg.core.metrics import Scores
from paddleseg.report.objects import ObjectSizes
from paddleseg.utils import distributed

Ranked = List[Tuple[float, int]]  # (mIoU, index in the data set)


class Collector:
    """Count object sizes and rank the best and the worst images; its memory doesn't grow with the data set.

    Args:
        dataset: the one that is evaluated.
        shown: number of images at each end.
    """

    def __init__(self, dataset, shown: int = 4):
        self.sizes = ObjectSizes(dataset.num_classes, dataset.ignore_index)
        self.best: Ranked = []
        self.worst: Ranked = []
        self._shown = shown
        self._index_of = {pair[0]: index for index, pair in reversed(list(enumerate(dataset.file_list)))}

    def add(self, path: str, pred: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> None:
        """Count an image; `matrix` is its own confusion matrix."""
        self.sizes.add(pred, label)
        miou = Scores(matrix).miou
        if not math.isnan(miou) and path in self._index_of:
            self._rank([(miou, self._index_of[path])])

    def _rank(self, images: Ranked) -> None:
        """Rank more images; among equals the first in the data set goes first."""
        self.best = sorted({*self.best, *images}, key=lambda item: (-item[0], item[1]))[:self._shown]
        self.worst = sorted({*self.worst, *images})[:self._shown]

    def share(self) -> None:
        """Merge the statistics of all processes; every process must call this once, after the evaluation."""
        self.sizes.counts = distributed.sum_over_ranks(self.sizes.counts)
        table = np.zeros([distributed.world_size(), 2 * self._shown, 2])  # index 0 stands for no image
        own = [*self.best, *self.worst]
        for place, (miou, index) in enumerate(own):
            table[distributed.rank(), place] = miou, index + 1
        self._rank([(float(miou), int(index) - 1) for miou, index in
                    distributed.sum_over_ranks(table).reshape(-1, 2) if index])
        # With few images the ends would overlap: the worst are shown as the worst alone.
        everyone = sorted({*self.best, *self.worst})
        if len(everyone) < 2 * self._shown:
            half = (len(everyone) + 1) // 2
            self.worst, self.best = everyone[:half], everyone[:half - 1:-1]
