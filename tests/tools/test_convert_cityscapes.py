import os

import numpy as np
import pytest
from fake_data import label_path, polygons_path, write_label, write_polygons
from PIL import Image

from tools.convert_cityscapes import main

NAMES = [("train", "aachen", "000000_000019"), ("train", "zurich", "000001_000019"),
         ("val", "lindau", "000000_000019")]


@pytest.fixture
def root(tmp_path):
    for name, label in zip(NAMES, ("road", "car", "license plate")):
        write_polygons(polygons_path(tmp_path, *name), label)
    return tmp_path


def run(root, *flags):
    return main(["--cityscapes_path", str(root), *flags])


def label(root, name):
    return np.asarray(Image.open(label_path(root, *name)))


def files(root):
    return sorted(path.name for path in (root / "gtFine").rglob("*.png"))


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_makes_what_cityscapesscripts_makes(root, num_workers, capsys):
    assert run(root, "--num_workers", num_workers) == 0
    for name, left in zip(NAMES, (0, 13, 255)):
        expected = np.full((16, 32), 255)
        expected[:, :16] = left
        np.testing.assert_array_equal(label(root, name), expected)
    assert len(files(root)) == 3
    assert capsys.readouterr().out == f"{root}: 3 labels made, 0 were there\n"


def test_keeps_labels_newer_than_their_polygons(root, capsys):
    for name, seconds in ((NAMES[0], 10), (NAMES[1], -10)):
        write_label(label_path(root, *name), (5,))
        made = polygons_path(root, *name).stat().st_mtime + seconds
        os.utime(label_path(root, *name), (made, made))
    assert run(root, "--num_workers", "1") == 0
    assert capsys.readouterr().out.endswith("2 labels made, 1 were there\n")
    assert [label(root, name)[0, 0] for name in NAMES] == [5, 13, 255]
    assert run(root, "--overwrite") == 0
    assert label(root, NAMES[0])[0, 0] == 0


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_failing_files_are_named_and_the_others_made(root, num_workers, capsys):
    write_label(label_path(root, *NAMES[0]), (5,))
    write_polygons(polygons_path(root, *NAMES[0]), "unicorn")
    polygons_path(root, *NAMES[1]).write_text("{")
    assert run(root, "--overwrite", "--num_workers", num_workers) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0].startswith(f"{polygons_path(root, *NAMES[0])}: ") and "unicorn" in lines[0]
    assert lines[1].startswith(f"{polygons_path(root, *NAMES[1])}: ")
    assert lines[2].startswith("DataError: 2 of 3") and len(lines) == 3
    assert said.out == f"{root}: 1 labels made, 0 were there\n"
    assert (label(root, NAMES[0]) == 5).all() and len(files(root)) == 2


def test_missing_folders_and_wrong_flags(root, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    for folder, flags, code, expected in ((empty, [], 1, "has no folder gtFine"), (root / "absent", [], 1, "absent"),
                                          (root, ["--num_workers", "-1"], 2, "--num_workers -1")):
        assert run(folder, *flags) == code and expected in capsys.readouterr().err
    (empty / "gtFine").mkdir()
    assert run(empty) == 1 and "_gtFine_polygons.json" in capsys.readouterr().err
