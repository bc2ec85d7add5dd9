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
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent, HERE.parents[1], HERE.parents[1] / "tools")]

import outcome  # noqa: E402

INTERRUPTED = 130  # as the shell says it of Ctrl-C


def find_faults(only: Sequence[str]) -> List[outcome.Fault]:
    """The faults of every module here, or those whose own or whose module's name holds one of `only`."""
    modules = [importlib.import_module(path.stem) for path in sorted(HERE.glob("test_*.py"))]
    wanted = [fault for module in modules for fault in getattr(module, "FAULTS", [])
              if not only or any(part.lower() in f"{module.__name__} {fault.name}".lower() for part in only)]
    if not wanted:
        sys.exit(f"--only {' '.join(only)} fits no fault")
    return wanted


def run_fault(fault: outcome.Fault, count: int) -> Tuple[outcome.Outcome, str]:
    """Try a fault `count` times in a fresh folder; returns the outcome and a line of the table."""
    folder = Path(tempfile.mkdtemp(prefix="soak_"))
    result, note, started = outcome.Outcome(), "", time.perf_counter()
    try:
        result = fault.survive(count, folder)
        note = ", ".join(f"{kind} {times}" for kind, times in result.kinds.most_common())
    except pytest.skip.Exception as reason:
        note = f"skipped: {reason.msg}"
    except (Exception, pytest.fail.Exception) as error:  # the other faults are tried all the same
        traceback.print_exc()
        result.add(loss=f"the trial itself broke off ({type(error).__name__}: {str(error).strip()[-1000:]})")
    if result.lost:
        result.lost.append(f"the files are in {folder}; to repeat: --only {fault.name!r} with the same --seed")
    else:
        shutil.rmtree(folder)
    lost = max(0, len(result.lost) - 1)
    minutes = (time.perf_counter() - started) / 60
    return result, (f"{fault.name:55} {result.tried:6} {result.tried - lost:9} {lost:5} {minutes:8.1f}"
                    + (f"  ({note})" if note else ""))


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
    faults, lines, lost, started = find_faults(args.only), [], [], time.perf_counter()
    print(f"{len(faults)} faults, seed {args.seed}, {sys.executable}", flush=True)
    try:
        for number, fault in enumerate(faults, 1):
            count = max(1, round(fault.full * args.scale))
            print(f"[{number}/{len(faults)}] {fault.name}: {count} tries", flush=True)
            result, line = run_fault(fault, count)
            lines.append(line)
            lost += [f"LOST {fault.name}: {loss}" for loss in result.lost]
            print(line, flush=True)
    except KeyboardInterrupt:
        print("interrupted; so far:")
    print(f"\nseed {args.seed}, {(time.perf_counter() - started) / 60:.1f} minutes")
    print("\n".join([f"{'fault':55}  tried  survived  lost  minutes", *lines, *lost]))
    if lost:
        return 1
    return 0 if len(lines) == len(faults) else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
