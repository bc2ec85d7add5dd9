"""Draw the results of diff/run.py as one HTML file that needs nothing else: plots are inline SVG.

    python diff/report.py diff/output diff/report.html     # again, without running the steps
"""

import argparse
import html
import importlib.metadata
import io
import json
import re
import sys
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import check
from paddleseg.cvlibs.errors import WeightsError

PACKAGES = ("paddlepaddle", "torch", "mmsegmentation", "mmcv-lite", "mmengine", "numpy", "opencv-python")
FLOOR = 1e-18  # where a difference of zero is drawn
STEP_KEY = re.compile(r"step(\d+)/(.+)")
CURVE_KEY = "seed0/loss"
GRADIENT_KEY = re.compile(r"gradient/(.+)")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000")

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 12px; max-width: 1160px; color: #1a1a1a;
  background: #fafafa; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 1.6em 0 .4em; }} p {{ margin: .4em 0; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; background: #fff; font-size: .9rem; }}
th, td {{ padding: 4px 10px; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }}
@media (max-width: 600px) {{ table {{ font-size: .72rem; }} th, td {{ padding: 3px 4px; white-space: normal; }}
  .extra {{ display: none; }} }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
td.passed {{ color: #006b3c; }} td.failed {{ color: #b00020; font-weight: bold; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 12px; }}
figure {{ margin: 0; background: #fff; border: 1px solid #ddd; }}
figure svg {{ width: 100%; height: auto; display: block; }}
figcaption {{ padding: 4px 10px 10px; font-size: .85rem; color: #444; }}
code {{ font-size: .85em; overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


# Plots. Each returns SVG, or nothing where its step didn't run.


def new_figure():
    """(figure, axes) of a size whose text can be read on a phone."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif",
                         "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.color": "#e4e4e4", "axes.axisbelow": True, "legend.frameon": False,
                         "legend.fontsize": 8, "axes.prop_cycle": plt.cycler(color=COLORS)})
    return plt.subplots(figsize=(5.2, 3.6), layout="constrained")


def to_svg(figure) -> str:
    """The figure as an <svg> element; closes it."""
    import matplotlib.pyplot as plt
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg"):]


def on_log_axis(values: Iterable[float]) -> List[float]:
    return [max(value, FLOOR) for value in values]


def draw_tolerances(axes, tolerances: Iterable[Optional[float]]) -> None:
    """A dashed line at each tolerance, named on the line."""
    for tolerance in sorted({value for value in tolerances if value}):
        axes.axhline(tolerance, color="#b00020", linestyle="--", linewidth=1)
        axes.annotate(f"tolerance {tolerance:g}", (1, tolerance), xycoords=("axes fraction", "data"), ha="right",
                      va="bottom", color="#b00020", fontsize=8)


def draw_legend(axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, columnspacing=1, handlelength=1.2, borderaxespad=0.2)


def draw_forward(job: Dict) -> Optional[str]:
    """The error of each stage, a line for each size and mode."""
    lines: Dict[str, List[Tuple[str, float]]] = {}
    for row in job["rows"]:
        if row["largest"] is not None:
            line, _, stage = row["key"].rpartition("/")
            lines.setdefault(line, []).append((stage, row["largest"]))
    if not lines:
        return None
    figure, axes = new_figure()
    stages = list(dict.fromkeys(stage for points in lines.values() for stage, _ in points))
    for (line, points), marker in zip(lines.items(), "osD^vP*X" * len(lines)):
        axes.plot([stages.index(stage) for stage, _ in points], on_log_axis(error for _, error in points),
                  marker=marker, markersize=4, linewidth=1, label=line)
    axes.set_xticks(range(len(stages)), stages, rotation=50, ha="right")
    axes.set(yscale="log", ylabel="largest difference, relative")
    draw_tolerances(axes, (row["tolerance"] for row in job["rows"]))
    draw_legend(axes)
    return to_svg(figure)


def draw_gradients(job: Dict) -> Optional[str]:
    """The error of each parameter's gradient, from the input of the network to its output."""
    rows = [row for row in job["rows"] if GRADIENT_KEY.fullmatch(row["key"]) and row["largest"] is not None]
    if not rows:
        return None
    figure, axes = new_figure()
    axes.plot(on_log_axis(row["largest"] for row in rows), ".", markersize=4, label="largest")
    axes.plot(on_log_axis(row["mean"] for row in rows), ".", markersize=3, label="mean")
    axes.set(yscale="log", xlabel="parameter, in the order of the network", ylabel="difference, relative")
    draw_tolerances(axes, (row["tolerance"] for row in rows))
    draw_legend(axes)
    return to_svg(figure)


def draw_growth(job: Dict) -> Optional[str]:
    """How the error of each quantity grows over the optimizer steps."""
    lines: Dict[str, List[Tuple[int, float]]] = {}
    for row in job["rows"]:
        found = STEP_KEY.fullmatch(row["key"])
        if found and row["largest"] is not None:
            lines.setdefault(found[2], []).append((int(found[1]), row["largest"]))
    if not lines:
        return None
    figure, axes = new_figure()
    for name, points in lines.items():
        axes.plot([step for step, _ in points], on_log_axis(error for _, error in points), marker="o", markersize=4,
                  linewidth=1, label=name)
    axes.set(yscale="log", xlabel="optimizer step", ylabel="largest difference, relative")
    draw_legend(axes)
    return to_svg(figure)


def draw_curves(curves: Sequence[np.ndarray]) -> str:
    """The loss of the reference and of ours, and below them how far apart they are."""
    reference, ours = curves
    figure, axes = new_figure()
    figure.clear()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    upper.plot(reference, label="reference", linewidth=2.4, color="#9ecae9")
    upper.plot(ours, label="ours", linewidth=0.9, color=COLORS[1])
    upper.set(ylabel="loss")
    upper.legend()
    scale = np.abs(reference).max() or 1.0
    lower.plot(on_log_axis(np.abs(reference - ours) / scale), linewidth=0.9, color=COLORS[6])
    lower.set(yscale="log", ylabel="difference", xlabel="iteration")
    return to_svg(figure)


# The page.


def read_curves(job: Dict, output: Path) -> List[np.ndarray]:
    """The loss curves of the reference and of ours in the first run, or nothing where a side didn't log one."""
    folder = output / f"{job['reference']}_{job['dtype']}"
    try:
        logs = [check.read_log(str(folder / f"train_align_{side}.npy")) for side in ("torch", "paddle")]
    except WeightsError:
        return []
    curves = [log[CURVE_KEY] for log in logs if CURVE_KEY in log and log[CURVE_KEY].ndim == 1]
    return curves if len(curves) == 2 and curves[0].shape == curves[1].shape else []


def find_plots(jobs: Sequence[Dict], output: Path) -> List[Tuple[str, str]]:
    """(caption, SVG) of every plot that there is something for."""
    plots = []
    for job in jobs:
        of = f"{job['reference']}, {job['dtype']}"
        if job["step"] == "forward":
            plots.append((f"Forward pass, error of each stage: {of}", draw_forward(job)))
        elif job["step"] == "bp_align":
            plots.append((f"Gradient of every parameter at the first step: {of}", draw_gradients(job)))
            plots.append((f"Error growth over the optimizer steps: {of}", draw_growth(job)))
        elif job["step"] == "train_align":
            curves = read_curves(job, output)
            plots.append((f"Training, loss of both sides: {of}", draw_curves(curves) if curves else None))
    return [(caption, svg) for caption, svg in plots if svg]


def draw_table(jobs: Sequence[Dict]) -> str:
    head = ("step", "reference", "dtype", "largest difference", "tolerance", "verdict", "arrays", "seconds")
    lines = []
    for job in jobs:
        step, reference, dtype, largest, tolerance, verdict = (
            html.escape(text).replace("_", "_<wbr>") for text in job["verdict"])
        state = "passed" if job["passed"] else "failed"
        lines.append(f'<tr><td>{step}</td><td>{reference}</td><td>{dtype}</td><td class="number">{largest}</td>'
                     f'<td class="number">{tolerance}</td><td class="{state}">{verdict}</td>'
                     f'<td class="number extra">{len(job["rows"])}</td>'
                     f'<td class="number extra">{job["seconds"]:.0f}</td></tr>')
    cells = "".join(f"<th{' class=extra' * (name in head[6:])}>{name}</th>" for name in head)
    return f'<div class="wide"><table><tr>{cells}</tr>\n' + "\n".join(lines) + "</table></div>"


def draw_faults(jobs: Sequence[Dict]) -> str:
    """The failed arrays, if any."""
    items = [f"<li>{html.escape(job['step'])}, {html.escape(job['reference'])}, {html.escape(job['dtype'])}: "
             f"<code>{html.escape(row['key'])}</code>: {html.escape(row['fault'])}</li>"
             for job in jobs for row in job["rows"] if row["fault"]]
    return f"<h2>Failures</h2><ul>{''.join(items)}</ul>" if items else ""


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def write(output: Path, path: Path) -> None:
    """Draw `output`/results.json, with the curves of the logs beside it, into the HTML file `path`."""
    results = json.loads((output / "results.json").read_text())
    jobs = results["jobs"]
    passed = sum(job["passed"] for job in jobs)
    figures = "\n".join(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
                        for caption, svg in find_plots(jobs, output))
    body = (f"<p>{html.escape(results['title'])}: {passed} of {len(jobs)} comparisons passed. A difference is "
            "relative to the largest absolute value of the reference's array; the table shows, of each comparison, "
            "the array nearest its tolerance, and each array is held to a tolerance on its mean too.</p>"
            f"<p>{html.escape(versions())}</p>\n{draw_table(jobs)}\n{draw_faults(jobs)}\n"
            f'<h2>Plots</h2>\n<div class="plots">{figures}</div>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.format(title="Alignment with the PyTorch references", body=body), encoding="utf-8")


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that diff/run.py filled")
    parser.add_argument("html", type=Path, help="the file to write")
    args = parser.parse_args(argv)
    write(args.output, args.html)


if __name__ == "__main__":
    main()
