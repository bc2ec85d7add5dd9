r"""What val.py's --report costs: wall time, CPU time and peak memory with it, over those without, in turns.

    python tools/make_scenes.py data/scenes_100 --val 100
    python tools/make_scenes.py data/scenes_500 --val 500
    python tests/report_cost.py --config configs/quick_start/encnet_resnet18_scenes.yml \
        --model_path output/demo/best_model/model.pdparams --dataset_root data/scenes_100 data/scenes_500

Each measurement is a whole val.py, from its start to its end. Where other programs run, wall time says little: the
least of several rounds is what counts, and CPU time of all its processes tells more. Aims: at most 1.15 times the time
for 500 images, and the same peak memory whatever their number. Needs os.wait4 (Linux, macOS).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    """Seconds, seconds and MiB."""

    wall: float
    cpu: float
    memory: float


def measure(command: Sequence[str]) -> Cost:
    """Run a command; SystemExit with its last words if it fails. Memory is that of its largest process."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode(errors="replace")[-2000:])
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def compare(command: Sequence[str], rounds: int) -> None:
    """Print every round, and the least of all."""
    plain: List[Cost] = []
    reporting: List[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            plain.append(measure(command))
            reporting.append(measure([*command, "--report", folder]))
            print(f"round {number + 1}: " + line(plain[-1], reporting[-1]), flush=True)
    print("least:   " + line(Cost(*map(min, zip(*plain))), Cost(*map(min, zip(*reporting)))), flush=True)


def line(plain: Cost, reporting: Cost) -> str:
    return "; ".join(f"{name} {before:.2f} -> {after:.2f} {unit} (x {after / before:.3f})" for name, unit, before, after
                     in zip(Cost._fields, ("s", "s", "MiB"), plain, reporting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--dataset_root", nargs="+", required=True, help="measured one after the other")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--opts", nargs="+", default=[], help="as val.py's")
    args = parser.parse_args()
    for root in args.dataset_root:
        print(root)
        compare([sys.executable, "val.py", "--config", args.config, "--model_path", args.model_path, "--opts",
                 f"val_dataset.dataset_root={root}", *args.opts], args.rounds)


if __name__ == "__main__":
    main()
