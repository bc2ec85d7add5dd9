"""Plots as PNG files, for papers and slides. They need matplotlib, which is an optional dependency."""

import contextlib
import importlib.util
import logging
import os
import pickle
import subprocess
import sys
import warnings
from typing import Callable, List, Sequence

import numpy as np

from paddleseg.core.metrics import Scores
from paddleseg.report import page
from paddleseg.report.objects import ObjectSizes, bin_names
from paddleseg.utils import logger
from paddleseg.utils.files import atomic_path

ADVICE = "matplotlib isn't installed: `pip install matplotlib`"
# The first is matplotlib's own; the others have what it lacks, where they are installed.
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS"]

_START = f"import sys; sys.path[:] = sys.argv[2:]; import {__name__} as plots; plots.main()"


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


class ReportPlotter:
    """Draws the plots of a report in a process of its own, which imports matplotlib while the evaluation runs.

    That process ends with this one, whatever ends it, as its input is closed then.
    """

    def __init__(self, folder: str):
        self._process = subprocess.Popen(
            # `-m` would take modules from the working directory, which may be a clone of PaddleSeg.
            [sys.executable, "-c", _START, folder, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)  # Ctrl-C is for the evaluation

    def draw(self, scores: Scores, class_names: Sequence[str], sizes: ObjectSizes) -> None:
        """Begin to draw."""
        with contextlib.suppress(BrokenPipeError), self._process.stdin as numbers:
            numbers.write(pickle.dumps((scores, list(class_names), sizes)))
        self._process.stdin = None

    def written(self) -> List[str]:
        """Wait for the plots; returns their names, none if they could not be drawn."""
        answer, errors = self._process.communicate()
        if self._process.returncode:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:]
            logger.warning(f"the plots weren't drawn; the page has them all the same: {' '.join(reason)}")
        return answer.decode().split()


def main() -> None:
    """The process of a ReportPlotter."""
    import matplotlib.figure  # noqa: F401  (takes as long as the plots)

    numbers = sys.stdin.buffer.read()
    if numbers:
        print("\n".join(save_report_plots(sys.argv[1], *pickle.loads(numbers))))


def save_report_plots(folder: str, scores: Scores, class_names: Sequence[str], sizes: ObjectSizes) -> List[str]:
    """Write the three plots of a report; returns their names."""
    classes = len(class_names)
    shares = scores.matrix / np.maximum(scores.matrix.sum(axis=1, keepdims=True), 1)

    def draw_iou(axes) -> None:
        _bars(axes.barh, class_names, scores.iou)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="IoU", title=f"mIoU {scores.miou:.4f}")

    def draw_matrix(axes) -> None:
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        axes.figure.colorbar(image, label="share of the true class", shrink=0.8)

    def draw_sizes(axes) -> None:
        _bars(axes.bar, bin_names(), sizes.mean_iou)
        axes.set(ylim=(0, 1), ylabel="IoU, mean over classes", xlabel="size of the object: square root of its area")
        axes.tick_params(axis="x", rotation=25)

    side = max(4.0, 0.25 * classes)
    return [_save(folder, "class_iou.png", (6, max(3.0, 0.22 * classes)), draw_iou),
            _save(folder, "confusion_matrix.png", (side + 2.2, side + 1.2), draw_matrix),
            _save(folder, "object_sizes.png", (7, 4), draw_sizes)]


def save_curves(folder: str, charts: Sequence, x_label: str) -> List[str]:
    """Write curves.png, a panel for each (caption, lines of page.Line)."""
    def draw(figure) -> None:
        columns = min(2, len(charts))
        panels = np.ravel(figure.subplots(-(-len(charts) // columns), columns, squeeze=False))
        for axes, (caption, lines) in zip(panels, charts):
            for line in lines:
                axes.plot(*zip(*line.points), color=line.color, linewidth=1.3, label=line.name,
                          linestyle=(0, tuple(map(float, line.dashes.split()))) if line.dashes else "-",
                          marker="o" if len(line.points) < 30 else None, markersize=3)
            axes.set(title=caption, xlabel=x_label)
        for axes in panels[len(charts):]:
            axes.set_axis_off()
        handles = {line.name: handle for axes in panels[:len(charts)]
                   for handle, line in zip(axes.get_lines(), charts[list(panels).index(axes)][1])}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)

    return [_save_figure(folder, "curves.png", (10, 0.6 + 3 * -(-len(charts) // 2)), draw)]


def _bars(draw: Callable, names: Sequence[str], values: np.ndarray) -> None:
    """Bars of 0..1, their values on them; "-" for NaN."""
    bars = draw(range(len(names)), np.nan_to_num(values), color=page.LINE_COLORS[0], tick_label=list(names))
    texts = ["-" if np.isnan(value) else f"{value:.3f}" for value in values]
    bars[0].axes.bar_label(bars, texts, padding=2, fontsize=8)


def _save(folder: str, name: str, size, draw: Callable) -> str:
    return _save_figure(folder, name, size, lambda figure: draw(figure.subplots()))


def _save_figure(folder: str, name: str, size, draw: Callable) -> str:
    """Draw on a new figure of a size in inches and write it; returns the file's name."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot, whose import takes as long as the plots

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e4e4e4", "axes.axisbelow": True, "legend.frameon": False, "font.family": _FONTS}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of each font that isn't there
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box; the page has the letter
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        draw(figure)
        with atomic_path(os.path.join(folder, name)) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    return name
