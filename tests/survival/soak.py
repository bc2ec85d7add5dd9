"""Try every fault of tests/survival in full, and print a line for each: tried, survived, lost.

    python tests/survival/soak.py
    python tests/survival/soak.py --only kill --scale 0.1 --seed 7

The exit code is 1 if anything was lost; the folder of a fault that lost something is kept. The runs start from the
files of this repository again and again: leave them as they are until the end.
"""

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent, HERE.parents[1], HERE.parents[1] / "tools")]

import outcome  # noqa: E402

INTERRUPTED = 130  # as the shell says it of Ctrl-C
NamedFault = Tuple[str, outcome.Fault]


@dataclass
class Row:
    """What became of one fault; `note` says why it wasn't tried, or which kinds the tries were of."""

    name: str
    result: outcome.Outcome
    minutes: float = 0.0
    note: str = ""


def find_faults(only: Sequence[str]) -> List[NamedFault]:
    """(module, fault) of every module here, or those whose fault's or module's name holds one of `only`."""
    faults = [(path.stem, fault) for path in sorted(HERE.glob("test_*.py"))
              for fault in importlib.import_module(path.stem).FAULTS]
    wanted = [(module, fault) for module, fault in faults
              if not only or any(part.lower() in f"{module} {fault.name}".lower() for part in only)]
    if not wanted:
        sys.exit(f"--only {' '.join(only)} fits none of: " + "; ".join(fault.name for _, fault in faults))
    return wanted


def run_fault(module: str, fault: outcome.Fault, count: int) -> Row:
    """Try a fault `count` times in a fresh folder."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak_{module}_"))
    row, started = Row(fault.name, outcome.Outcome()), time.perf_counter()
    try:
        row.result = fault.survive(count, folder)
        row.note = ", ".join(f"{kind} {times}" for kind, times in row.result.kinds.most_common())
    except pytest.skip.Exception as reason:
        row.note = f"skipped: {reason.msg}"
    except (Exception, pytest.fail.Exception) as error:  # the other faults are tried all the same
        traceback.print_exc()
        row.result.add(f"the trial itself broke off ({type(error).__name__}: {str(error).strip()[-1000:]})")
    row.minutes = (time.perf_counter() - started) / 60
    if row.result.lost:
        row.result.lost.append(f"what is left lies in {folder}; to repeat: python tests/survival/soak.py "
                               f"--seed {outcome.seed()} --only {fault.name!r}")
    else:
        shutil.rmtree(folder)
    return row


def describe(rows: Sequence[Row]) -> str:
    """The table, and below it what was lost."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'fault':{width}}  tried  survived  lost  minutes"]
    for row in rows:
        tried, survived = row.result.tried, row.result.survived
        lines.append(f"{row.name:{width}}  {tried:5}  {survived:8}  {tried - survived:4}  {row.minutes:7.1f}"
                     + (f"  ({row.note})" if row.note else ""))
    for row in rows:
        lines += [f"LOST {row.name}: {loss}" for loss in row.result.lost]
    return "\n".join(lines)


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="try the faults, or the modules, with this in their names; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times the full counts (default: 1)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), metavar="N",
                        help="of every random choice (default: a new one each time, printed)")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    os.environ[outcome.SEED_VARIABLE] = str(args.seed)
    warnings.filterwarnings("ignore", message="No ccache found")  # Paddle says this at every import
    faults, rows = find_faults(args.only), []
    print(f"{len(faults)} faults, seed {args.seed}, {sys.executable}", flush=True)
    for number, (module, fault) in enumerate(faults, 1):
        count = max(1, round(fault.full * args.scale))
        print(f"[{number}/{len(faults)}] {fault.name}: {count} tries", flush=True)
        try:
            rows.append(run_fault(module, fault, count))
        except KeyboardInterrupt:
            print("interrupted; so far:" if rows else "interrupted")
            break
        print(describe(rows[-1:]), flush=True)
    if not rows:
        return INTERRUPTED
    print(f"\nseed {args.seed}, {sum(row.minutes for row in rows):.1f} minutes\n{describe(rows)}")
    if any(row.result.lost for row in rows):
        return 1
    return 0 if len(rows) == len(faults) else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
