"""Run every step on both sides, compare, and print the verdicts; what `make align` calls.

    python diff/run.py            # the real recipe on ResNet-101; writes diff/*_diff.log and diff/report.html
    python diff/run.py --quick    # small networks, every step; writes below diff/output/quick
    python diff/run.py --steps forward loss --references mmseg

The two sides of a step run at the same time where the memory allows. Exit code 1 if any verdict fails.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import check, report
from paddleseg.cvlibs.errors import SegError
from paddleseg.utils.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
LOGS = "diff"
OUTPUT = "diff/output"
QUICK_OUTPUT = "diff/output/quick"
SIDES = ("torch", "paddle")  # in this order where the second needs what the first wrote


class Job(NamedTuple):
    """A step against a reference in a dtype.

    Attributes:
        flags: for the step's script, beside --side, --reference, --dtype, --output and --threads.
        quick_flags: the same for `--quick`.
        side_gb: memory that one side takes.
        is_in_order: our side replays what the reference's side wrote.
        is_quick: `--quick` has it too.
    """

    step: str
    reference: str
    dtype: str
    flags: Tuple[str, ...] = ()
    quick_flags: Tuple[str, ...] = ()
    side_gb: float = 2.0
    is_in_order: bool = False
    is_quick: bool = True


SMALL = ("--depth", "50")  # the smallest that is the same network in mmsegmentation
SMALLEST = ("--depth", "18")
FEW_SCENES = ("--size", "512", "1024", "--num_scenes", "4")

# The first job of a step gives the log of the plain name, <step>_diff.log.
JOBS = (
    Job("data", "mmseg", "float32", quick_flags=FEW_SCENES, is_in_order=True),
    Job("data", "paddleseg", "float32", quick_flags=FEW_SCENES, is_in_order=True),
    Job("forward", "mmseg", "float64", quick_flags=SMALL, side_gb=4),
    Job("forward", "mmseg", "float32", is_quick=False),
    Job("forward", "paddleseg", "float64", side_gb=4, is_quick=False),
    Job("forward", "paddleseg", "float32", quick_flags=SMALLEST),
    Job("forward", "pytorch_encoding", "float64", quick_flags=SMALL, side_gb=4),
    Job("metric", "mmseg", "float64"),
    Job("metric", "paddleseg", "float64"),
    Job("loss", "mmseg", "float64"),
    Job("loss", "mmseg", "float32", is_quick=False),
    Job("loss", "paddleseg", "float64"),
    Job("loss", "pytorch_encoding", "float64", is_quick=False),
    Job("bp_align", "mmseg", "float64", quick_flags=SMALL, side_gb=6),
    Job("bp_align", "mmseg", "float32", side_gb=4, is_quick=False),
    Job("train_align", "mmseg", "float64"),
    Job("train_align", "mmseg", "float32", is_quick=False),
    Job("schedule", "mmseg", "float64"),
    Job("schedule", "paddleseg", "float64"),
    Job("schedule", "pytorch_encoding", "float64"),
)


class Result(NamedTuple):
    """A job's rows of diff/check.py and how long it took."""

    job: Job
    rows: List[check.Row]
    log: str
    seconds: float

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def verdict(self) -> List[str]:
        """A line of the table: that of the array nearest its tolerance."""
        worst = check.worst(self.rows)
        numbers = ["-", "-"]
        if worst.largest is not None:
            numbers = [f"{worst.largest:.2g}", f"{worst.tolerance.largest:.2g}"]
        return [self.job.step, self.job.reference, self.job.dtype, *numbers, "passed" if self.passed else "FAILED"]


def log_name(job: Job, jobs: Sequence[Job]) -> str:
    """<step>_diff.log for the step's first job, else with reference and dtype."""
    first = next(other for other in jobs if other.step == job.step)
    return f"{job.step}_diff.log" if job == first else f"{job.step}_{job.reference}_{job.dtype}_diff.log"


def folder_of(job: Job, output: str) -> Path:
    """Return the folder of a job's .npy files and of what its sides printed."""
    return Path(output) / f"{job.reference}_{job.dtype}"


# Running.


def free_gb() -> float:
    """The memory that processes may still take, 0 where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable:")), 0.0)


def run_sides(job: Job, output: str, quick: bool, scripts: Path) -> Dict[str, int]:
    """Run the sides of a job; returns the exit code of each that ran."""
    folder = folder_of(job, output)
    folder.mkdir(parents=True, exist_ok=True)
    cores = usable_cores()
    at_once = cores > 1 and not job.is_in_order and free_gb() > 2 * job.side_gb
    threads = max(cores // 2, 1) if at_once else cores
    processes, codes = {}, {}
    try:
        for side in SIDES:
            # What an earlier run left must not be taken for this one's.
            (folder / f"{job.step}_{side}.npy").unlink(missing_ok=True)
            command = [sys.executable, str(scripts / f"{job.step}.py"), "--side", side, "--reference", job.reference,
                       "--dtype", job.dtype, "--output", str(folder), "--threads", str(threads),
                       *(job.quick_flags if quick else job.flags)]
            with open(folder / f"{job.step}_{side}.txt", "w") as said:
                processes[side] = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
            if not at_once:
                codes[side] = processes[side].wait()
                if codes[side] and job.is_in_order:
                    break
        return {**codes, **{side: process.wait() for side, process in processes.items()}}
    finally:
        for process in processes.values():
            process.kill()  # does nothing to one that has ended


def exit_reason(path: Path) -> str:
    """The last line that a failed side said, without this machine's paths."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip().replace(f"{ROOT}/", "") if lines else "it said nothing"


def run_job(job: Job, jobs: Sequence[Job], output: str, logs: str, quick: bool, scripts: Path) -> Result:
    """Run and compare one job; whatever goes wrong becomes a failed row."""
    start = time.perf_counter()
    codes = run_sides(job, output, quick, scripts)
    folder = folder_of(job, output)
    rows = [check.Row(f"{side} side", f"exit code {code}: {exit_reason(folder / f'{job.step}_{side}.txt')}")
            for side, code in codes.items() if code]
    if not rows:
        torch_log, paddle_log = (str(folder / f"{job.step}_{side}.npy") for side in SIDES)
        rows = check.check_files(torch_log, paddle_log, job.step, job.dtype, job.reference)
    log = Path(logs) / log_name(job, jobs)
    log.parent.mkdir(parents=True, exist_ok=True)
    check.write_log(rows, str(log), f"{job.step}, reference {job.reference}, {job.dtype}")
    return Result(job, rows, str(log), time.perf_counter() - start)


def run_jobs(jobs: Sequence[Job], chosen: Sequence[Job], output: str, logs: str, quick: bool,
             scripts: Path) -> List[Result]:
    """Run the chosen ones of `jobs`, a line for each as it ends."""
    results = []
    for job in chosen:
        name = f"{job.step} {job.reference} {job.dtype}"
        print(f"[{len(results) + 1}/{len(chosen)}] {name:<40}", end=" ", flush=True)
        result = run_job(job, jobs, output, logs, quick, scripts)
        print(f"{result.seconds:6.1f} s  {'passed' if result.passed else 'FAILED'}", flush=True)
        for row in [row for row in result.rows if not row.passed][:5]:
            print(f"        {check.printable(row.key)}: {check.printable(row.fault)}", flush=True)
        results.append(result)
    return results


# Output.


def format_table(results: Sequence[Result]) -> str:
    from prettytable import PrettyTable

    table = PrettyTable(["step", "reference", "dtype", "largest difference", "tolerance", "verdict"], align="l")
    table.add_rows([result.verdict for result in results])
    return table.get_string()


def train_lines(result: Result, output: str) -> List[str]:
    """The training runs of train_align, iteration by iteration, ours beside the reference's."""
    folder, lines = folder_of(result.job, output), []
    theirs, ours = (check.read_log(str(folder / f"train_align_{side}.npy")) for side in SIDES)
    for seed in dict.fromkeys(key.split("/")[0] for key in ours):
        name = f"{result.job.reference} {result.job.dtype} {seed}"
        losses, rates = zip(theirs[f"{seed}/loss"], ours[f"{seed}/loss"]), ours[f"{seed}/lr"]
        for number, (their_loss, our_loss) in enumerate(losses, start=1):
            lines.append(f"[TRAIN] {name}, iter: {number}/{len(rates)}, loss: {our_loss:.10g}, reference: "
                         f"{their_loss:.10g}, lr: {rates[number - 1]:.6g}")
        lines.append(f"[EVAL] {name}, mIoU: {float(ours[f'{seed}/miou']):.4f}, reference: "
                     f"{float(theirs[f'{seed}/miou']):.4f}")
    return lines


def write_train_log(results: Sequence[Result], output: str, path: Path) -> None:
    """Write the training runs whose logs can be read; leave the file alone if there is none."""
    lines: List[str] = []
    for result in results:
        if result.job.step == "train_align":
            try:
                lines += train_lines(result, output)
            except (SegError, KeyError):  # a failed row of the result has said why
                continue
    if lines:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks, to see that every step holds")
    parser.add_argument("--steps", nargs="+", choices=check.STEPS, default=check.STEPS, metavar="STEP",
                        help=f"only these of {', '.join(check.STEPS)}")
    parser.add_argument("--references", nargs="+", metavar="REFERENCE", help="only these")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    os.chdir(ROOT)  # logs are committed: they hold no path of a machine
    output, logs = (QUICK_OUTPUT, QUICK_OUTPUT) if args.quick else (OUTPUT, LOGS)
    chosen = [job for job in JOBS if job.step in args.steps and job.reference in (args.references or [job.reference])
              and (job.is_quick or not args.quick)]
    if not chosen:
        sys.exit(f"no step has the reference {' or '.join(args.references)}")
    start = time.perf_counter()
    results = run_jobs(JOBS, chosen, output, logs, args.quick, Path("diff"))
    write_train_log(results, output, Path(logs) / "train.log")
    title = "quick run: small networks" if args.quick else "EncNet on ResNet-101"
    report.write(results, title, Path(output), Path(logs) / "report.html")
    failed = [result for result in results if not result.passed]
    print(format_table(results))
    print(f"{len(results) - len(failed)} of {len(results)} passed in {(time.perf_counter() - start) / 60:.1f} minutes; "
          f"plots: {logs}/report.html, logs: {logs}/*_diff.log")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
