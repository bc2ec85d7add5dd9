"""Data: the training pipeline on 20 synthetic scenes, from files to what the network takes.

    python diff/data.py --side torch --reference mmseg      # first: records the random decisions
    python diff/data.py --side paddle --reference mmseg     # replays them

The reference reads the same files with its own data set, transforms and preprocessor; what it draws for scale,
crop, flip and colours is written to data_decisions.json, and handed to the `apply` of our transforms. Keys are
scene_<number>/ image (3, H, W), the normalised values; grey_levels, the same in 0..255 and rounded; label (H, W).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, paddleseg_reference, step

SEED = 20
DECISIONS = "data_decisions.json"


# Recording. A scene is {"path", "decisions": {transform: decision}, "image", "label"}.


def _photometric_decision(transform, drawn: Iterator) -> List[Tuple[str, float]]:
    """mmsegmentation's order: before each change a toss; contrast second or, the middle toss says, last."""
    decision = []

    def toss(name: str) -> None:
        if next(drawn):
            decision.append((name, float(next(drawn))))

    toss("brightness")
    contrast_first = next(drawn)
    for name in (["contrast"] if contrast_first else []) + ["saturation", "hue"]:
        toss(name)
    if not contrast_first:
        toss("contrast")
    return decision


def _crop_decision(transform, drawn: Iterator) -> Tuple[int, int]:
    """The last corner drawn is the one that was taken."""
    return tuple(int(value) for value in list(drawn)[-2:])


def _resize_decision(transform, drawn: Iterator) -> Tuple[int, int]:
    next(drawn)
    return tuple(int(side) for side in transform.resize.scale)


MMSEG_DECISIONS = {
    "RandomResize": _resize_decision,
    "RandomCrop": _crop_decision,
    "RandomFlip": lambda transform, drawn: next(drawn) is not None,
    "PhotoMetricDistortion": _photometric_decision,
}


def record_mmseg(root: Path, args: argparse.Namespace) -> Iterator[Dict]:
    """mmsegmentation's data set, transforms and preprocessor, all built from its own config of this recipe."""
    import torch
    from mmengine.config import Config

    from diff import mmseg_reference

    mmseg_reference.register_all_modules(init_default_scope=True)
    from mmseg.registry import DATASETS, MODELS

    config = Config.fromfile(str(mmseg_reference.CONFIG))
    config.train_dataloader.dataset.data_root = str(root)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    preprocessor = MODELS.build(config.model.data_preprocessor)
    transforms = dataset.pipeline.transforms
    for index in range(args.num_scenes):
        decisions: Dict = {}
        dataset.pipeline.transforms = paddleseg_reference.recording(transforms, MMSEG_DECISIONS, decisions)
        np.random.seed(SEED + index)
        sample = dataset[index]
        with torch.no_grad():
            batch = preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, True)
        (label,) = batch["data_samples"][0].gt_sem_seg.data.numpy()
        yield {"path": sample["data_samples"].img_path, "decisions": decisions,
               "image": batch["inputs"][0].numpy(), "label": label}


def record_paddleseg(root: Path, args: argparse.Namespace) -> Iterator[Dict]:
    """PaddleSeg's data set and transforms."""
    config = paddleseg_reference.load_recipe()
    config["train_dataset"]["dataset_root"] = str(root)
    with paddleseg_reference.Worker(args.paddleseg) as worker:
        yield from worker.ask("data", config=config, num_scenes=args.num_scenes, seed=SEED)


# Replaying.


def replay(root: Path, args: argparse.Namespace) -> Iterator[Dict]:
    """Our recipe's data set, its random transforms replaying the recorded decisions."""
    from paddleseg import builder
    from paddleseg.cvlibs.errors import RunError
    from paddleseg.transforms import Compose

    recorded = args.output / DECISIONS
    if not recorded.exists():
        raise RunError(f"{recorded} is missing: run --side torch first")
    scenes = json.loads(recorded.read_text())
    config = inputs.recipe(args.reference)
    config.set("train_dataset.dataset_root", str(root), "comparison")
    dataset = builder.build_dataset(config, "train_dataset")
    transforms = dataset.transforms.transforms
    indices = {Path(image).name: index for index, (image, _) in enumerate(dataset.file_list)}
    for scene in scenes:
        dataset.transforms = Compose(replay_with(transforms, scene["decisions"]))
        sample = dataset.sample(indices[scene["name"]], rng=np.random.default_rng(SEED))
        yield {"image": sample["img"], "label": sample["label"]}


def replay_with(transforms: Sequence, decisions: Dict) -> List:
    """The transforms with each random one's decision taken from `decisions`, by the transform's name.

    Raises:
        RunError: the two don't name the same transforms, each once.
    """
    from paddleseg.cvlibs.errors import RunError
    from paddleseg.transforms.base import RandomTransform, Replay

    names = [type(transform).__name__ for transform in transforms if isinstance(transform, RandomTransform)]
    if sorted(names) != sorted(decisions):
        raise RunError(f"the recipe decides {sorted(names)}, the reference decided {sorted(decisions)}")
    return [Replay(transform, decisions[type(transform).__name__])
            if isinstance(transform, RandomTransform) else transform for transform in transforms]


def normalisation(reference: str) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the recipe in 0..255, each (3, 1, 1)."""
    transforms = inputs.recipe(reference)["train_dataset"]["transforms"]
    section = next(section for section in transforms if section["type"] == "Normalize")
    return tuple(np.reshape(section[key], (3, 1, 1)) * 255 for key in ("mean", "std"))


def main() -> None:
    args = step.parse_args(__doc__, [
        ("--size", dict(type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"), help="of the scenes")),
        ("--num_scenes", dict(type=int, default=20, help="default: 20")),
        ("--paddleseg", dict(metavar="DIR", help=f"PaddleSeg's folder; default: {paddleseg_reference.FOLDER}"))
    ], ("float32",), ("mmseg", "paddleseg"))
    step.set_threads(args)
    root = inputs.OUTPUT / f"scenes_{args.num_scenes}_{args.size[0]}x{args.size[1]}"
    inputs.draw_scenes(root, args.size, args.num_scenes)
    log = step.Log(args, "data")
    mean, std = normalisation(args.reference)
    sources = {"mmseg": record_mmseg, "paddleseg": record_paddleseg}
    recorded = []
    for number, scene in enumerate((replay if args.side == "paddle" else sources[args.reference])(root, args)):
        image = np.ascontiguousarray(scene["image"])
        log.add(f"scene_{number:02d}/image", image)
        log.add(f"scene_{number:02d}/grey_levels", np.rint(image * std + mean).astype(np.int16))
        log.add(f"scene_{number:02d}/label", scene["label"].astype(np.uint8))
        if args.side == "torch":
            recorded.append({"name": Path(scene["path"]).name, "decisions": scene["decisions"]})
    args.output.mkdir(parents=True, exist_ok=True)
    if args.side == "torch":
        (args.output / DECISIONS).write_text(json.dumps(recorded, indent=1))
    log.save()


if __name__ == "__main__":
    main()
