"""What the benchmarks share: sides in processes of their own that are asked in turn, and results as JSON.

A benchmark file names its question and its sides. Each side runs in a child process (the same file, started with
--side), so that PaddleSeg's package, PyTorch's threads and one side's memory can't touch another's; the parent asks
them in turn, round by round, so that all see the same machine. A ratio is taken within each round.

A file calls `run(__file__, QUESTION, cases, prepare)`, where `prepare(side, case)` runs in the child and returns a
function that measures once and returns {measure: value}. Results go to output/benchmarks/<file's name>.json, from
which benchmarks/report.py makes RESULTS.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "benchmarks"
Measurement = Dict[str, float]


@dataclass
class Aim:
    """What the first side shall reach: at most this share of another side's figure, or this figure itself.

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
    """

    name: str
    sides: Sequence[str]
    units: Mapping[str, str]
    rounds: int
    arguments: Dict = field(default_factory=dict)
    aims: Sequence[Aim] = ()
    keep_alive: bool = True
    threads: int = 1


class Child:
    """One side's process."""

    def __init__(self, file: str, side: str, case: Case):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(case.threads))}
        self.side = side
        self.process = subprocess.Popen([sys.executable, file, "--side", side, json.dumps(case.arguments)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def measure(self) -> Measurement:
        self.process.stdin.write("measure\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.side}: its process ended with {self.process.wait()}; its error is above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(prepare: Callable[[str, Dict], Callable[[], Measurement]], side: str, arguments: Dict) -> None:
    """In a child: answer each line of standard input with a measurement."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    measure = prepare(side, arguments)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=answers, flush=True)


def take_turns(file: str, case: Case) -> Dict[str, List[Measurement]]:
    """Every side's measurements, one of each in every round."""
    results: Dict[str, List[Measurement]] = {side: [] for side in case.sides}
    with contextlib.ExitStack() as stack:
        children = {}
        if case.keep_alive:
            children = {side: Child(file, side, case) for side in case.sides}
            for child in children.values():
                stack.callback(child.close)
                child.measure()
        for index in range(case.rounds):
            for side in case.sides:
                child = children.get(side) or Child(file, side, case)
                results[side].append(child.measure())
                if side not in children:
                    child.close()
                print(f"  round {index + 1}/{case.rounds}  {side:<24}" + "".join(
                    f"  {measure} {value:.4g} {case.units[measure]}" for measure, value in results[side][-1].items()),
                    flush=True)
    return results


def ratios(results: Mapping[str, List[Measurement]], side: str, other: str, measure: str) -> List[float]:
    """side / other, round by round."""
    return [mine[measure] / theirs[measure] for mine, theirs in zip(results[side], results[other])]


def spread(values: Sequence[float]) -> str:
    """median (lowest to highest)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def summary(case: Case, results: Mapping[str, List[Measurement]]) -> List[Dict]:
    """One row for each measure and side: the figures, the ratio of ours to it, and whether an aim is met."""
    rows, ours = [], case.sides[0]
    for measure, unit in case.units.items():
        for side in case.sides:
            if any(measure not in measurement for measurement in results[ours] + results[side]):
                continue
            values = [measurement[measure] for measurement in results[side]]
            ratio = None if side == ours else ratios(results, ours, side, measure)
            aim = next((aim for aim in case.aims if aim.measure == measure and
                        aim.against == (None if side == ours else side)), None)
            judged = values if side == ours else ratio
            rows.append({"case": case.name, "measure": measure, "unit": unit, "side": side, "values": values,
                         "ratios": ratio, "at_most": aim.at_most if aim else None,
                         "met": statistics.median(judged) <= aim.at_most if aim else None})
    return rows


def show(rows: Sequence[Dict]) -> None:
    """Print the rows of one case."""
    for row in rows:
        line = f"{row['measure']:<12}{row['side']:<24}{spread(row['values'])} {row['unit']}"
        if row["ratios"]:
            line += f"; ours / this: {spread(row['ratios'])}"
        if row["at_most"] is not None:
            line += f"; at most {row['at_most']:.3g}: {'met' if row['met'] else 'MISSED'}"
        print(line, flush=True)


def machine() -> Dict[str, str]:
    """What this runs on."""
    import importlib.metadata

    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    facts = {"date": datetime.date.today().isoformat(), "CPU": cpu, "cores": str(len(os.sched_getaffinity(0))),
             "Python": sys.version.split()[0]}
    for name in ("paddlepaddle", "paddlepaddle-gpu", "torch", "mmsegmentation", "numpy", "onnxruntime"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    return facts


def peak_mib() -> float:
    """The peak resident set of this process since the last `reset_peak` (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def reset_peak() -> None:
    """Let the peak start from the present resident set (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def paddleseg_folder() -> Optional[str]:
    """The folder that holds PaddleSeg's package, where `make bench` puts it; None without it."""
    folder = ROOT / ".venv-align" / "paddleseg"
    return str(folder) if (folder / "paddleseg" / "models" / "encnet.py").is_file() else None


def parse(doc: str, rounds: Optional[int] = None) -> argparse.Namespace:
    """The command line of every benchmark; `side` and `arguments` are for its own children."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the cases whose names hold this")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def run(file: str, question: str, cases: Callable[[argparse.Namespace], Sequence[Case]],
        prepare: Callable[[str, Dict], Callable[[], Measurement]], doc: str, rounds: int) -> None:
    """The whole of a benchmark: measure every case, print it, and keep the rows for the report.

    Args:
        question: the heading of its table in RESULTS.md.
        cases: given the command line, what to measure.
        prepare: given side and arguments, in that side's process, returns the function that measures once.
    """
    args = parse(doc, rounds)
    if args.side:
        serve(prepare, args.side[0], json.loads(args.side[1]))
        return
    rows = []
    for case in cases(args):
        if args.only in case.name:
            print(case.name, flush=True)
            rows += summary(case, take_turns(file, case))
            show([row for row in rows if row["case"] == case.name])
    save(file, question, rows)


def save(file: str, question: str, rows: Sequence[Dict], **more) -> None:
    """Keep a benchmark's rows, and `more` of its own, for benchmarks/report.py."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    target = OUTPUT / (Path(file).stem + ".json")
    target.write_text(json.dumps({"question": question, "machine": machine(), "rows": list(rows), **more}, indent=1))
    print(f"{target.relative_to(ROOT)} is written", flush=True)
