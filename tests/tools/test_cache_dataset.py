import os
import shutil
from pathlib import Path

import pytest
import yaml
from fake_data import image_path, make_cityscapes

from paddleseg.cvlibs import manager
from paddleseg.datasets import Cityscapes
from paddleseg.utils.files import write_sums
from tools.cache_dataset import main


@pytest.fixture
def root(tmp_path):
    return make_cityscapes(tmp_path / "cityscapes")


@pytest.fixture
def arguments(tmp_path, root):
    """--config and --cache_dir."""
    section = {"type": "Cityscapes", "dataset_root": str(root), "transforms": [{"type": "Normalize"}]}
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(yaml.safe_dump({
        "batch_size": 2, "iters": 4, "train_dataset": {**section, "cache": "nowhere"}, "val_dataset": section,
        "test_dataset": section,
        "model": {"type": "EncNet", "backbone": {"type": "ResNet18_vd"}}}))
    return ["--config", str(recipe), "--cache_dir", str(tmp_path / "cached")]


@pytest.mark.parametrize("split, samples", [("train", 4), ("val", 2), ("test", 1)])
def test_makes_a_cache_that_the_data_set_takes(root, arguments, split, samples, capsys):
    assert main([*arguments, "--split", split, "--num_workers", "2"]) == 0
    said = capsys.readouterr().out
    folder = os.path.join(arguments[-1], split)
    assert said.startswith(f"{folder}: {samples} samples, ")
    assert said.endswith(f"use them by {split}_dataset.cache: {arguments[-1]}\n")
    assert len(Cityscapes([], str(root), split, arguments[-1])) == samples


def flip_byte(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_keeps_what_is_whole_and_replaces_what_is_not(root, arguments, capsys):
    pixels = Path(arguments[-1], "train", "pixels.bin")
    assert main([*arguments, "--verify"]) == 1 and not os.path.exists(arguments[-1])
    assert "train is not there" in capsys.readouterr().err
    assert main(arguments) == 0
    first = pixels.stat().st_ino
    assert main(arguments) == 0 and pixels.stat().st_ino == first
    flip_byte(pixels, 5000)
    assert main([*arguments, "--verify"]) == 1
    assert "train: pixels.bin is damaged" in capsys.readouterr().err
    assert main(arguments) == 0 and main([*arguments, "--verify"]) == 0
    flip_byte(pixels, 100)
    write_sums(str(pixels.parent))  # of pixels that were wrong already
    assert main([*arguments, "--verify"]) == 1
    assert "are not those that were written" in capsys.readouterr().err
    assert main(arguments) == 0 and main([*arguments, "--verify"]) == 0
    image = image_path(root, "train", "aachen", "000000_000019")
    image.write_bytes(b"")
    shutil.rmtree(arguments[-1])
    assert main(arguments) == 1 and not os.path.exists(arguments[-1])
    assert capsys.readouterr().err.startswith(f"ImageReadError: {image}")


@pytest.mark.parametrize("more, code, expected", [
    (["--num_workers", "-1"], 2, "--num_workers -1"),
    (["--opts", "train_dataset.dataset_root=nowhere"], 1, "nowhere is not a folder"),
    (["--opts", "train_dataset.casche=x"], 2, "did you mean cache?"),
    (["--opts", "train_dataset={type: Other, dataset_root: x}"], 2, "Other has no argument `cache`")])
def test_wrong_arguments(arguments, more, code, expected, capsys, monkeypatch):
    class Other(Cityscapes):
        def __init__(self, dataset_root: str, mode: str = "train", transforms: list = ()):
            super().__init__(transforms, dataset_root, mode)

    monkeypatch.setitem(manager.DATASETS.components_dict, "Other", Other)
    assert main([*arguments, *more]) == code
    assert expected in capsys.readouterr().err
