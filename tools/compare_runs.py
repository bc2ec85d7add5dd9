"""Compare training runs: their curves over each other, and a table of their results.

    python tools/compare_runs.py output/baseline output/encoding
    python tools/compare_runs.py output/* --save_dir output/compare

A run is a directory that train.py wrote, or its log.jsonl. Writes compare.html, a page that needs nothing beside
itself, and curves.png.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import DataError, RunError
from paddleseg.utils.cli import add_debug_flag, run_main

COLUMNS = ("run", "iterations", "best mIoU", "at iteration", "Acc", "Kappa", "Dice", "last mIoU", "last loss",
           "images/s")
FIRST_CURVES = ("eval mIoU", "train loss", "train lr")
NO_CURVES = ("mode", "iter", "epoch", "eta_sec", "commonest_class_mIoU")
STYLES = {"-": "", "--": " (dashed)", ":": " (dotted)"}  # matplotlib's, and in words


class Run(NamedTuple):
    """The records of a run, by mode, and the name that tells it from the others."""

    name: str
    train: List[Dict]
    eval: List[Dict]


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or its log.jsonl")
    parser.add_argument("--save_dir", default="output/compare", metavar="DIR",
                        help="where the page goes (default: output/compare)")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def read_run(path: str, name: str) -> Run:
    """Read the records of a run; says how many lines of the file are none.

    Raises:
        DataError: there is no file of records, or no record in it.
    """
    from paddleseg.utils import logger

    file = os.path.join(path, "log.jsonl") if os.path.isdir(path) else path
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            records = [_record(line) for line in lines if line.strip()]
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); name directories that train.py wrote") from error
    bad = records.count(None)
    if bad == len(records):
        raise DataError(f"{file}: holds no record of a training; name directories that train.py wrote")
    if bad:
        logger.warning(f"{file}: {bad} of {len(records)} lines are no records, and are left out")
    records = sorted(filter(None, records), key=lambda record: record["iter"])
    return Run(name, *([record for record in records if record["mode"] == mode] for mode in ("train", "eval")))


def _record(line: str) -> Optional[Dict]:
    """The mode and the finite numbers of a line of the log; None if it is no record."""
    try:
        record = json.loads(line)
        numbers = {key: value for key, value in record.items() if _is_number(value)}
    except (ValueError, AttributeError):
        return None
    is_record = record.get("mode") in ("train", "eval") and "iter" in numbers and len(numbers) > 1
    return {"mode": record["mode"], **numbers} if is_record else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def run_names(paths: Sequence[str]) -> List[str]:
    """Return the shortest end of each path that distinguishes it from the others.

    Raises:
        DataError: two paths lead to the same run.
    """
    parts = [Path(os.path.realpath(path)).parts for path in paths]
    parts = [names[:-1] if names[-1] == "log.jsonl" else names for names in parts]
    for number, names in enumerate(parts):
        if names in parts[:number]:
            raise DataError(f"{paths[number]} is given twice, as {paths[parts.index(names)]} too; name each run once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def curves(runs: Sequence[Run]) -> List[Tuple[str, list]]:
    """(caption, a plots.Line for each run that has it) of every finite number in the records."""
    from paddleseg.report.plots import LINE_COLORS, Line

    found: Dict[str, list] = {caption: [] for caption in FIRST_CURVES}
    for number, run in enumerate(runs):
        looks = LINE_COLORS[number % len(LINE_COLORS)], [*STYLES][number // len(LINE_COLORS) % len(STYLES)]
        for mode, records in (("train", run.train), ("eval", run.eval)):
            for key in dict.fromkeys(key for record in records for key in record if key not in NO_CURVES):
                points = [(record["iter"], record[key]) for record in records if key in record]
                found.setdefault(f"{mode} {key}", []).append(Line(run.name, points, *looks))
    return [(caption, lines) for caption, lines in found.items() if lines]


def result_row(run: Run) -> List[str]:
    """The COLUMNS of a run; "-" for what it doesn't have."""
    scored = [record for record in run.eval if "mIoU" in record] or [{}]
    best = max(scored, key=lambda record: record.get("mIoU", 0))
    speeds = [record["ips"] for record in run.train if "ips" in record]
    values = [max(record["iter"] for record in run.train + run.eval),
              *(best.get(key) for key in ("mIoU", "iter", "Acc", "Kappa", "Dice")), scored[-1].get("mIoU"),
              run.train[-1].get("loss") if run.train else None]
    texts = ["-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in values]
    return [run.name, *texts, f"{sorted(speeds)[len(speeds) // 2]:.2f}" if speeds else "-"]


def write_page(runs: Sequence[Run], charts: Sequence[Tuple[str, list]], path: str) -> None:
    """Write the page; without matplotlib its curves are left out."""
    from paddleseg.report import page, plots

    looks = {line.name + STYLES[line.style]: line.color for _, lines in charts for line in lines}
    figures = [page.figure(plots.curves([chart], "iteration", with_legend=False), chart[0], "chart")
               for chart in charts if plots.can_plot()]
    parts = [page.section("Results", "Acc, Kappa and Dice are those of the best mIoU; images/s is the median of a "
                                     "process.", page.table(COLUMNS, map(result_row, runs), "results")),
             page.section("Curves", "" if figures else plots.ADVICE, page.legend(looks.items()),
                          f'<div class="charts">{"".join(figures)}</div>')]
    page.write(path, f"Comparison of {len(runs)} run{'s' * (len(runs) > 1)}", parts)


def compare(args: argparse.Namespace) -> int:
    from prettytable import PrettyTable

    from paddleseg.report import plots
    from paddleseg.utils import logger

    logger.setup_logging()
    runs = [read_run(path, name) for path, name in zip(args.runs, run_names(args.runs))]
    charts, target = curves(runs), os.path.join(args.save_dir, "compare.html")
    try:
        write_page(runs, charts, target)
        if plots.can_plot():
            plots.write_plots(args.save_dir, {"curves.png": plots.curves(charts, "iteration")})
        else:
            logger.warning(plots.ADVICE)
    except OSError as error:
        raise RunError(f"--save_dir {args.save_dir}: can't be written ({error.strerror or error})") from error
    table = PrettyTable(list(COLUMNS), align="r")
    table.align["run"] = "l"
    table.add_rows([result_row(run) for run in runs])
    print(table.get_string())
    print(f"the comparison is in {target}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(compare, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
