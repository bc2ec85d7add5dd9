import json
import shutil

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage

from scenes.layout import draw_scene
from tools.make_scenes import main

CLASSES = 19


def run(root, *flags, train=2, val=1, test=1, num_workers=0):
    counts = {"train": train, "val": val, "test": test, "num_workers": num_workers}
    words = [word for name, value in counts.items() for word in (f"--{name}", str(value))]
    return main([str(root), *words, "--size", "64", "128", *flags])


def contents(root):
    """File name -> bytes."""
    paths = [*root.rglob("*.png"), *root.rglob("*_polygons.json")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    assert run(root, train=3) == 0
    return root


def test_layout_is_that_of_cityscapes(scenes):
    expected = set()
    for stem in ("train/aachen/aachen", "train/bochum/bochum", "train/hamburg/hamburg", "val/frankfurt/frankfurt",
                 "test/berlin/berlin"):
        expected.add(f"leftImg8bit/{stem}_000000_000000_leftImg8bit.png")
        for end in ("polygons.json", "labelIds.png", "labelTrainIds.png", "instanceIds.png"):
            expected.add(f"gtFine/{stem}_000000_000000_gtFine_{end}")
    assert set(contents(scenes)) == expected


def test_labels_are_those_of_cityscapesscripts(scenes):
    for path in scenes.glob("gtFine/*/*/*_polygons.json"):
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        assert (annotation.imgHeight, annotation.imgWidth) == (64, 128)
        for name, expected in (("labelIds", createLabelImage(annotation, "ids")),
                               ("labelTrainIds", createLabelImage(annotation, "trainIds")),
                               ("instanceIds", createInstanceImage(annotation, "ids"))):
            written = cv2.imread(str(path).replace("_polygons.json", f"_{name}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(written, np.asarray(expected))
            assert (written == 255).all() or (path.parts[-3], name) != ("test", "labelTrainIds")  # void


@pytest.mark.parametrize("size", [(97, 201), (256, 256)])
def test_each_pixel_of_the_picture_belongs_to_the_object_its_label_says(size):
    canvas = draw_scene(1, 0, 3, *size)
    annotation = Annotation()
    annotation.fromJsonText(json.dumps({"imgHeight": size[0], "imgWidth": size[1], "objects": canvas.objects}))
    ids = np.array([0] + [name2label[item["label"]].id for item in canvas.objects])
    np.testing.assert_array_equal(ids[np.asarray(canvas.owners)], np.asarray(createLabelImage(annotation, "ids")))
    assert (np.asarray(canvas.owners) > 0).all()  # nothing is left unlabelled


def test_every_class_can_be_learned():
    shares = []
    for index in range(12):
        canvas = draw_scene(1, 1, index, 128, 256)
        classes = np.array([255] + [name2label[item["label"]].trainId for item in canvas.objects])
        shares.append(np.bincount(classes[np.asarray(canvas.owners)].ravel(), minlength=256) / (128 * 256))
    mean, present = np.mean(shares, axis=0), np.mean(np.array(shares) > 0.0005, axis=0)
    assert (mean[:CLASSES] > 0.002).all() and (present[:CLASSES] >= 0.25).all() and 0.01 < mean[255] < 0.12
    assert set(np.argsort(mean[:CLASSES])[-3:]) <= {0, 2, 8, 10, 13}  # road, building, vegetation, sky, car


def test_files_depend_on_seed_split_and_index_alone(scenes, tmp_path):
    assert run(tmp_path / "more", train=5, val=2, num_workers=2) == 0
    more = contents(tmp_path / "more")
    assert contents(scenes).items() <= more.items()
    pictures = {data for name, data in more.items() if name.endswith("leftImg8bit.png")}
    assert len(pictures) == 8
    assert run(tmp_path / "other", "--seed", "2", "--no_labels") == 0
    assert not list(tmp_path.glob("other/gtFine/**/*.png"))
    assert len(contents(tmp_path / "other")) == 8 and not set(contents(tmp_path / "other").values()) & pictures


def test_what_is_there_is_left_finished_or_replaced_when_told(scenes, tmp_path, capsys):
    shutil.copytree(scenes, tmp_path, dirs_exist_ok=True)
    expected, before = contents(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert run(tmp_path, train=3) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    next(tmp_path.glob("gtFine/val/*/*_labelIds.png")).unlink()
    assert run(tmp_path, train=3) == 0 and contents(tmp_path) == expected
    assert run(tmp_path, train=1) == 1 and "--overwrite" in capsys.readouterr().err
    assert run(tmp_path, "--overwrite", train=1) == 0
    assert len(list(tmp_path.glob("leftImg8bit/train/*/*.png"))) == 1

    real = tmp_path / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    real.write_bytes(b"real")
    before = contents(tmp_path)
    assert run(tmp_path, "--overwrite") == 1 and contents(tmp_path) == before
    message = capsys.readouterr().err
    assert real.name in message and message.count("\n") == 1


@pytest.mark.parametrize("flags, word", [(("--size", "32", "128"), "--size"), (("--train", "-1"), "--train")])
def test_bad_flags(tmp_path, capsys, flags, word):
    assert main([str(tmp_path / "x"), *flags]) == 2
    assert word in capsys.readouterr().err and not (tmp_path / "x").exists()
