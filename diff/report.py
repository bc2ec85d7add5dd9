"""The results of diff/run.py as one HTML file that needs nothing else."""

import html
import importlib.metadata
import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from diff import check
from paddleseg.cvlibs.errors import WeightsError
from paddleseg.report import page, plots

PACKAGES = ("paddlepaddle", "torch", "mmsegmentation", "mmcv-lite", "mmengine", "numpy", "opencv-python")
HEADS = ("step", "reference", "dtype", "largest difference", "tolerance", "verdict", "arrays", "seconds")
FLOOR = 1e-18  # where a difference of zero is drawn
STEP_KEY = re.compile(r"step(\d+)/(.+)")
CURVE_KEY = "seed0/loss"
DIFFERENCE = "largest difference, relative"
Plot = Tuple[str, bytes]  # caption, PNG file
SIZE_INCHES = 5.2, 3.6  # of a plot whose text can be read on a phone


def on_log_axis(values: Iterable[float]) -> List[float]:
    return [max(value, FLOOR) for value in values]


def draw_lines(lines: Dict[str, List[Tuple]], x_label: str, tolerances: Iterable[Optional[float]] = (),
               linewidth: float = 1.0) -> bytes:
    """A line for each name, of (number or stage, difference), and a dashed one at each tolerance."""
    def fill(figure) -> None:
        axes = figure.subplots()
        names = list(dict.fromkeys(x for points in lines.values() for x, _ in points))
        for (name, points), marker in zip(lines.items(), "osD^vP*X" * len(lines)):
            axes.plot([names.index(x) for x, _ in points], on_log_axis(error for _, error in points),
                      marker=marker, markersize=4, linewidth=linewidth, label=name)
        if isinstance(names[0], str):
            axes.set_xticks(range(len(names)), names, rotation=50, ha="right")
        axes.set(yscale="log", xlabel=x_label, ylabel=DIFFERENCE)
        for tolerance in sorted({value for value in tolerances if value}):
            axes.axhline(tolerance, color="#b00020", linestyle="--", linewidth=1)
            axes.annotate(f"tolerance {tolerance:g}", (1, tolerance), xycoords=("axes fraction", "data"), ha="right",
                          va="bottom", color="#b00020", fontsize=8)
        # Above the axes, where it hides nothing.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, columnspacing=1, handlelength=1.2,
                    borderaxespad=0.2, fontsize=8)

    return plots.png(SIZE_INCHES, fill)


def draw_curves(reference: np.ndarray, ours: np.ndarray) -> bytes:
    """The loss of the reference and of ours, and below them how far apart they are."""
    def fill(figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        upper.plot(reference, label="reference", linewidth=2.4, color="#9ecae9")
        upper.plot(ours, label="ours", linewidth=0.9, color="#d55e00")
        upper.set(ylabel="loss")
        upper.legend(fontsize=8)
        scale = np.abs(reference).max() or 1.0
        lower.plot(on_log_axis(np.abs(reference - ours) / scale), linewidth=0.9, color="#555555")
        lower.set(yscale="log", ylabel="difference", xlabel="iteration")

    return plots.png(SIZE_INCHES, fill)


def read_curves(job, output: Path) -> List[np.ndarray]:
    """The loss curves of the reference and of ours in the first run, or nothing where a side didn't log one."""
    folder = output / f"{job.reference}_{job.dtype}"
    try:
        logs = [check.read_log(str(folder / f"train_align_{side}.npy")) for side in ("torch", "paddle")]
    except WeightsError:
        return []
    curves = [log[CURVE_KEY] for log in logs if CURVE_KEY in log and log[CURVE_KEY].ndim == 1]
    return curves if len(curves) == 2 and curves[0].shape == curves[1].shape else []


def plots_of(result, output: Path) -> List[Plot]:
    """Every plot of a job that there is something for."""
    job, rows = result.job, [row for row in result.rows if row.largest is not None]
    of = f"{job.reference}, {job.dtype}"
    lines: Dict[str, List[Tuple]] = {}
    drawn = []
    if job.step == "forward":
        for row in rows:
            line, _, stage = row.key.rpartition("/")
            lines.setdefault(line, []).append((stage, row.largest))
        if lines:
            drawn.append((f"Forward pass, error of each stage: {of}",
                          draw_lines(lines, "", [row.tolerance.largest for row in rows])))
    elif job.step == "bp_align":
        gradients = [row for row in rows if row.key.startswith("gradient/")]
        if gradients:
            errors = {name: list(enumerate(getattr(row, name) for row in gradients)) for name in ("largest", "mean")}
            drawn.append((f"Gradient of every parameter at the first step: {of}",
                          draw_lines(errors, "parameter, in the order of the network", linewidth=0)))
        for row, found in [(row, STEP_KEY.fullmatch(row.key)) for row in rows]:
            if found:
                lines.setdefault(found[2], []).append((int(found[1]), row.largest))
        if lines:
            drawn.append((f"Error growth over the optimizer steps: {of}", draw_lines(lines, "optimizer step")))
    elif job.step == "train_align":
        curves = read_curves(job, output)
        drawn += [(f"Training, loss of both sides: {of}", draw_curves(*curves))] if curves else []
    return drawn


def draw_failures(results: Sequence) -> str:
    items = [f"<li>{html.escape(', '.join((*result.verdict[:3], f'{row.key}: {row.fault}')))}</li>"
             for result in results for row in result.rows if row.fault]
    return page.section("Failures", "", f"<ul>{''.join(items)}</ul>") if items else ""


def versions() -> str:
    installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)


def write(results: Sequence, title: str, output: Path, path: Path) -> None:
    """Write the HTML file `path`.

    Args:
        results: those of diff/run.py.
        output: the folder with the sides' logs, from which the curves of a training are drawn.
    """
    passed = sum(result.passed for result in results)
    table = page.table(HEADS, [[*result.verdict, str(len(result.rows)), f"{result.seconds:.0f}"]
                               for result in results], "verdicts")
    figures = "\n".join(page.figure(file, caption, "chart") for result in results
                        for caption, file in plots_of(result, output))
    note = (f"{title}: {passed} of {len(results)} comparisons passed. A difference is relative to the largest absolute "
            "value of the reference's array; the table shows, of each comparison, the array nearest its tolerance, and "
            "each array is held to a tolerance on its mean too.")
    page.write(str(path), "Alignment with the PyTorch references", [
        page.section("Comparisons", note, f"<p>{html.escape(versions())}</p>", table), draw_failures(results),
        page.section("Plots", "", f'<div class="charts">{figures}</div>')])
