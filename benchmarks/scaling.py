"""Training on two processes of one thread against one process, on the CPU.

    python benchmarks/scaling.py [--rounds 3] [--only TEXT]

All sides take steps of the same batch of 8 images, drawn scenes of 128 x 256 in full, on the network of the quick-start
recipe at twice its width; two processes take 4 each, and add up gradients and statistics of batch norms through gloo.
The time of an image is that of an iteration, the median over a run's log but its beginning, so that no start-up is in
it; what the batch's images cost to read and augment is. Efficiency is the images per second of two processes over twice
those of one process with one thread; the machine's two threads in one process are the alternative.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, Case, run, scenes

QUESTION = "Scaling from one process to two, on the CPU"
RECIPE = "configs/quick_start/encnet_resnet18_scenes.yml"
TWO, ONE, ONE_ON_TWO = "2 processes, 1 thread each", "1 process, 1 thread", "1 process, 2 threads"
PROCESSES_THREADS = {TWO: (2, 1), ONE: (1, 1), ONE_ON_TWO: (1, 2)}
CHANNELS, BATCH, ITERS, UNSEEN = 32, 8, 8, 2


def cases(args):
    # The loss in the log is that of the first process's own images.
    yield Case(f"ResNet18-D8 of {CHANNELS} channels, {BATCH} images of 128 x 256 a step", (TWO, ONE, ONE_ON_TWO),
               {"time per image": "s"}, args.rounds, keep_alive=False, agree={"first loss": 0.1})


def prepare(side, arguments):
    processes, threads = PROCESSES_THREADS[side]
    folder = scenes(16, 128, 256)

    def measure():
        with tempfile.TemporaryDirectory() as scratch:
            save_dir = Path(scratch, "run")
            launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir",
                        str(Path(scratch, "log"))] if processes > 1 else []
            command = [sys.executable, *launcher, "train.py", *flags(save_dir, processes, threads), "--opts",
                       *overrides(folder)]
            result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode:
                raise SystemExit(f"{side}: train.py ended with {result.returncode}:\n{result.stdout[-2000:]}")
            return read_log(save_dir)

    return measure


def flags(save_dir, processes, threads):
    return ["--config", RECIPE, "--device", "cpu", "--threads", str(threads), "--num_workers", "0", "--iters",
            str(ITERS), "--log_iters", "1", "--batch_size", str(BATCH // processes), "--save_dir", str(save_dir)]


def overrides(folder):
    """Whole scenes as they are, and another width."""
    return [f"train_dataset.dataset_root={folder}", f"val_dataset.dataset_root={folder}",
            f"effective_batch={BATCH}", "lr_scheduler.warmup_iters=0", "train_dataset.transforms.0.crop_size=[256,128]",
            f"model.backbone.base_channels={CHANNELS}"]


def read_log(save_dir):
    records = [json.loads(line) for line in Path(save_dir, "log.jsonl").read_text().splitlines()]
    train = [record for record in records if record["mode"] == "train"]
    return {"time per image": statistics.median(record["batch_cost"] for record in train[UNSEEN:]) / BATCH,
            "first loss": train[0]["loss"]}


def efficiency(rows):
    """A table of images per second, and of the efficiency round by round."""
    body = []
    for row in rows:
        if row["values"] and row["side"] != TWO:
            speedup = [1 / ratio for ratio in row["ratios"]]
            share = "" if row["side"] != ONE else f"{statistics.median(speedup) / 2:.0%} ({min(speedup) / 2:.0%} to " \
                f"{max(speedup) / 2:.0%})"
            body.append([row["case"], row["side"], f"{statistics.median(speedup):.2f}", share])
    return [{"title": "Efficiency", "note": "Images per second of two processes over those of one; half of that, where "
             "both have one thread each, is the efficiency.",
             "columns": ["network", "against", "speed-up", "efficiency"], "rows": body}] if body else []


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=3, tables=efficiency)
