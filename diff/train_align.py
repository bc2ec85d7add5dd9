"""A short training run on scenes: the loss of every iteration, then the mIoU of either side.

    python diff/train_align.py --side paddle --reference mmseg --dtype float64 --seeds 1

Both sides start from the toolkit's own initial weights and see the same batches. The recipe is that of the
reference but for a narrow ResNet and head, a short schedule, and RECIPE's momentum and decay.
Residual branches start at 0, as mmsegmentation's do. Keys are
seed<number>/loss (one value for each iteration), seed<number>/lr, seed<number>/first_50 (the losses of the
first 50 iterations) and seed<number>/miou.
"""

import sys
from pathlib import Path
from typing import Dict, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, ours, step

BATCH = 4
SIZE = inputs.SIZES[0]
# Momentum and decay are numbers that a float32 holds, since Paddle keeps them as such; with 0.9
# the two curves would part sooner (see show.py momentum).
RECIPE = dict(learning_rate=0.01, momentum=0.875, weight_decay=2.0 ** -11)
SCENES = {"train": 40, "val": 40}


def scenes() -> Dict[str, np.ndarray]:
    """Return the normalised images and the labels of every scene, {split}_{images|labels}."""
    folder = inputs.OUTPUT / f"scenes_{SIZE[0]}x{SIZE[1]}"
    inputs.draw_scenes(folder, SIZE, **SCENES)
    return {f"{split}_{name}": array for split in ("train", "val")
            for name, array in zip(("images", "labels"), read_split(folder, split))}


def read_split(folder: Path, split: str) -> Tuple[np.ndarray, np.ndarray]:
    """Images float32 (N, 3, H, W), normalised, and labels uint8 (N, H, W)."""
    from paddleseg.datasets import Cityscapes
    from paddleseg.transforms import Normalize

    dataset = Cityscapes([Normalize()], str(folder), mode=split)
    samples = [dataset[index] for index in range(len(dataset))]
    return np.stack([sample["img"] for sample in samples]), np.stack([sample["label"] for sample in samples])


def batches(data: Dict[str, np.ndarray], seed: int, iters: int, dtype: str):
    """The images and labels of each iteration: scenes drawn anew each time, half of them mirrored."""
    rng = np.random.default_rng([seed, 4])
    count = len(data["train_images"])
    for _ in range(iters):
        chosen = rng.permutation(count)[:BATCH]
        mirrored = rng.random(BATCH) < 0.5
        pairs = [(data["train_images"][i][..., ::-1], data["train_labels"][i][..., ::-1]) if flip else
                 (data["train_images"][i], data["train_labels"][i]) for i, flip in zip(chosen, mirrored)]
        images, labels = (np.stack(part) for part in zip(*pairs))
        yield np.ascontiguousarray(images, dtype), np.ascontiguousarray(labels, np.int64)


def score(side, data: Dict[str, np.ndarray], dtype: str):
    """The scores on the scenes of val, in evaluation mode."""
    from paddleseg.core.metrics import Scores, confusion_matrix

    matrix = np.zeros((inputs.NUM_CLASSES,) * 2, np.int64)
    for start in range(0, len(data["val_images"]), BATCH):
        images, labels = (data[f"val_{name}"][start:start + BATCH] for name in ("images", "labels"))
        predicted = side.predict(images.astype(dtype))
        matrix += confusion_matrix(predicted, labels.astype(np.int64), inputs.NUM_CLASSES, inputs.IGNORE_INDEX)
    return Scores(matrix)


def main() -> None:
    args = step.parse_args(__doc__, [
        ("--seeds", dict(type=int, default=1, help="runs, each from other weights and batches; default: 1")),
        ("--iters", dict(type=int, default=200, help="length of the run and its schedule; default: 200"))])
    step.set_threads(args)
    log = step.Log(args, "train_align")
    setup = inputs.Setup(depth=inputs.REFERENCES[args.reference].small_depth, base_channels=16, mid_channels=64,
                         aux_channels=32, iters=args.iters, **RECIPE)
    data = scenes()
    for seed in range(args.seeds):
        weights = ours.initial_weights(inputs.recipe(args.reference, setup), seed)
        side = step.open_side(args, setup, weights)
        losses, rates = [], []
        for images, labels in batches(data, seed, args.iters, args.dtype):
            losses.append(side.backward(images, labels)["total"])
            rates.append(side.update())
        scores = score(side, data, args.dtype)
        log.add(f"seed{seed}/loss", np.array(losses, args.dtype))
        log.add(f"seed{seed}/first_50", np.array(losses[:50], args.dtype))
        log.add(f"seed{seed}/lr", np.array(rates))
        log.add(f"seed{seed}/miou", scores.miou)
        print(f"seed {seed}: loss {losses[0]:.4f} to {np.mean(losses[-20:]):.4f}, mIoU {scores.miou:.4f}, always the "
              f"commonest class {scores.commonest_class_miou:.4f}", flush=True)
    log.save()


if __name__ == "__main__":
    main()
