"""PaddleSeg's own data sets and transforms, unchanged, as plugins of this project."""

import ast
import importlib.util
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
import yaml
from fresh_plugins import build_dataset
from paddleseg_models import plugin_files, run_command, write_dataset
from PIL import Image

from paddleseg import plugins
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.transforms import functional

ROOT = Path(__file__).resolve().parents[2]
SIZE = (24, 40)
# Each of its transforms that this project hasn't: arguments, and the (height, width) that come of SIZE, if always one.
TRANSFORMS = {
    "LimitLong": ({"max_long": 20}, (12, 20)),
    "PaddingByAspectRatio": ({"aspect_ratio": 1}, (40, 40)),
    "RandomAffine": ({"size": [32, 16]}, (16, 32)),
    "RandomCenterCrop": ({}, None),
    "RandomNoise": ({"prob": 1.0}, SIZE),
    "RandomRotation": ({}, None),
    "RandomScaleAspect": ({}, SIZE),
    "ResizeRangeScaling": ({"min_value": 20, "max_value": 200}, None),
    "ScalePadding": ({"target_size": [32, 16]}, (16, 32)),
}


@pytest.fixture(scope="module")
def transform_plugin(paddleseg_package, tmp_path_factory):
    """A file with the classes of PaddleSeg's transforms.py whose names aren't taken, word for word."""
    text = (paddleseg_package / "paddleseg" / "transforms" / "transforms.py").read_text()
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and (node.name in manager.TRANSFORMS or node.name == "Compose"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines[first - 1:node.end_lineno] = ["\n"] * (node.end_lineno - first + 1)
    path = tmp_path_factory.mktemp("plugin") / "more transforms.py"
    path.write_text("from paddleseg.transforms import Padding\n" + "".join(lines))
    return str(path)


def samples(dataset, seed):
    """Three samples, with the global generators as the loader seeds them."""
    found = []
    for index in range(3):
        random.seed(seed)
        np.random.seed(seed)
        found.append(dataset.sample(index, np.random.default_rng(seed)))
    return found


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(transform_plugin, fresh_plugins, tmp_path, name):
    plugins.load_plugins([transform_plugin])
    arguments, size = TRANSFORMS[name]
    lists = write_dataset(tmp_path, SIZE, (0, 1))
    section = {"type": "Dataset", "dataset_root": lists, "num_classes": 2, "train_path": f"{lists}/train_list.txt",
               "mode": "train", "transforms": [{"type": name, **arguments}]}
    dataset = build_dataset(section)
    first, again, other = (samples(dataset, seed) for seed in (1, 1, 2))
    for one, same in zip(first, again):
        assert one["img"].dtype == np.float32 and one["label"].dtype == np.uint8
        assert one["img"].shape == (3, *one["label"].shape) and one["label"].shape == (size or one["label"].shape)
        assert set(np.unique(one["label"])) <= {0, 1, 255} and len(np.unique(one["label"])) > 1
        np.testing.assert_array_equal(one["img"], same["img"])
    alike = all(np.array_equal(one["img"], two["img"]) for one, two in zip(first, other))
    assert alike == (not name.startswith("Random") and "Range" not in name)


def test_every_other_transform_is_here(transform_plugin, fresh_plugins):
    before = set(manager.TRANSFORMS)
    plugins.load_plugins([transform_plugin])
    assert set(manager.TRANSFORMS) - before == {*TRANSFORMS, "GenerateInstanceTargets"}


def test_its_whole_transforms_file_is_refused(paddleseg_package, fresh_plugins):
    path = paddleseg_package / "paddleseg" / "transforms" / "transforms.py"
    with pytest.raises(ConfigError, match=r"transforms\.py:\d+: ValueError: transforms: \w+ is registered by "):
        plugins.load_plugins([str(path)])


@pytest.mark.parametrize("name", ["chase_db1", "drive", "hrf", "stare"])
def test_data_sets(paddleseg_package, fresh_plugins, tmp_path, name):
    before = set(manager.DATASETS)
    plugins.load_plugins([str(paddleseg_package / "paddleseg" / "datasets" / f"{name}.py")])
    (kind,) = set(manager.DATASETS) - before
    root = write_dataset(tmp_path, SIZE, (0, 1))
    for mode in ("train", "val"):
        dataset = build_dataset({
            "type": kind, "dataset_root": root, "mode": mode, "transforms": [{"type": "Normalize"}]})
        assert len(dataset) == 4 and len(dataset.class_names) == dataset.num_classes == 2
        for sample in samples(dataset, 1):
            assert sample["img"].shape == (3, *SIZE) and set(np.unique(sample["label"])) == {0, 1}


def test_a_run_of_paddlesegs_files_is_the_same_with_workers(paddleseg_package, transform_plugin, tmp_path):
    package = paddleseg_package / "paddleseg"
    data = {"type": "CHASEDB1", "dataset_root": write_dataset(tmp_path / "data", SIZE, (0, 1))}
    drawn = [{"type": name, **TRANSFORMS[name][0]} for name in ("RandomRotation", "RandomScaleAspect", "RandomNoise")]
    recipe = {"batch_size": 2, "iters": 3, "log_iters": 1, "model": {"type": "ENet"},
              "train_dataset": {**data, "transforms": [*drawn, {"type": "Resize", "target_size": [48, 32]},
                                                    {"type": "Normalize"}]},
              "val_dataset": {**data, "transforms": [{"type": "Normalize"}]},
              "optimizer": {"type": "SGD"}, "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
              "loss": {"types": [{"type": "DiceLoss"}], "coef": [1]}}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    weights = []
    for workers in (0, 2):
        out = tmp_path / f"workers_{workers}"
        run_command(ROOT / "train.py", "--config", tmp_path / "recipe.yml", "--save_dir", out, "--num_workers", workers,
                    "--do_eval", "--device", "cpu", "--plugins", *plugin_files("ENet", paddleseg_package),
                    transform_plugin, package / "datasets" / "chase_db1.py", package / "models/losses/dice_loss.py")
        weights.append((out / "iter_3" / "model.pdparams").read_bytes())
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def theirs(paddleseg_package):
    """PaddleSeg's own functional.py, which imports nothing of its package; of SciPy, one function."""
    path = paddleseg_package / "paddleseg" / "transforms" / "functional.py"
    spec = importlib.util.spec_from_file_location("paddlesegs_functional", path)
    module = importlib.util.module_from_spec(spec)
    scipy = {"scipy": SimpleNamespace(), "scipy.ndimage": SimpleNamespace(distance_transform_edt=distances_to_zero)}
    with mock.patch.dict(sys.modules, scipy):
        spec.loader.exec_module(module)
    return module


def distances_to_zero(mask):
    """The distance of each pixel to the nearest that is 0."""
    to_each = np.argwhere(np.ones_like(mask))[:, np.newaxis] - np.argwhere(mask == 0)
    return np.sqrt((to_each ** 2).sum(-1).min(1)).reshape(mask.shape)


RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (23, 37, 3)).astype(np.uint8)
LABEL = RNG.integers(0, 4, (5, 7)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
CALLS = {
    "crop": [(IMAGE, (3, 5, 20, 11)), (LABEL, [0, 1, 7, 300])], "rescale_size": [((37, 23), (50, 20))],
    "normalize": [(IMAGE, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), (IMAGE.astype(np.float32), [0.5], [0.5])],
    "resize": [(IMAGE, (50, 20)), (IMAGE, 31), (LABEL, [9, 80], cv2.INTER_NEAREST), (IMAGE,)],
    "resize_long": [(IMAGE, 90), (LABEL, 20, cv2.INTER_NEAREST)], "resize_short": [(IMAGE, 90), (IMAGE, 11)],
    "horizontal_flip": [(IMAGE,), (LABEL,)], "vertical_flip": [(IMAGE,), (LABEL,)],
    **{name: [(Image.fromarray(IMAGE), 0.5, 1.5)] for name in ("brightness", "contrast", "saturation", "sharpness")},
    "hue": [(Image.fromarray(IMAGE), 0, 40), (Image.fromarray(IMAGE), -40, 0)],
    "rotate": [(Image.fromarray(IMAGE), -40, 40)],
    "mask_to_onehot": [(LABEL, 4), (LABEL, 6)],
    "onehot_to_binary_edge": [((LABEL == np.arange(3).reshape(-1, 1, 1)).astype(np.uint8), 3)],
    "mask_to_binary_edge": [(LABEL, 2, 4), (LABEL[np.newaxis], 1.5, 4)]}


@pytest.mark.parametrize("name", CALLS)
def test_functional_is_paddlesegs(theirs, name):
    for arguments in CALLS[name]:
        found = []
        for module in (functional, theirs):
            np.random.seed(3)
            found.append(getattr(module, name)(*arguments))
        assert type(found[0]) is type(found[1])
        if name == "rescale_size":
            assert found[0] == found[1]
        else:
            ours, expected = map(np.asarray, found)
            assert ours.dtype == expected.dtype
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6 if ours.dtype == np.float32 else 0)


def test_functional_has_all_of_paddlesegs(paddleseg_package):
    tree = ast.parse((paddleseg_package / "paddleseg" / "transforms" / "functional.py").read_text())
    assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} == set(CALLS)
