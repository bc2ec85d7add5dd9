"""Common part of the benchmarks: sides in processes of their own that are asked in turn, and results as JSON.

A benchmark file names its question and its sides. Each side runs in a child process (the same file, started with
--side), so that PaddleSeg's package, PyTorch's threads and one side's memory can't touch another's; the parent asks
them in turn, round by round, so that all see the same machine. A ratio is taken within each round.

A file calls `run(__file__, QUESTION, cases, prepare, __doc__, rounds)`, where `prepare(side, arguments)` runs in the
child and returns a function that measures once and returns {measure: value}. Results go to
output/benchmarks/<file's name>.json, from which benchmarks/report.py makes RESULTS.md. A peer that isn't installed has
its rows too, which say so.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "benchmarks"
sys.path.append(str(ROOT))  # for all sides; PaddleSeg's package goes before it

from diff import paddleseg_reference  # noqa: E402

PADDLESEG_FOLDER = ROOT / paddleseg_reference.FOLDER  # where `make bench` puts PaddleSeg's package
Measurement = Dict[str, float]


@dataclass
class Aim:
    """Aim of the first side: at most this share of another side's figure, or this figure itself.

    Attributes:
        measure: the one that is judged, such as "time".
        at_most: the bound, of the ratio or of the figure.
        against: the other side; None for the figure itself.
    """

    measure: str
    at_most: float
    against: Optional[str] = None


@dataclass
class Case:
    """One line of a benchmark.

    Attributes:
        name: what is measured, for a reader.
        sides: ours first; the names go to `prepare`.
        units: measure -> unit.
        rounds: measurements of each side.
        arguments: what `prepare` needs to know beside the side; plain JSON.
        keep_alive: the sides' processes live through all rounds, and measure once unseen first; else each
            measurement has a process of its own, which suits what needs much memory.
        threads: of each side.
        agree: measure -> the relative difference from ours that every side's may have; such a measure is no row, it
            shows that the sides computed the same.
    """

    name: str
    sides: Sequence[str]
    units: Mapping[str, str]
    rounds: int
    arguments: Dict = field(default_factory=dict)
    aims: Sequence[Aim] = ()
    keep_alive: bool = True
    threads: int = 1
    agree: Mapping[str, float] = field(default_factory=dict)


# ---- processes

class Child:
    """One side's process."""

    def __init__(self, file: str, side: str, case: Case):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(case.threads)), "PYTHONWARNINGS": "ignore"}
        self.side = side
        self.process = subprocess.Popen([sys.executable, file, "--side", side, json.dumps(case.arguments)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def measure(self) -> Measurement:
        with contextlib.suppress(BrokenPipeError):
            print("measure", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.side}: its process ended with {self.process.wait()}; its error is above")
        return json.loads(answer)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def serve(prepare: Callable[[str, Dict], Callable[[], Measurement]], side: str, arguments: Dict) -> None:
    """Answer each line of standard input with a measurement, in a child."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    measure = prepare(side, arguments)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=answers, flush=True)


def take_turns(file: str, case: Case) -> Dict[str, List[Measurement]]:
    """The measurements of every side that is installed, one of each in every round."""
    results: Dict[str, List[Measurement]] = {side: [] for side in case.sides if not why_missing(side)}
    with contextlib.ExitStack() as stack:
        children = {side: Child(file, side, case) for side in results} if case.keep_alive else {}
        for child in children.values():
            stack.callback(child.close)
            child.measure()
        for index in range(case.rounds):
            for side in results:
                child = children.get(side) or Child(file, side, case)
                results[side].append(child.measure())
                if side not in children:
                    child.close()
                print(f"  round {index + 1}/{case.rounds}  {side:<24}" + "".join(
                    f"  {measure} {value:.4g} {case.units.get(measure, '')}".rstrip()
                    for measure, value in results[side][-1].items()), flush=True)
                check_agreement(case, side, results[side][-1], results[case.sides[0]][-1])
    return results


def check_agreement(case: Case, side: str, theirs: Measurement, ours: Measurement) -> None:
    """SystemExit where a side didn't compute what ours did."""
    for measure, tolerance in case.agree.items():
        if not abs(theirs[measure] - ours[measure]) <= tolerance * abs(ours[measure]):
            raise SystemExit(f"{case.name}: {measure} is {theirs[measure]:.9g} for {side} and {ours[measure]:.9g} for "
                             f"{case.sides[0]}; they may differ by {tolerance:g} of it")


# ---- figures

def number(value: float) -> str:
    """Three significant digits, without an exponent where it is large."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


def spread(values: Sequence[float]) -> str:
    """median (lowest to highest)."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


def summary(case: Case, results: Mapping[str, List[Measurement]]) -> List[Dict]:
    """One row for each measure and side: the figures, the ratio of ours to it, and whether an aim is met.

    A side without results has rows without figures, which say why; a measure that a side doesn't take has none.
    """
    rows, ours = [], case.sides[0]
    for measure, unit in case.units.items():
        for side in case.sides:
            aim = next((aim for aim in case.aims if aim.measure == measure and
                        aim.against == (None if side == ours else side)), None)
            row = {"case": case.name, "measure": measure, "unit": unit, "side": side, "arguments": case.arguments,
                   "values": [], "ratios": None, "at_most": aim.at_most if aim else None, "met": None, "missing": None}
            if not results.get(side):
                rows.append({**row, "missing": why_missing(side) or "not run"})
                continue
            if any(measure not in measurement for measurement in results[ours] + results[side]):
                continue
            row["values"] = [measurement[measure] for measurement in results[side]]
            if side != ours:
                row["ratios"] = [mine[measure] / theirs for mine, theirs in zip(results[ours], row["values"])]
            if aim:
                row["met"] = statistics.median(row["ratios"] or row["values"]) <= aim.at_most
            rows.append(row)
    return rows


def show(rows: Sequence[Dict]) -> None:
    """Print the rows of one case."""
    for row in rows:
        line = f"{row['measure']:<14}  {row['side']:<24}  " + (
            row["missing"] or f"{spread(row['values'])} {row['unit']}")
        if row["ratios"]:
            line += f"; ours / this: {spread(row['ratios'])}"
        if row["met"] is not None:
            line += f"; at most {number(row['at_most'])}: {'met' if row['met'] else 'MISSED'}"
        print(line, flush=True)


# ---- machine and peers

def machine() -> Dict[str, str]:
    """Hardware and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    facts = {"date": datetime.date.today().isoformat(), "CPU": cpu, "cores": str(len(os.sched_getaffinity(0))),
             "Python": sys.version.split()[0]}
    for name in ("paddlepaddle", "paddlepaddle-gpu", "torch", "mmsegmentation", "numpy", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    for package in importlib.metadata.distributions(path=[str(PADDLESEG_FOLDER)]):
        facts[package.metadata["Name"]] = package.version
    if "paddlepaddle-gpu" in facts:
        import paddle

        facts["GPU"] = ", ".join(paddle.device.cuda.get_device_name(index)
                                 for index in range(paddle.device.cuda.device_count()))
    return facts


def paddle_cuda():
    """paddle.device.cuda in a process that computes on a GPU by Paddle; else None."""
    paddle = sys.modules.get("paddle")
    return paddle.device.cuda if paddle and paddle.get_device().startswith("gpu") else None


def peak_mib() -> float:
    """The peak since the last `reset_peak`: of the resident set (Linux), or of what Paddle allocated on the GPU."""
    if paddle_cuda():
        return paddle_cuda().max_memory_allocated() / 2 ** 20
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def reset_peak() -> None:
    """Let the peak start from what is held at present; Paddle 2 can't on a GPU, where it stays that of the process."""
    if not paddle_cuda():
        Path("/proc/self/clear_refs").write_text("5")
    elif hasattr(paddle_cuda(), "reset_max_memory_allocated"):
        paddle_cuda().reset_max_memory_allocated()


def use_paddleseg() -> None:
    """Let `import paddleseg` find PaddleSeg's package in a child, mended by diff/paddleseg_reference.py."""
    paddleseg_reference.prepare(str(PADDLESEG_FOLDER))


def why_missing(side: str) -> Optional[str]:
    """Why a side can't be measured; None for one that can. Sides bear the names of what they need."""
    def lacks(*modules: str) -> bool:
        return not all(map(importlib.util.find_spec, modules))

    if side.startswith("PaddleSeg") and not (PADDLESEG_FOLDER / "paddleseg").is_dir():
        return "not run: PaddleSeg isn't installed, `make align-env` does it"
    if side.startswith("mmsegmentation") and lacks("torch", "mmseg"):
        return "not run: mmsegmentation isn't installed beside this Python, `make align-env` does it"
    if side.endswith("ONNX Runtime") and lacks("onnx", "onnxruntime", "paddle2onnx"):
        return "not run: requirements-onnx.txt isn't installed beside this Python"
    return None


def scenes(count: int, height: int, width: int) -> Path:
    """The folder of `count` synthetic scenes for training and one for validation, drawn if they aren't there."""
    folder = OUTPUT / f"scenes_{count}_{height}x{width}"
    if not folder.exists():
        OUTPUT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=OUTPUT) as scratch:
            drawn = Path(scratch, "scenes")
            subprocess.run([sys.executable, str(ROOT / "tools" / "make_scenes.py"), str(drawn), "--train", str(count),
                            "--val", "1", "--test", "1", "--size", str(height), str(width)], check=True,
                           stdout=subprocess.DEVNULL)
            drawn.rename(folder)
    return folder


# ---- the whole of a benchmark

def parse(doc: str, rounds: int) -> argparse.Namespace:
    """The command line of every benchmark; `side` is for its own children."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="only the cases whose names hold this; they are printed and not kept for the report")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def run(file: str, question: str, cases: Callable[[argparse.Namespace], Iterable[Case]],
        prepare: Callable[[str, Dict], Callable[[], Measurement]], doc: str, rounds: int,
        tables: Optional[Callable[[Sequence[Dict]], Sequence[Dict]]] = None) -> None:
    """Measure every case, print it, and keep the rows for the report, case by case.

    Args:
        question: the heading of its table in RESULTS.md.
        cases: given the command line, what to measure.
        prepare: given side and arguments, in that side's process, returns the function that measures once.
        tables: given all rows, what to show beside them, each {"title": …, "note": …, "columns": […],
            "rows": [[…], …]}; texts and numbers.
    """
    args = parse(doc, rounds)
    if args.side:
        serve(prepare, args.side[0], json.loads(args.side[1]))
        return
    planned = list(cases(args))
    chosen = [case for case in planned if args.only in case.name]
    if not chosen:
        raise SystemExit(f"no case holds {args.only!r}; there are " + "; ".join(case.name for case in planned))
    rows = {case.name: summary(case, {}) for case in planned}

    def keep() -> None:
        flat = [row for of_case in rows.values() for row in of_case]
        content = {"question": question, "machine": machine(), "rows": flat, "tables": tables(flat) if tables else []}
        OUTPUT.mkdir(parents=True, exist_ok=True)
        (OUTPUT / f"{Path(file).stem}.json").write_text(json.dumps(content, indent=1))

    for case in chosen:
        print(case.name, flush=True)
        if not args.only:
            keep()
        rows[case.name] = summary(case, take_turns(file, case))
        show(rows[case.name])
        if not args.only:
            keep()
