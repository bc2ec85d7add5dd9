"""Make RESULTS.md, its plot and the tables of README.md and README_CN.md from what the benchmarks kept.

    python benchmarks/report.py

`make bench` runs every benchmark and then this. A benchmark without results says so, with the command that makes them.
"""

import ast
import json
import statistics
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import encoding
from harness import OUTPUT, ROOT, number, spread

NO_QUESTION = ("harness", "report")
PLOT = "encoding.png"
MARKERS = ("<!-- bench -->", "<!-- /bench -->")
AIM_HEADS = {
    "README.md": ("What", "Measure", "Against", "Ours", "Theirs", "Ours / theirs", "At most", "Aim"),
    "README_CN.md": ("项目", "度量", "对照", "本项目", "对照值", "本项目 / 对照", "上限", "目标"),
}
PREFACE = """# Benchmarks

`make bench` measures all of this and writes this file; it isn't edited by hand. The sides run in processes of their own
and in turn, round by round. A figure is the median of the rounds (lowest to highest). A ratio is the first side's
figure, ours, over this side's, taken within each round, since a machine's speed changes from one round to the next.
What each side does is said by the files in this folder, and by `python benchmarks/FILE.py --help`.
"""


def question_files(folder: Path) -> List[Path]:
    return [path for path in sorted(folder.glob("*.py")) if path.stem not in NO_QUESTION]


def load_results(folder: Path, output: Path) -> Dict[str, Optional[Dict]]:
    """Read the results that each benchmark file kept, by its name; None where it kept nothing."""
    results = {}
    for path in question_files(folder):
        kept = output / f"{path.stem}.json"
        results[path.stem] = json.loads(kept.read_text()) if kept.exists() else None
    return results


def table(heads: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table; floats to three digits."""
    def line(cells):
        texts = (number(cell) if isinstance(cell, float) else str(cell) for cell in cells)
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    return "\n".join([line(heads), "|" + "-|" * len(heads), *map(line, rows)]) + "\n"


def first_line(path: Path) -> str:
    """Return the first line of a benchmark file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem).splitlines()[0].rstrip(".")


def not_run(name: str) -> str:
    return f"not run: `python benchmarks/{name}.py`"


def verdict(row: Mapping, name: str) -> str:
    if row["met"] is None:
        return not_run(name) if row["missing"] in (None, "not run") else row["missing"]
    return "met" if row["met"] else "**missed**"


def aim_rows(results: Mapping[str, Optional[Mapping]], folder: Path) -> List[List[str]]:
    """One row for each aim, and one for each benchmark whose aims aren't known, as it didn't run."""
    rows = []
    for name, content in results.items():
        if content is None:
            rows.append([first_line(folder / f"{name}.py"), *[""] * 6, not_run(name)])
            continue
        ours = {(row["case"], row["measure"]): row for row in content["rows"] if not row["ratios"] and row["values"]}
        for row in content["rows"]:
            if row["at_most"] is None:
                continue
            mine = ours.get((row["case"], row["measure"]))
            absolute = row["ratios"] is None and row is mine
            rows.append([f"{content['question']}: {row['case']}", row["measure"], "" if absolute else row["side"],
                         figure(mine), "" if absolute else figure(row), spread(row["ratios"]) if row["ratios"] else "",
                         number(row["at_most"]) + (f" {row['unit']}" if absolute else ""), verdict(row, name)])
    return rows


def figure(row: Optional[Mapping]) -> str:
    """The median with its unit; empty where there is none."""
    return f"{number(statistics.median(row['values']))} {row['unit']}" if row and row["values"] else ""


def measured_table(rows: Sequence[Mapping]) -> str:
    """A line for each case and side, with columns for each measure and, where there is one, its ratio."""
    measures = list(dict.fromkeys((row["measure"], row["unit"]) for row in rows))
    with_ratio = {row["measure"] for row in rows if row["ratios"]}
    heads = ["case", "side", "rounds"]
    for measure, unit in measures:
        heads += [f"{measure}, {unit}"] + ["ratio"] * (measure in with_ratio)
    lines = []
    for case, side in dict.fromkeys((row["case"], row["side"]) for row in rows):
        own = {row["measure"]: row for row in rows if (row["case"], row["side"]) == (case, side)}
        rounds = max(len(row["values"]) for row in own.values())
        line = ["" if lines and lines[-1][0] == case else case, side,
                rounds or next(row["missing"] for row in own.values())]
        for measure, _ in measures:
            row = own.get(measure, {"values": [], "ratios": None})
            line.append(spread(row["values"]) if row["values"] else "")
            line += [spread(row["ratios"]) if row["ratios"] else ""] * (measure in with_ratio)
        lines.append([case, *line])
    return table(heads, [line[1:] for line in lines])


def section(name: str, content: Optional[Mapping], folder: Path) -> str:
    """Write the part of RESULTS.md for one benchmark."""
    if content is None:
        return f"## {first_line(folder / f'{name}.py')}\n\n{not_run(name)}\n"
    parts = [f"## {content['question']}\n", f"[{name}.py]({name}.py)\n"]
    if content["rows"]:
        parts.append(measured_table(content["rows"]))
    if name == "encoding" and has_points(content["rows"]):
        parts.append(f"![Time and memory of the Encoding layer against the number of pixels]({PLOT})\n")
    for extra in content["tables"]:
        parts.append("\n".join(filter(None, (f"### {extra['title']}\n", extra.get("note", "") + "\n"))))
        parts.append(table(extra["columns"], extra["rows"]))
    return "\n".join(parts)


def machines(results: Mapping[str, Optional[Mapping]]) -> str:
    """A line on the machine, the versions and the date; one for each where the benchmarks ran on several."""
    groups: Dict[str, List[str]] = {}
    for name, content in results.items():
        if content:
            facts = "; ".join(f"{key}: {value}" for key, value in content["machine"].items())
            groups.setdefault(facts, []).append(name)
    if len(groups) == 1:
        return f"{next(iter(groups))}\n"
    return "".join(f"- {', '.join(names)}: {facts}\n" for facts, names in groups.items())


def aims(results: Mapping[str, Optional[Mapping]], folder: Path, heads: Sequence[str]) -> str:
    return table(heads, aim_rows(results, folder))


def results_page(results: Mapping[str, Optional[Mapping]], folder: Path) -> str:
    """The whole of RESULTS.md."""
    return "\n".join([PREFACE, machines(results), "## Aims\n", aims(results, folder, AIM_HEADS["README.md"]),
                      *(section(name, content, folder) for name, content in results.items())])


def between_markers(text: str, content: str, path: str) -> str:
    """The text with `content` between its markers."""
    before, begin, rest = text.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise SystemExit(f"{path} has no {MARKERS[0]} … {MARKERS[1]}, where the table of aims goes")
    return f"{before}{begin}\n{content}{end}{after}"


def points(rows: Sequence[Mapping], side: str, measure: str) -> List[List[float]]:
    """[pixels, lowest, median, highest] for each size of the plot."""
    found = []
    for height, width, codes in encoding.PIXELS:
        for row in rows:
            if [row["side"], row["measure"], *row["arguments"]["size"]] == [side, measure, height, width, codes] and \
                    row["values"]:
                values = row["values"]
                found.append([height * width, min(values), statistics.median(values), max(values)])
    return found


def has_points(rows: Sequence[Mapping]) -> bool:
    return bool(points(rows, encoding.OURS, "time"))


def draw(rows: Sequence[Mapping], path: Path) -> None:
    """Time and memory against the number of pixels, both sides; lines are medians, bands all rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {encoding.PADDLESEG: "#d95f02", encoding.OURS: "#1b6ca8"}
    fig, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), dpi=120, layout="constrained")
    for panel, (measure, unit) in zip(panels, encoding.UNITS.items()):
        for side, colour in colours.items():
            found = points(rows, side, measure)
            if found:
                pixels, low, median, high = zip(*found)
                panel.plot(pixels, median, "o-", color=colour, label=side)
                panel.fill_between(pixels, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.set(xscale="log", yscale="log", xlabel="pixels, H x W", title=f"{measure}, {unit}")
        ticks = {height * width: f"{height}x{width}" for height, width, _ in encoding.PIXELS}
        panel.set_xticks(list(ticks), list(ticks.values()))
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.grid(True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    fig.suptitle(f"Encoding layer, forward and backward: N = {encoding.BATCH}, D = {encoding.CHANNELS}, "
                 f"K = {encoding.HEADLINE[2]}, float32, 1 thread", fontsize=10)
    fig.savefig(path, metadata={"Software": None})
    pyplot.close(fig)


def write(results: Mapping[str, Optional[Mapping]], root: Path, folder: Path) -> List[Path]:
    """Write RESULTS.md, the plot and the READMEs' tables below `root`; `folder` holds the benchmark files."""
    written = [root / "benchmarks" / "RESULTS.md"]
    written[0].write_text(results_page(results, folder), encoding="utf-8")
    for name, heads in AIM_HEADS.items():
        path = root / name
        content = aims(results, folder, heads) + "\n" + machines(results)
        path.write_text(between_markers(path.read_text(encoding="utf-8"), content, name), encoding="utf-8")
        written.append(path)
    rows = (results.get("encoding") or {"rows": []})["rows"]
    if has_points(rows):
        written.append(root / "benchmarks" / PLOT)
        draw(rows, written[-1])
    return written


def main() -> None:
    folder = ROOT / "benchmarks"
    for path in write(load_results(folder, OUTPUT), ROOT, folder):
        print(f"{path.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
