"""The paper's ablation on synthetic scenes: FCN, + Encoding, + SE-loss, each trained from several seeds, in one table.

    python tools/ablation.py                     # three configs, five seeds: about 13 minutes on two cores
    python tools/ablation.py --seeds 1 2 3 4 5 6 # keeps the runs that are done and adds those of one more seed
    python tools/ablation.py --quick             # the same steps at their smallest; the scores mean nothing

Runs of one seed see the same samples in the same order. Each is scored once, after its last iteration, so that no score
is the best of several. What is done isn't repeated and what was interrupted goes on, unless the config has changed. The
table is written to table.md of --save_dir, with every run's figures in results.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.cores import usable_cores

ROOT = str(Path(__file__).resolve().parents[1])
CONFIGS = {"FCN": "configs/ablation/fcn_resnet18_scenes.yml",
           "+ Encoding": "configs/ablation/encnet_resnet18_scenes.yml",
           "+ SE-loss": "configs/ablation/encnet_se_resnet18_scenes.yml"}
# Scenes of train and val, their height and width.
FULL, QUICK = (160, 48, 128, 256), (4, 2, 64, 128)
QUICK_OPTS = ("iters=2", "save_interval=2", "batch_size=2", "effective_batch=2", "lr_scheduler.warmup_iters=0")


class Run(NamedTuple):
    """One training: a config from a seed.

    Attributes:
        row: the key of CONFIGS.
        folder: of the run; beside it lie its settings (.json) and what it printed (.txt).
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

    def settings(self) -> Dict:
        """All that decides what comes out, as JSON gives it back."""
        from paddleseg.cvlibs.config import load_config

        config = load_config(CONFIGS[self.row], self.opts).plain()
        return json.loads(json.dumps({"config": config, "seed": self.seed, "device": self.device}))

    def saved_settings(self) -> Optional[Dict]:
        """The settings that the run was last started with."""
        try:
            return json.loads(Path(self.folder + ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def result(self) -> Optional[Dict]:
        """The evaluation of the last iteration; None if the run isn't done, or was of other settings."""
        settings, log = self.settings(), Path(self.folder, "log.jsonl")
        if self.saved_settings() != settings or not log.exists():
            return None
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        if last["mode"] != "eval" or last["iter"] != settings["config"]["iters"]:
            return None
        return {key: last[key] for key in ("iter", "mIoU", "Acc", "class_iou")}


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


def start(run: Run) -> subprocess.Popen:
    """Start a training, which goes on where the same one was interrupted."""
    settings, before, flags = run.settings(), run.saved_settings(), []
    if before == settings:
        flags = ["--resume", "auto"]
    elif before is not None:
        print(f"{run.name}: its config has changed since it ran; it is trained again from the beginning", flush=True)
        flags = ["--overwrite"]
    Path(run.folder + ".json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    with open(run.folder + ".txt", "w", encoding="utf-8") as printed:
        # In a session of its own, so that Ctrl-C reaches it once, through `train_all`.
        return subprocess.Popen(
            [sys.executable, "train.py", "--config", CONFIGS[run.row], "--do_eval", "--seed", str(run.seed), "--device",
             run.device, "--num_workers", "0", "--save_dir", run.folder, *flags, "--opts", *run.opts],
            stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)


def train_all(runs: Sequence[Run], at_once: int) -> None:
    """Train runs side by side; when one fails, or on a signal, those that go on save themselves and end.

    Raises:
        RunError: naming the run that failed, with its message.
    """
    waiting, running, began = deque(runs), {}, time.monotonic()
    signals: List[int] = []  # that came; raised at once, they could fall between a start and its place in `running`
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        while (waiting or running) and not signals:
            while waiting and len(running) < at_once:
                run = waiting.popleft()
                running[start(run)] = run
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                result = run.result()
                if process.returncode or result is None:
                    lines = Path(run.folder + ".txt").read_text(encoding="utf-8", errors="replace").split("\n")
                    raise RunError(f"{run.name} ended with exit code {process.returncode}; the same command goes on "
                                   f"with what is left; {run.folder}.txt ends: {' '.join(lines[-2:]).strip()}")
                ended = len(runs) - len(waiting) - len(running)
                print(f"[{ended}/{len(runs)}] {run.name}: mIoU {100 * result['mIoU']:.2f}  "
                      f"({(time.monotonic() - began) / 60:.1f} minutes since the start)", flush=True)
        if signals:
            raise KeyboardInterrupt
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def spread(values: Sequence[float]) -> Dict:
    """Mean, sample standard deviation (None of a single value), lowest and highest."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "lowest": min(values),
            "highest": max(values)}


def summarize(results: Dict[Tuple[str, int], Dict], seeds: Sequence[int]) -> List[Dict]:
    """Make the rows of the table from the result of each (row, seed).

    Returns: of each row mIoU, pixel accuracy, and the gain of mIoU over the row above, seed by seed.
    """
    rows, above = [], None
    for row, config in CONFIGS.items():
        runs = [results[row, seed] for seed in seeds]
        gains = [run["mIoU"] - other["mIoU"] for run, other in zip(runs, above)] if above else None
        rows.append({"row": row, "config": config, "mIoU": spread([run["mIoU"] for run in runs]),
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


def main(args: argparse.Namespace) -> int:
    if len(set(args.seeds)) != len(args.seeds) or min(args.seeds) < 0:
        raise ConfigError(f"--seeds {' '.join(map(str, args.seeds))}: each must be at least 0 and stand once")
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be at least 1")
    shown = args.save_dir or ("output/ablation_quick" if args.quick else "output/ablation")
    save_dir = os.path.relpath(args.save_dir or os.path.join(ROOT, shown), ROOT)
    os.chdir(ROOT)
    train, val, height, width = QUICK if args.quick else FULL
    scenes = os.path.join(save_dir, f"scenes_{train}_{val}_{height}x{width}")
    opts = (*(QUICK_OPTS if args.quick else ()), f"train_dataset.dataset_root={scenes}",
            f"val_dataset.dataset_root={scenes}")
    runs = [Run(row, seed, os.path.join(save_dir, f"{Path(config).stem}_seed{seed}"), opts, args.device)
            for seed in args.seeds for row, config in CONFIGS.items()]
    waiting = [run for run in runs if run.result() is None]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done already; {args.jobs} at a time", flush=True)
    if waiting:
        sizes = map(str, ("--train", train, "--val", val, "--test", 0, "--size", height, width))
        if subprocess.call([sys.executable, "tools/make_scenes.py", scenes, *sizes]):
            raise RunError("the scenes couldn't be drawn; the message is above")
        train_all(waiting, args.jobs)
    rows = summarize({(run.row, run.seed): run.result() for run in runs}, args.seeds)
    text, folder = table(rows), Path(save_dir)
    (folder / "results.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{shown}/table.md and {shown}/results.json have it too")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
