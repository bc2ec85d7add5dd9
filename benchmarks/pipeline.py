"""Time of the training pipeline on one core: from a 1024 x 2048 image and its label to what a network takes.

    .venv-align/bin/python benchmarks/pipeline.py [--rounds 5] [--only TEXT]

All sides read the same files and crop 1024 x 512 after scaling by one half to two, mirror and change colours: PaddleSeg
by its own transforms of its recipe, mmsegmentation by its own of its config and its preprocessor, this toolkit by those
of the recipe that follows either. "From PNG" decodes the files; "from cache" takes this toolkit's images from memory
that tools/cache_dataset.py's decoded files are mapped into, while the others go on decoding, since they have no other
way. A figure is the mean over samples of every image, with other decisions in each round and on each side.

Decoding takes as long as the file's size suggests, and drawn scenes with their noise compress worse than photographs:
they are blurred a little, to 2.2 MB on average (a PNG of Cityscapes has 2.3), and written at zlib's default level.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from harness import OUTPUT, ROOT, Aim, Case, run, scenes, use_paddleseg

QUESTION = "Training pipeline, per image on one core"
RECIPES = {"PaddleSeg": "configs/encnet/encnet_cityscapes.yml",
           "mmsegmentation": "configs/encnet/encnet_r101_d8_512x1024_80k_cityscapes.yml"}
AT_MOST = {"PNG": {"PaddleSeg": 1 / 2}, "cache": {"PaddleSeg": 1 / 12}}
IMAGES, PASSES, BLUR = 8, 4, 0.6


def cases(args):
    folder = str(photographs())
    for peer in RECIPES:
        for source, bounds in AT_MOST.items():
            aims = [Aim("time", bounds[peer], peer)] if peer in bounds else []
            arguments = {"peer": peer, "folder": folder, "cache": source == "cache"}
            yield Case(f"{peer}'s transforms, from {source}", ("ours", peer), {"time": "ms"}, args.rounds, arguments,
                       aims)


def photographs():
    """The folder of scenes that compress as photographs do, made if it isn't there."""
    import cv2
    from PIL import Image

    folder = OUTPUT / f"photographs_{IMAGES}_1024x2048"
    if not folder.exists():
        drawn = scenes(IMAGES, 1024, 2048)
        with tempfile.TemporaryDirectory(dir=OUTPUT) as scratch:
            made = Path(scratch, "made")
            for path in sorted(drawn.glob("*/train/*/*.png")):
                target = made / path.relative_to(drawn)
                target.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.open(path)
                if path.name.endswith("_leftImg8bit.png"):
                    picture = Image.fromarray(cv2.GaussianBlur(np.array(picture), (0, 0), BLUR))
                picture.save(target)
            made.rename(folder)
    return folder


def prepare(side, arguments):
    sample = {"ours": our_samples, "PaddleSeg": paddleseg_samples, "mmsegmentation": mmseg_samples}[side](arguments)
    import cv2

    cv2.setNumThreads(1)
    rounds = iter(range(1 << 30))

    def measure():
        seed = next(rounds) * PASSES * IMAGES
        start = time.perf_counter()
        for number in range(PASSES * IMAGES):
            sample(number % IMAGES, seed + number)
        return {"time": (time.perf_counter() - start) / (PASSES * IMAGES) * 1e3}

    return measure


def our_samples(arguments):
    from paddleseg import builder
    from paddleseg.cvlibs.config import load_config
    from paddleseg.datasets.cache import write_cache

    folder = arguments["folder"]
    overrides = [f"train_dataset.dataset_root={folder}"]
    config_file = str(ROOT / RECIPES[arguments["peer"]])
    if arguments["cache"]:
        plain = builder.build_dataset(builder.resolve(load_config(config_file, overrides)), "train_dataset")
        write_cache(plain, f"{folder}_cache", folder, num_workers=1)
        overrides.append(f"train_dataset.cache={folder}_cache")
    dataset = builder.build_dataset(builder.resolve(load_config(config_file, overrides)), "train_dataset")
    return lambda index, seed: dataset.sample(index, np.random.default_rng(seed))


def paddleseg_samples(arguments):
    import random

    import yaml

    use_paddleseg()
    import paddleseg.transforms  # noqa: F401  (registers)
    from paddleseg.cvlibs import manager
    from paddleseg.datasets import Cityscapes

    # Written for PaddleSeg, the list means the same there.
    sections = yaml.safe_load((ROOT / "configs/_base_/cityscapes.yml").read_text())["train_dataset"]["transforms"]
    transforms = [manager.TRANSFORMS[section.pop("type")](**section) for section in sections]
    dataset = Cityscapes(transforms, arguments["folder"], mode="train")

    def sample(index, seed):
        np.random.seed(seed)
        random.seed(seed)
        return dataset[index]

    return sample


def mmseg_samples(arguments):
    from mmengine.config import Config

    from diff import mmseg_reference

    mmseg_reference.register_all_modules(init_default_scope=True)
    from mmseg.registry import DATASETS, MODELS

    config = Config.fromfile(str(mmseg_reference.CONFIG))
    config.train_dataloader.dataset.data_root = arguments["folder"]
    dataset = DATASETS.build(config.train_dataloader.dataset)
    preprocessor = MODELS.build(config.model.data_preprocessor)

    def sample(index, seed):
        np.random.seed(seed)
        found = dataset[index]
        return preprocessor({"inputs": [found["inputs"]], "data_samples": [found["data_samples"]]}, True)

    return sample


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=5)
