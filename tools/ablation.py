"""The paper's ablation on drawn scenes: FCN, + Encoding, + SE-loss, each trained from several seeds, in one table.

    python tools/ablation.py                     # three recipes, five seeds: about 13 minutes on two cores
    python tools/ablation.py --seeds 1 2 3 4 5 6 # keeps the runs that are done and adds those of one more seed
    python tools/ablation.py --quick             # the same steps at their smallest; the scores mean nothing

Runs of one seed see the same samples in the same order. Each is scored once, after its last iteration, so that no score
is the best of several. What is done isn't repeated and what was interrupted goes on, unless the recipe has changed. The
table is written to table.md of --save_dir, with every run's figures in results.json.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.cores import usable_cores
from paddleseg.utils.files import atomic_path

ROOT = str(Path(__file__).resolve().parents[1])
RECIPES = {"FCN": "configs/ablation/fcn_resnet18_scenes.yml",
           "+ Encoding": "configs/ablation/encnet_resnet18_scenes.yml",
           "+ SE-loss": "configs/ablation/encnet_se_resnet18_scenes.yml"}


class Size(NamedTuple):
    """How much is drawn and trained.

    Attributes:
        height, width: of the scenes, in pixels.
        opts: what overrides the recipes.
    """

    train: int
    val: int
    height: int
    width: int
    opts: Tuple[str, ...] = ()

    def scenes(self, save_dir: str) -> str:
        return os.path.join(save_dir, f"scenes_{self.train}_{self.val}_{self.height}x{self.width}")


FULL = Size(train=160, val=48, height=128, width=256)
QUICK = Size(train=4, val=2, height=64, width=128, opts=(
    "iters=2", "save_interval=2", "batch_size=2", "effective_batch=2", "lr_scheduler.warmup_iters=0"))


class Run(NamedTuple):
    """One training: a recipe from a seed.

    Attributes:
        row: the key of RECIPES.
        folder: of the run; its note is the file beside it, and so is what it prints.
        opts: of train.py.
    """

    row: str
    seed: int
    folder: str
    opts: Tuple[str, ...]
    device: str

    @property
    def name(self) -> str:
        return os.path.basename(self.folder)

    @property
    def note(self) -> str:
        return self.folder + ".json"

    @property
    def printed(self) -> str:
        return self.folder + ".txt"

    def settings(self) -> Dict:
        """All that decides what comes out, as JSON gives it back."""
        from paddleseg.cvlibs.config import load_config

        recipe = load_config(os.path.join(ROOT, RECIPES[self.row]), self.opts).plain()
        return json.loads(json.dumps({"recipe": recipe, "seed": self.seed, "device": self.device}))


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N",
                        help="default: 1 2 3 4 5")
    parser.add_argument("--jobs", type=int, default=usable_cores(), metavar="N",
                        help="runs at the same time, of one thread each (default: %(default)s, the cores)")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="default: %(default)s")
    parser.add_argument("--save_dir", metavar="DIR",
                        help="for scenes, runs and table (default: output/ablation; with --quick ablation_quick)")
    parser.add_argument("--quick", action="store_true", help="few scenes and iterations; the scores mean nothing")
    add_debug_flag(parser)
    return parser.parse_args(argv)


# ---- notes: what is done ------------------------------------------------------------------------------

def read_json(path: str) -> Dict:
    """The mapping in a file; empty where there is none, or what is there is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_text(path: str, text: str) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: str, content: Dict) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def result_of(run: Run) -> Optional[Dict]:
    """What a run gave, or None if it isn't done or was of other settings."""
    note = read_json(run.note)
    return note.get("result") if note.get("settings") == run.settings() else None


def final_scores(run: Run) -> Dict:
    """The evaluation of the last iteration, from the run's log.

    Raises:
        RunError: there is none.
    """
    path = os.path.join(ROOT, run.folder, "log.jsonl")
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    if not records or records[-1]["mode"] != "eval":
        raise RunError(f"{path}: the last record is no evaluation; remove {run.note} to train the run again")
    return {key: records[-1][key] for key in ("iter", "mIoU", "Acc", "class_iou")}


# ---- runs ---------------------------------------------------------------------------------------------

def list_runs(args: argparse.Namespace, size: Size) -> List[Run]:
    """Every run of the table, all rows of a seed before the next seed's."""
    scenes = size.scenes(args.save_dir)
    opts = (*size.opts, f"train_dataset.dataset_root={scenes}", f"val_dataset.dataset_root={scenes}")
    return [Run(row, seed, os.path.join(args.save_dir, f"{Path(recipe).stem}_seed{seed}"), opts, args.device)
            for seed in args.seeds for row, recipe in RECIPES.items()]


def draw_scenes(size: Size, save_dir: str) -> None:
    """Draw the scenes, unless they are there."""
    values = map(str, ("--train", size.train, "--val", size.val, "--test", 0, "--size", size.height, size.width))
    code = subprocess.call([sys.executable, "tools/make_scenes.py", size.scenes(save_dir), *values], cwd=ROOT)
    if code:
        raise RunError(f"the scenes couldn't be drawn (exit code {code}); the message is above")


def start(run: Run) -> subprocess.Popen:
    """Start a training, which goes on where the same one was interrupted."""
    settings, before, flags = run.settings(), read_json(run.note).get("settings"), []
    if before == settings:
        flags = ["--resume", "auto"]
    elif before is not None:
        print(f"{run.name}: its recipe has changed since it ran; it is trained again from the beginning", flush=True)
        flags = ["--overwrite"]
    write_json(run.note, {"settings": settings})
    with open(run.printed, "w", encoding="utf-8") as printed:
        # In a session of its own, so that Ctrl-C reaches it once, through `train_all`.
        return subprocess.Popen(
            [sys.executable, "train.py", "--config", RECIPES[run.row], "--do_eval", "--seed", str(run.seed), "--device",
             run.device, "--num_workers", "0", "--save_dir", run.folder, *flags, "--opts", *run.opts],
            cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)


def finish(run: Run, code: int) -> Dict:
    """Note and return what a run gave.

    Raises:
        RunError: it failed.
    """
    if code:
        with open(run.printed, encoding="utf-8", errors="replace") as printed:
            lines = [line.strip() for line in printed if line.strip()] or ["it printed nothing"]
        raise RunError(f"{run.name} ended with exit code {code}: {lines[-1]} (all it printed is in {run.printed}); the "
                       f"same command goes on with what is left")
    result = final_scores(run)
    write_json(run.note, {"settings": run.settings(), "result": result})
    return result


@contextlib.contextmanager
def noted_signals() -> Iterator[List[int]]:
    """Inside, SIGTERM and Ctrl-C only go on the list; raised, they could fall between a start and its note."""
    came = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_all(runs: Sequence[Run], at_once: int) -> None:
    """Train runs side by side; when one fails, or on a signal, those that go on are told to save themselves and end."""
    waiting, running, ended, began = deque(runs), {}, 0, time.monotonic()
    try:
        with noted_signals() as came:
            while (waiting or running) and not came:
                while waiting and len(running) < at_once:
                    run = waiting.popleft()
                    running[start(run)] = run
                time.sleep(0.1)
                for process in [process for process in running if process.poll() is not None]:
                    run, ended = running.pop(process), ended + 1
                    result = finish(run, process.returncode)
                    print(f"[{ended}/{len(runs)}] {run.name}: mIoU {100 * result['mIoU']:.2f}  "
                          f"({(time.monotonic() - began) / 60:.1f} minutes since the start)", flush=True)
        if came:
            raise KeyboardInterrupt
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


# ---- the table ----------------------------------------------------------------------------------------

def spread(values: Sequence[float]) -> Dict:
    """Mean, sample standard deviation (None of a single value), lowest and highest."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "lowest": min(values),
            "highest": max(values)}


def summarize(results: Dict[Tuple[str, int], Dict], seeds: Sequence[int]) -> List[Dict]:
    """The rows of the table.

    Args:
        results: what each (row, seed) gave.

    Returns: of each row mIoU, pixel accuracy, and the gain of mIoU over the row above, seed by seed.
    """
    rows, above = [], None
    for row, recipe in RECIPES.items():
        runs = [results[row, seed] for seed in seeds]
        gains = [run["mIoU"] - other["mIoU"] for run, other in zip(runs, above)] if above else None
        rows.append({"row": row, "recipe": recipe, "mIoU": spread([run["mIoU"] for run in runs]),
                     "Acc": spread([run["Acc"] for run in runs]), "gain": gains and spread(gains),
                     "runs": [{"seed": seed, **run} for seed, run in zip(seeds, runs)]})
        above = runs
    return rows


def percent(values: Optional[Dict], sign: str = "") -> str:
    if values is None:
        return ""
    return f"{100 * values['mean']:{sign}.2f}" + ("" if values["std"] is None else f" ± {100 * values['std']:.2f}")


def table(rows: Sequence[Dict]) -> str:
    """The rows in Markdown."""
    seeds = [run["seed"] for run in rows[0]["runs"]]
    lines = ["| Model | mIoU % | lowest to highest | pixel accuracy % | gain over the row above |", "|-|-|-|-|-|"]
    for row in rows:
        miou = row["mIoU"]
        lines.append(f"| {row['row']} | {percent(miou)} | {100 * miou['lowest']:.2f} to {100 * miou['highest']:.2f} | "
                     f"{percent(row['Acc'])} | {percent(row['gain'], '+')} |")
    return "\n".join([*lines, "", f"Mean ± standard deviation; seeds: {', '.join(map(str, seeds))}. Gains of mIoU are "
                      "taken seed by seed; one that is smaller than its spread says nothing.", ""])


# ---- the command --------------------------------------------------------------------------------------

def check_args(args: argparse.Namespace) -> None:
    if len(set(args.seeds)) != len(args.seeds) or min(args.seeds) < 0:
        raise ConfigError(f"--seeds {' '.join(map(str, args.seeds))}: each must be at least 0 and stand once")
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be at least 1")


def main(args: argparse.Namespace) -> int:
    check_args(args)
    size = QUICK if args.quick else FULL
    shown = args.save_dir or ("output/ablation_quick" if args.quick else "output/ablation")
    args.save_dir = os.path.relpath(args.save_dir or os.path.join(ROOT, shown), ROOT)
    os.chdir(ROOT)
    runs = list_runs(args, size)
    waiting = [run for run in runs if result_of(run) is None]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done already; {args.jobs} at a time", flush=True)
    if waiting:
        draw_scenes(size, args.save_dir)
        train_all(waiting, args.jobs)
    rows = summarize({(run.row, run.seed): result_of(run) for run in runs}, args.seeds)
    write_json(os.path.join(args.save_dir, "results.json"), {"size": size._asdict(), "rows": rows})
    text = table(rows)
    write_text(os.path.join(args.save_dir, "table.md"), text)
    print(f"\n{text}\n{shown}/table.md and {shown}/results.json have it too")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
