"""Charts as PNG files, for pages, papers and slides. They need matplotlib, which is an optional dependency."""

import io
import logging
import os
import warnings
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from paddleseg.core.metrics import Scores
from paddleseg.report.objects import BIN_NAMES, ObjectSizes
from paddleseg.utils.files import atomic_path

ADVICE = "no plots, as matplotlib can't be imported; `pip install matplotlib` brings it"
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3d9fd6", "#7a5cc0", "#808080")
# The first is matplotlib's own; the others have what it lacks, where they are installed.
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS"]


class Line(NamedTuple):
    """A curve of a chart: (x, y) points, its colour and matplotlib's style of the line."""

    name: str
    points: Sequence[Tuple[float, float]]
    color: str
    style: str = "-"


def can_plot() -> bool:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def report_plots(scores: Scores, class_names: Sequence[str], sizes: ObjectSizes) -> Dict[str, bytes]:
    """Draw the three plots of a report; returns PNG files by name."""
    classes = len(class_names)
    shares = scores.matrix / np.maximum(scores.matrix.sum(axis=1, keepdims=True), 1)

    def draw_iou(figure) -> None:
        axes = figure.subplots()
        _bars(axes.barh, class_names, scores.iou)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="IoU", title=f"mIoU {scores.miou:.4f}")

    def draw_matrix(figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
        figure.colorbar(image, label="share of the true class", shrink=0.8)

    def draw_sizes(figure) -> None:
        axes = figure.subplots()
        _bars(axes.bar, BIN_NAMES, sizes.mean_iou)
        axes.set(ylim=(0, 1), ylabel="IoU, mean over classes", xlabel="size of the object: square root of its area")
        axes.tick_params(axis="x", rotation=25)

    side = max(4.0, 0.25 * classes)
    return {"class_iou.png": png((6, max(3.0, 0.22 * classes)), draw_iou),
            "confusion_matrix.png": png((side + 2.2, side + 1.2), draw_matrix),
            "object_sizes.png": png((7, 4), draw_sizes)}


def curves(charts: Sequence[Tuple[str, Sequence[Line]]], x_label: str, with_legend: bool = True) -> bytes:
    """Draw a panel for each (caption, lines); returns a PNG file."""
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)

    def draw(figure) -> None:
        panels, handles = np.ravel(figure.subplots(rows, columns, squeeze=False)), {}
        for axes, (caption, lines) in zip(panels, charts):
            for line in lines:
                handles[line.name], = axes.plot(
                    *zip(*line.points), color=line.color, linestyle=line.style, linewidth=1.3, markersize=3,
                    marker="o" if len(line.points) < 30 else None)
            axes.set(title=caption, xlabel=x_label)
        for axes in panels[len(charts):]:
            axes.set_axis_off()
        if with_legend:
            figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)

    return png((5 * columns, 0.6 * with_legend + 3 * rows), draw)


def write_plots(folder: str, plots: Dict[str, bytes]) -> List[str]:
    """Write files to a folder; returns their names."""
    for name, content in plots.items():
        with atomic_path(os.path.join(folder, name)) as temporary, open(temporary, "wb") as file:
            file.write(content)
    return list(plots)


def _bars(draw: Callable, names: Sequence[str], values: np.ndarray) -> None:
    """Draw bars of 0..1, their values on them; "-" for NaN."""
    bars = draw(range(len(names)), np.nan_to_num(values), color=LINE_COLORS[0], tick_label=list(names))
    texts = ["-" if np.isnan(value) else f"{value:.3f}" for value in values]
    bars[0].axes.bar_label(bars, texts, padding=2, fontsize=8)


def png(size: Tuple[float, float], draw: Callable) -> bytes:
    """Call `draw` with a new figure of a size in inches; returns a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot, whose import takes as long as the plots

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e4e4e4", "axes.axisbelow": True, "legend.frameon": False, "font.family": _FONTS}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of each font that isn't there
    file = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box; the tables have the letter
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        draw(figure)
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
