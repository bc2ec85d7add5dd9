"""Report of an evaluation: one HTML page with scores, confusions, sizes of objects, best and worst images."""

import datetime
import html
import math
import os
import tempfile
from typing import Dict, List, Sequence, Set, Tuple

import numpy as np

from paddleseg.core.infer import InferOptions
from paddleseg.core.metrics import Scores
from paddleseg.core.val import SCORE_COLUMNS, class_rows, headline
from paddleseg.cvlibs.errors import RunError
from paddleseg.report import page, pictures, plots
from paddleseg.report.objects import BIN_NAMES, ObjectSizes
from paddleseg.utils import distributed, logger

Ranked = List[Tuple[float, int]]  # (mIoU, index in the data set)
FILE = "report.html"
SHOWN = 4  # images at each end of the ranking


class Report:
    """Gather statistics while a model is evaluated, then write the page and its plots.

    Every process makes one and calls `add` for its own images and `write` once; rank 0 writes.

    Attributes:
        sizes: counts of objects.
        mious: the sum of each image's own mIoU and how many values are in it, (2, images).
    """

    def __init__(self, folder: str, dataset):
        """Make the folder before the evaluation, so that a bad name costs nothing.

        Raises:
            RunError: it can't be written to.
        """
        self.folder, self.dataset = folder, dataset
        self.sizes = ObjectSizes(dataset.num_classes, dataset.ignore_index)
        self.mious = np.zeros([2, len(dataset)])
        self._index_of = {pair[0]: index for index, pair in reversed(list(enumerate(dataset.file_list)))}
        if distributed.rank() == 0:
            try:
                os.makedirs(folder, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise RunError(f"--report {folder}: can't be written ({error.strerror or error}); name another folder"
                               ) from error

    def add(self, path: str, pred: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> None:
        """Count an image; `matrix` is its own confusion matrix."""
        self.sizes.add(pred, label)
        miou = Scores(matrix).miou
        if not math.isnan(miou) and path in self._index_of:
            self.mious[:, self._index_of[path]] = miou, 1

    def share(self) -> None:
        """Sum the statistics of all processes."""
        self.sizes.counts = distributed.sum_over_ranks(self.sizes.counts)
        self.mious = distributed.sum_over_ranks(self.mious)

    def worst_and_best(self) -> Tuple[Ranked, Ranked]:
        """Rank the images; none is at both ends, and the middle one of a few is among the worst."""
        ranked = sorted((total / count, index) for index, (total, count) in enumerate(self.mious.T.tolist()) if count)
        worst = ranked[:min(SHOWN, (len(ranked) + 1) // 2)]
        return worst, ranked[len(worst):][:-SHOWN - 1:-1]

    def write(self, scores: Scores, model, options: InferOptions, weights: str, config: str) -> None:
        """Write report.html and the plots.

        Args:
            scores: of the evaluation that was seen.
            weights: the file that was evaluated.
            config: the resolved configuration as text.
        """
        self.share()
        if distributed.rank() == 0:
            names, sizes = self.dataset.class_names, self.sizes
            drawn = plots.report_plots(scores, names, sizes) if plots.can_plot() else {}
            parts = [page.numbers(headline(scores).items()), _facts(weights, self.dataset),
                     _score_part(scores, names, drawn), _size_part(sizes, names, drawn), _matrix_part(scores, names),
                     *_picture_parts(*self.worst_and_best(), model, self.dataset, options), _config_part(config)]
            path = os.path.join(self.folder, FILE)
            page.write(path, f"Evaluation of {_run_name(weights)}", parts)
            written = plots.write_plots(self.folder, drawn)
            beside = f"its plots are {', '.join(written)} beside it" if written else plots.ADVICE
            logger.info(f"the report is {path}; {beside}")
        distributed.barrier()


def _run_name(weights: str) -> str:
    """Return the last two folders of a file, such as encnet/best_model."""
    return "/".join(os.path.abspath(weights).split(os.sep)[-3:-1])


def _facts(weights: str, dataset) -> str:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    return (f"<p>{html.escape(weights)} on {len(dataset):,} images of {html.escape(type(dataset).__name__)} "
            f"({html.escape(dataset.mode)}), {now}.</p>")


def _chart(drawn: Dict[str, bytes], name: str, caption: str) -> str:
    return page.figure(drawn[name], caption, "chart") if drawn else f"<p>{html.escape(plots.ADVICE)}</p>"


def _score_part(scores: Scores, names: Sequence[str], drawn: Dict[str, bytes]) -> str:
    note = ("“-” stands for a class that doesn't occur; it is left out of the means. Always predicting the commonest "
            f"class would give mIoU {scores.commonest_class_miou:.4f}.")
    if not scores.matrix.any():
        note = "No pixel of the labels is of a class, so there is nothing to score."
    return page.section("Scores", note, page.table(SCORE_COLUMNS, class_rows(scores, names), "scores"),
                        _chart(drawn, "class_iou.png", "IoU of each class"))


def _size_part(sizes: ObjectSizes, names: Sequence[str], drawn: Dict[str, bytes]) -> str:
    """Show the mean over classes, and every class, by size."""
    note = ("An object is a connected component of a class in the labels (diagonal neighbours connect); its size is "
            "the square root of its area, in pixels of the label. The IoU of a size is hits / (pixels of the true "
            "objects of that size + wrong pixels in predicted objects of that size), so that the counts of all sizes "
            "together give the class's IoU. The mean is over the classes that have such objects.")
    rows = [("mean of classes", sizes.mean_iou, sizes.objects.sum(axis=0)), *zip(names, sizes.iou, sizes.objects)]
    cells = [[name, *(_size_cell(*cell) for cell in zip(values, counts))] for name, values, counts in rows]
    return page.section("IoU by the size of objects", note, page.table(["class", *BIN_NAMES], cells, "sizes"),
                        _chart(drawn, "object_sizes.png", "mean of classes"))


def _size_cell(iou: float, objects: int) -> page.Cell:
    text, percent = ("-", 0) if np.isnan(iou) else (f"{iou:.4f}", 100 * iou)
    return page.Cell(text, f"{objects:,} objects", percent)


def _matrix_part(scores: Scores, names: Sequence[str]) -> str:
    """Show percents of each true class; blue is right, red wrong."""
    shares = 100 * scores.matrix / np.maximum(scores.matrix.sum(axis=1, keepdims=True), 1)
    rows = [[name, *(page.Cell(f"{share:.0f}" if share >= 0.5 else "", f"{count:,} pixels, {share:.2f} %", share,
                               true == predicted)
                     for predicted, (count, share) in enumerate(zip(scores.matrix[true], shares[true])))]
            for true, name in enumerate(names)]
    note = ("A row is a true class, a column what was predicted, and a cell the percentage of the row's pixels (blank "
            "below 0.5); a row of a class that doesn't occur is empty.")
    return page.section("Confusion matrix", note, page.table(["true \\ predicted", *names], rows, "matrix"),
                        *_confusion_table(scores.matrix, names))


def _confusion_table(matrix: np.ndarray, names: Sequence[str], most: int = 10) -> List[str]:
    """List the pairs of classes with the most wrong pixels, which nobody finds in a large matrix."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(matrix)) for place in largest if wrong.flat[place]]
    rows = [(names[true], names[predicted], f"{wrong[true, predicted]:,}",
             f"{100 * wrong[true, predicted] / matrix[true].sum():.1f} %") for true, predicted in pairs]
    heads = ("true", "predicted", "pixels", "of the true class")
    return ["<h3>Commonest confusions</h3>", page.table(heads, rows, "confusions")] if rows else []


def _picture_parts(worst: Ranked, best: Ranked, model, dataset, options: InferOptions) -> List[str]:
    """Show the worst and the best images, read and predicted again; nothing without a labelled image."""
    colors, seen = pictures.dataset_colors(dataset), set()
    worst, best = ([_image(miou, pictures.predict_sample(model, dataset, index, options), colors, dataset.ignore_index,
                           seen) for miou, index in ranked] for ranked in (worst, best))
    entries = [(name, color) for index, (name, color) in enumerate(zip(dataset.class_names, colors.tolist()))
               if index in seen] + [("wrong", pictures.WRONG), ("ignored", pictures.IGNORED)]
    legend = page.legend((name, "rgb({} {} {})".format(*color)) for name, color in entries)
    note = "Ranked by an image's own mIoU, over the classes that occur in it or in its prediction."
    return [page.section(title, said, *parts) for title, said, parts in
            (("Worst images", note, [legend, *worst]), ("Best images", "", best)) if worst and parts]


def _image(miou: float, shown: pictures.Shown, colors: np.ndarray, ignore_index: int, seen: Set[int]) -> str:
    """Show the pictures of a sample; the values of its label and its prediction are added to `seen`."""
    seen.update(np.unique(shown.label).tolist(), np.unique(shown.pred).tolist())
    drawn = pictures.panels(shown, colors, ignore_index, pictures.REPORT_WIDTH_PX)
    cells = "".join(page.figure(pictures.encoded(picture, ".jpg" if name == "image" else ".png"), name,
                                "photo" if name == "image" else "flat") for name, picture in drawn.items())
    return f'<h3>{html.escape(shown.path)}: mIoU {miou:.4f}</h3><div class="panels">{cells}</div>'


def _config_part(config: str) -> str:
    return page.section("Configuration", "", f"<details open><summary>resolved, with the origin of each value</summary>"
                                             f"<pre>{html.escape(config)}</pre></details>")
