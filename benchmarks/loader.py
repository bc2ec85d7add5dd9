"""Throughput of the loader against its worker processes.

    python benchmarks/loader.py [--rounds 5] [--only cache]

Batches of 2 crops of 512 x 1024 by the transforms of PaddleSeg's recipe, from scenes of 1024 x 2048, as PNG files or
from a cache made of them, which the operating system holds in memory. A measurement begins when all batches that were
read ahead are used up. The main process takes batches and does nothing else, and a worker has one thread; so on two
cores the second worker shares a core with the main process. Aim: with 2 workers at most 1 / 1.8 of the time with 1.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from harness import OUTPUT, ROOT, Aim, Case, run, scenes

QUESTION = "Loader: time per image against workers"
RECIPE = "configs/encnet/encnet_resnet101_os8_cityscapes_1024x512_80k.yml"
SIZE, NUM_SCENES = (1024, 2048), 8
BATCH_SIZE, MEASURE_SEC = 2, 2.0
SIDES = {"2 workers": 2, "1 worker": 1, "0 workers": 0}


def make_cache(root: Path) -> Path:
    """The folder of a cache of the scenes, up to date."""
    folder = OUTPUT / f"cache_{root.name}"
    subprocess.run([sys.executable, str(ROOT / "tools" / "cache_dataset.py"), "--config", str(ROOT / RECIPE), "--opts",
                    f"train_dataset.dataset_root={root}", "--cache_dir", str(folder)], check=True)
    return folder


def cases(args):
    root = scenes(NUM_SCENES, *SIZE)
    units = {"time": "ms/image", "rate": "images/s"}
    aims = [Aim("time", 1 / 1.8, "1 worker")] if len(os.sched_getaffinity(0)) > 1 else []
    return [Case(f"from {source}", list(SIDES), units, args.rounds, {"root": str(root), "cache": cache}, aims)
            for source, cache in (("PNG", None), ("cache", str(make_cache(root))))]


def prepare(side, arguments):
    from paddleseg import builder
    from paddleseg.cvlibs.config import load_config
    from paddleseg.datasets.loader import PREFETCH, train_batches

    overrides = [f"train_dataset.dataset_root={arguments['root']}"]
    if arguments["cache"]:
        overrides.append(f"train_dataset.cache={arguments['cache']}")
    config = builder.resolve(load_config(str(ROOT / RECIPE), overrides))
    dataset = builder.build_dataset(config, "train_dataset")
    num_workers = SIDES[side]
    batches = train_batches(dataset, BATCH_SIZE, seed=0, num_workers=num_workers)

    def measure():
        for _ in range(num_workers * PREFETCH + 1):
            next(batches)
        images, start = 0, time.perf_counter()
        while time.perf_counter() - start < MEASURE_SEC:
            images += next(batches)[1]["img"].shape[0]
        seconds = (time.perf_counter() - start) / images
        return {"time": 1e3 * seconds, "rate": 1 / seconds}

    return measure


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=5)
