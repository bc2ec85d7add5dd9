"""The report of an evaluation: one HTML page with its scores, where they come from, and the images to look at."""

import datetime
import html
import os
from typing import List, Optional, Sequence, Set

import numpy as np

from paddleseg.core.infer import InferOptions
from paddleseg.core.metrics import Scores
from paddleseg.core.val import SCORE_COLUMNS, class_rows, headline
from paddleseg.cvlibs.errors import RunError
from paddleseg.report import page, pictures, plots
from paddleseg.report.collector import Collector
from paddleseg.report.objects import ObjectSizes, bin_names
from paddleseg.utils import distributed, logger
from paddleseg.utils.files import atomic_path

FILE = "report.html"


def open_folder(folder: str) -> Optional[plots.ReportPlotter]:
    """Make the report's folder before the evaluation, so that a bad name costs nothing.

    Returns: what will draw the plots; None without matplotlib.

    Raises:
        RunError: it can't be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with atomic_path(os.path.join(folder, ".probe")) as temporary, open(temporary, "w"):
            pass
        os.remove(os.path.join(folder, ".probe"))
    except OSError as error:
        raise RunError(f"--report {folder}: can't be written ({error.strerror or error}); name another folder"
                       ) from error
    if plots.can_plot():
        return plots.ReportPlotter(folder)
    logger.warning(f"--report: no plots as PNG files, {plots.ADVICE}; the page has them all the same")
    return None


def write_report(folder: str, plotter: Optional[plots.ReportPlotter], scores: Scores, collector: Collector, model,
                 dataset, options: InferOptions, weights: str, config: str) -> None:
    """Write report.html and the plots; every process must call this, and rank 0 writes.

    Args:
        plotter: what `open_folder` returned, on rank 0.
        scores: of the evaluation that the collector saw.
        weights: the file that was evaluated.
        config: the resolved configuration as text.
    """
    collector.share()
    if distributed.rank() == 0:
        names, sizes = dataset.class_names, collector.sizes
        if plotter is not None:
            plotter.draw(scores, names, sizes)
        parts = [page.numbers(headline(scores).items()), _facts(weights, dataset), _score_part(scores, names),
                 _bar_part(scores, names), _size_part(sizes, names), _matrix_part(scores, names),
                 *_picture_parts(collector, model, dataset, options), _config_part(config)]
        path = os.path.join(folder, FILE)
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(page.page(f"Evaluation of {_run_name(weights)}", parts))
        written = plotter.written() if plotter is not None else []
        logger.info(f"the report is {path}" + (f", its plots are {', '.join(written)} beside it" if written else ""))
    distributed.barrier()


def _run_name(weights: str) -> str:
    """The last two folders of a file, such as encnet/best_model."""
    return "/".join(os.path.abspath(weights).split(os.sep)[-3:-1])


def _facts(weights: str, dataset) -> str:
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    return (f"<p>{html.escape(weights)} on {len(dataset):,} images of {html.escape(type(dataset).__name__)} "
            f"({html.escape(dataset.mode)}), {now}.</p>")


def _score_part(scores: Scores, names: Sequence[str]) -> str:
    note = ("“-” stands for a class that doesn't occur; it is left out of the means. Always predicting the commonest "
            f"class would give mIoU {scores.commonest_class_miou:.4f}.")
    if not scores.matrix.any():
        note = "No pixel of the labels is of a class, so there is nothing to score."
    return page.section("Scores", note, page.table(SCORE_COLUMNS, class_rows(scores, names), "scores"))


def _bar_part(scores: Scores, names: Sequence[str]) -> str:
    rows = [(name, value, text) for name, value, (_, text, *_) in zip(names, scores.iou, class_rows(scores, names))]
    return page.section("IoU of each class", "", page.bars(rows))


def _size_part(sizes: ObjectSizes, names: Sequence[str]) -> str:
    """The mean over classes as bars, and every class by size."""
    bins, iou, objects = bin_names(), sizes.iou, sizes.objects
    note = ("An object is a connected component of a class in the labels (diagonal neighbours connect); its size is "
            "the square root of its area, in pixels of the label. The IoU of a size is hits / (pixels of the true "
            "objects of that size + wrong pixels in predicted objects of that size), so that the counts of all sizes "
            "together give the class's IoU. The bars are means over the classes that have such objects.")
    bars = [(f"{name} ({count:,} objects)", value, _score_text(value))
            for name, value, count in zip(bins, sizes.mean_iou, objects.sum(axis=0))]
    rows = [(name, [_size_cell(value, count) for value, count in zip(*row)])
            for name, row in zip(names, zip(iou, objects))]
    return page.section("IoU by the size of objects", note, page.bars(bars), "<h3>Each class</h3>", page.heat_map(
        ["class", *bins], rows, "sizes", "{row}, {column}: {count} objects, IoU {share}"))


def _score_text(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _size_cell(value: float, count: int) -> page.Cell:
    return page.Cell(_score_text(value), 0 if np.isnan(value) else 100 * value, int(count))


def _matrix_part(scores: Scores, names: Sequence[str]) -> str:
    """Percent of each true class; blue is right, red wrong."""
    totals = scores.matrix.sum(axis=1)
    rows = []
    for true, (name, counts, total) in enumerate(zip(names, scores.matrix.tolist(), totals.tolist())):
        shares = [100 * count / total if total else 0.0 for count in counts]
        rows.append((name, [page.Cell(f"{share:.0f}" if share >= 0.5 else "", share, count, f"{share:.2f}",
                                      true == predicted)
                            for predicted, (share, count) in enumerate(zip(shares, counts))]))
    note = ("A row is a true class, a column what was predicted, and a cell the percentage of the row's pixels (blank "
            "below 0.5); a row of a class that doesn't occur is empty.")
    words = "true {row}, predicted {column}: {count} pixels, {share} % of {row}"
    heat_map = page.heat_map(["true \\ predicted", *names], rows, "matrix", words)
    return page.section("Confusion matrix", note, heat_map, *_confusion_table(scores.matrix, names))


def _confusion_table(matrix: np.ndarray, names: Sequence[str], most: int = 10) -> List[str]:
    """The pairs of classes with the most wrong pixels, which nobody finds in a large matrix; nothing without errors."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(matrix)) for place in largest if wrong.flat[place]]
    rows = [(names[true], names[predicted], f"{wrong[true, predicted]:,}",
             f"{100 * wrong[true, predicted] / matrix[true].sum():.1f} %") for true, predicted in pairs]
    heads = ("true", "predicted", "pixels", "of the true class")
    return ["<h3>Commonest confusions</h3>", page.table(heads, rows, "confusions")] if rows else []


def _picture_parts(collector: Collector, model, dataset, options: InferOptions) -> List[str]:
    """The worst and the best images, read and predicted again; nothing without a labelled image."""
    colors, seen = pictures.dataset_colors(dataset), set()
    worst, best = ([_image(miou, pictures.predict_sample(model, dataset, index, options), colors, dataset.ignore_index,
                           seen) for miou, index in ranked] for ranked in (collector.worst, collector.best))
    entries = [(name, color) for index, (name, color) in enumerate(zip(dataset.class_names, colors.tolist()))
               if index in seen] + [("wrong", pictures.WRONG), ("ignored", pictures.IGNORED)]
    legend = page.legend((name, "rgb({} {} {})".format(*color)) for name, color in entries)
    note = "Ranked by an image's own mIoU, over the classes that occur in it or in its prediction."
    return [page.section(title, said, *parts) for title, said, parts in
            (("Worst images", note, [legend, *worst]), ("Best images", "", best)) if worst and parts]


def _image(miou: float, shown: pictures.Shown, colors: np.ndarray, ignore_index: int, seen: Set[int]) -> str:
    """The pictures of a sample; the values of its label and its prediction are added to `seen`."""
    seen.update(np.unique(shown.label).tolist(), np.unique(shown.pred).tolist())
    drawn = pictures.panels(shown, colors, ignore_index, pictures.REPORT_WIDTH_PX)
    cells = "".join(f'<figure><img class="{"photo" if name == "image" else "flat"}" alt="{name}" '
                    f'src="{pictures.data_uri(name, picture)}"><figcaption>{name}</figcaption></figure>'
                    for name, picture in drawn.items())
    return f'<h3>{html.escape(shown.path)}: mIoU {miou:.4f}</h3><div class="panels">{cells}</div>'


def _config_part(config: str) -> str:
    return page.section("Configuration", "", f"<details open><summary>resolved, with the origin of each value</summary>"
                                             f"<pre>{html.escape(config)}</pre></details>")
