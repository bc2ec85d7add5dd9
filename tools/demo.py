"""The main job from beginning to end on drawn scenes: draw, check, train, evaluate, predict.

    python tools/demo.py            # minutes on two CPU cores; `make demo` calls this
    python tools/demo.py --quick    # the same steps at their smallest, to see that they run
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = "configs/quick_start/encnet_resnet18_scenes.yml"
QUICK = ["--iters", "4", "--log_iters", "1", "--opts", "lr_scheduler.warmup_iters=0"]
DATA, RUN, RESULT = "data/scenes", "output/demo", "output/demo/result"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few scenes and iterations; the score means nothing")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    return parser.parse_args(argv)


def run(title: str, *command: str) -> None:
    """Show a command as a person would type it, then run it from the repository's root."""
    print(f"\n=== {title}\n$ python {shlex.join(command)}", flush=True)
    code = subprocess.call([sys.executable, *command], cwd=ROOT)
    if code:
        sys.exit(f"\nstopped: `python {shlex.join(command)}` ended with exit code {code}; its message is above")


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    train, val, shorter = ("16", "4", QUICK) if args.quick else ("160", "24", [])
    device = ["--device", args.device]
    weights = f"{RUN}/best_model/model.pdparams"
    run("draw street scenes", "tools/make_scenes.py", DATA, "--train", train, "--val", val, "--test", "2",
        "--size", "128", "256", "--overwrite")
    run("check them", "tools/check_data.py", DATA)
    run("train EncNet", "train.py", "--config", CONFIG, "--do_eval", "--save_dir", RUN, "--overwrite", *device,
        *shorter)
    run("evaluate", "val.py", "--config", CONFIG, "--model_path", weights, *device)
    run("predict", "predict.py", "--config", CONFIG, "--model_path", weights, "--image_path",
        f"{DATA}/leftImg8bit/val", "--save_dir", RESULT, *device)
    report(time.perf_counter() - start)


def report(seconds: float) -> None:
    """Print the results, and the files to look at."""
    with open(os.path.join(ROOT, RUN, "log.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    best = max((record for record in records if record["mode"] == "eval"), key=lambda record: record["mIoU"])
    print(f"\nmIoU {best['mIoU']:.4f} on the val scenes; always predicting the commonest class: "
          f"{best['commonest_class_mIoU']:.4f}  ({seconds / 60:.1f} minutes in all)")
    for text, folder in (("overlays", "added_prediction"), ("colour maps", "pseudo_color_prediction"),
                         ("class indices", "label")):
        print(f"{text + ':':<15}{RESULT}/{folder}")


if __name__ == "__main__":
    main(parse_args())
