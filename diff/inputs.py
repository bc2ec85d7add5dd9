"""Inputs of both sides of a comparison: network, config, weights, images and labels, all from seeds.

Letters: N images, C classes, H, W size of the image.
"""

import fcntl
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Container, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.config import Config, load_config
from paddleseg.cvlibs.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "diff" / "output"
NUM_CLASSES = 19
IGNORE_INDEX = 255
# (height, width): all ratios of feature maps to the first are binary fractions, those to the second aren't.
SIZES = ((64, 128), (97, 161))


class Reference(NamedTuple):
    """Configuration of our side for the comparison with a reference.

    Attributes:
        config: the recipe, from the root of the repository.
        variant: of the ResNet.
        opts: where the reference departs from the recipe.
        small_depth: the smallest ResNet that means the same network on both sides.
    """

    config: str
    variant: str
    opts: Sequence[str]
    small_depth: int


REFERENCES = {
    # mmsegmentation doesn't dilate the second convolution of a basic block, so the depth starts at 50.
    "mmseg": Reference("configs/encnet/encnet_r101_d8_512x1024_80k_cityscapes.yml", "v1c", (), 50),
    "paddleseg": Reference("configs/encnet/encnet_resnet101_os8_cityscapes_1024x512_80k.yml", "vd", (), 18),
    "pytorch_encoding": Reference("configs/encnet/encnet_r101_d8_512x1024_80k_cityscapes.yml", "v1s", (
        "model.align_corners=True", "model.spatial_dropout=False", "loss.types.0.avg_non_ignore=True",
        "loss.types.1.avg_non_ignore=True", "lr_scheduler.end_lr=0.0", "lr_scheduler.ends_at_last_iter=False"), 50),
}


class Setup(NamedTuple):
    """The network and its schedule; the defaults are the recipe's. Dropout is off: masks can't agree.

    Attributes:
        base_channels: width of the ResNet's first stage.
        mid_channels: width of the head.
        aux_channels: inner width of the auxiliary head.
        iters: length of the schedule.
    """

    depth: int = 101
    base_channels: int = 64
    mid_channels: int = 512
    aux_channels: int = 256
    iters: int = 80000
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4


def recipe(reference: str, setup: Optional[Setup] = None) -> Config:
    """Our configuration for a comparison with `reference`, checked; without a setup, the recipe's network.

    Raises:
        ConfigError: at this depth the reference has another network.
    """
    from paddleseg import builder

    facts, setup = REFERENCES[reference], setup or Setup()
    if setup.depth < facts.small_depth:
        raise ConfigError(f"--depth {setup.depth}: {reference} dilates other convolutions of basic blocks; "
                          f"the smallest depth to compare is {facts.small_depth}")
    opts = [f"model.backbone.type=ResNet{setup.depth}_{facts.variant}",
            f"model.backbone.base_channels={setup.base_channels}", "model.backbone.pretrained=None",
            f"model.mid_channels={setup.mid_channels}", "model.dropout=0.0", "model.aux_dropout=0.0",
            f"iters={setup.iters}", f"lr_scheduler.learning_rate={setup.learning_rate}",
            f"optimizer.momentum={setup.momentum}", f"optimizer.weight_decay={setup.weight_decay}", *facts.opts]
    if reference != "paddleseg":  # whose auxiliary head is as wide as the other one
        opts.append(f"model.aux_channels={setup.aux_channels}")
    return builder.resolve(load_config(str(ROOT / facts.config), opts))


# Weights.

_BRANCH_END = re.compile(r"(.*bb_\d+_\d+\.conv)(\d)(\._batch_norm\.(?:weight|bias))")


def random_weights(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> Dict[str, np.ndarray]:
    """Every entry of a state_dict of ours, running statistics included, as float32.

    Each array depends on the seed and its name alone. Residual branches and the head are damped: a hundred
    layers of unrelated weights and running statistics would else saturate softmax and sigmoids, which hides
    errors. Batch norms before a ReLU have biases of 2.5 times their weights: of the millions of values around 0
    that there would else be, some change their sign with the rounding, and with it a gradient.
    """
    return {name: _random_array(name, tuple(shape), ends_branch(name, shapes),
                                np.random.default_rng([seed, zlib.crc32(name.encode())]))
            for name, shape in shapes.items()}


def ends_branch(name: str, names: Container[str]) -> bool:
    """Return True for the weight or bias of the last batch norm of a residual branch."""
    found = _BRANCH_END.fullmatch(name)
    return bool(found) and f"{found[1]}{int(found[2]) + 1}{found[3]}" not in names


def _random_array(name: str, shape: Tuple[int, ...], is_branch_end: bool, rng: np.random.Generator) -> np.ndarray:
    *_, layer, last = name.split(".")
    is_norm, is_head = layer == "_batch_norm", not name.startswith("backbone")
    damping = 0.2 if is_branch_end or is_norm and is_head else 1.0
    if last == "_variance":
        values = rng.uniform(0.5, 1.5, shape)
    elif last == "_mean":
        values = rng.normal(0, 0.1, shape)
    elif last == "codewords":
        values = rng.normal(0, 0.6, shape)
    elif last == "scale":
        values = rng.uniform(-0.0125, -0.00625, shape)
    elif last == "weight" and len(shape) == 1:
        values = damping * rng.uniform(0.8, 1.2, shape)
    elif last == "weight":
        gain = 0.02 if "encoding_project" in name else 2.0 if len(shape) == 4 else 0.5
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
        values = rng.standard_normal(shape, np.float32) * np.sqrt(gain / fan_in)
    elif is_norm and not is_branch_end:
        values = damping * rng.normal(2.5, 0.25, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


# Images and labels.


def draw_scenes(root: Path, size: Tuple[int, int], train: int, val: int = 0, seed: int = 1) -> None:
    """Draw synthetic scenes in Cityscapes' layout, if they aren't there; the side that comes second waits."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, str(ROOT / "tools" / "make_scenes.py"), str(root), "--train", str(train),
                        "--val", str(val), "--test", "0", "--size", *map(str, size), "--seed", str(seed)], check=True)


def images(size: Tuple[int, int], dtype: str, seed: int = 0, count: int = 2) -> np.ndarray:
    """Normalised images of flat patches under noise (N, 3, H, W)."""
    rng = np.random.default_rng([seed, *size, 1])
    patches = rng.standard_normal((count, 3, size[0] // 8 + 1, size[1] // 8 + 1), np.float32)
    flat = patches.repeat(8, axis=2).repeat(8, axis=3)[:, :, :size[0], :size[1]]
    noise = rng.standard_normal(flat.shape, np.float32)
    return (flat + np.float32(0.3) * noise).astype(dtype)


def label(size: Tuple[int, int], seed: int = 0, count: int = 2) -> np.ndarray:
    """Patches of random classes, a tenth of the pixels ignored, one corner ignored whole; int64 (N, H, W).

    The first image lacks the upper half of the classes.
    """
    rng = np.random.default_rng([seed, *size, 2])
    patches = rng.integers(0, NUM_CLASSES, (count, size[0] // 8 + 1, size[1] // 8 + 1))
    patches[0] %= NUM_CLASSES // 2
    classes = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :size[0], :size[1]]
    classes = np.where(rng.random(classes.shape) < 0.1, IGNORE_INDEX, classes)
    classes[:, :size[0] // 4, :size[1] // 4] = IGNORE_INDEX
    return classes.astype(np.int64)


def loss_cases(size: Tuple[int, int]) -> List[Tuple[str, np.ndarray]]:
    """(name, label) of every kind of label that a loss has to get right."""
    ordinary = label(size)
    half = ordinary.copy()
    half[1] = IGNORE_INDEX
    rare = np.where(ordinary == 0, 1, ordinary)
    rare[0, -1, -1] = 0
    return [("ignored_pixels", ordinary), ("no_ignored_pixel", np.where(ordinary == IGNORE_INDEX, 3, ordinary)),
            ("one_image_ignored", half), ("all_ignored", np.full_like(ordinary, IGNORE_INDEX)),
            ("class_of_one_pixel", rare),
            ("one_class", np.full_like(ordinary, NUM_CLASSES - 1))]


def logits(size: Tuple[int, int], dtype: str, seed: int = 0, count: int = 2) -> Dict[str, np.ndarray]:
    """Outputs of a network by name, for the losses: seg and aux (N, C, H, W), se (N, C)."""
    rng = np.random.default_rng([seed, *size, 3])
    shapes = {"seg": (count, NUM_CLASSES, *size), "aux": (count, NUM_CLASSES, *size), "se": (count, NUM_CLASSES)}
    return {name: (3 * rng.standard_normal(shape)).astype(np.float32).astype(dtype) for name, shape in shapes.items()}
