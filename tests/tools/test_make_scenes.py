import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage

from scenes.camera import Camera
from scenes.layout import draw_scene
from tools.make_scenes import main

CLASSES = 19
ROOT = Path(__file__).resolve().parents[2]


def run(root, *flags, train=2, val=1, test=1, size=(64, 128), num_workers=0):
    counts = {"train": train, "val": val, "test": test, "num_workers": num_workers}
    words = [word for name, value in counts.items() for word in (f"--{name}", str(value))]
    return main([str(root), *words, "--size", *map(str, size), *flags])


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
    for split, stem in (("train", "aachen/aachen_000000_000000"), ("train", "bochum/bochum_000000_000000"),
                        ("train", "hamburg/hamburg_000000_000000"), ("val",
                                                                     "frankfurt/frankfurt_000000_000000"),
                        ("test", "berlin/berlin_000000_000000")):
        expected.add(f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
        for end in ("polygons.json", "labelIds.png", "labelTrainIds.png", "instanceIds.png"):
            expected.add(f"gtFine/{split}/{stem}_gtFine_{end}")
    assert set(contents(scenes)) == expected


def test_labels_are_those_of_cityscapesscripts(scenes):
    for path in scenes.glob("gtFine/*/*/*_polygons.json"):
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        assert (annotation.imgHeight, annotation.imgWidth) == (64, 128)
        assert all(item.label in name2label for item in annotation.objects)
        for name, expected in (("labelIds", createLabelImage(annotation, "ids")),
                               ("labelTrainIds", createLabelImage(annotation, "trainIds")),
                               ("instanceIds", createInstanceImage(annotation, "ids"))):
            written = cv2.imread(str(path).replace("_polygons.json", f"_{name}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(written, np.asarray(expected))


@pytest.mark.parametrize("size", [(97, 201), (256, 256)])
def test_each_pixel_of_the_picture_belongs_to_the_object_its_label_says(size):
    canvas = draw_scene(1, 0, 3, *size)
    annotation = Annotation()
    annotation.fromJsonText(json.dumps({"imgHeight": size[0], "imgWidth": size[1],
                                        "objects": canvas.objects}))
    trains = np.array([0] + [name2label[item["label"]].id for item in canvas.objects])
    np.testing.assert_array_equal(trains[np.asarray(canvas.owners)],
                                  np.asarray(createLabelImage(annotation, "ids")))
    assert (np.asarray(canvas.owners) > 0).all()  # nothing is left unlabelled


def test_test_split_is_all_void(scenes):
    paths = list(scenes.glob("gtFine/test/*/*_labelTrainIds.png"))
    assert paths
    for path in paths:
        assert (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 255).all()


def test_every_class_can_be_learned():
    shares = []
    for index in range(12):
        canvas = draw_scene(1, 1, index, 128, 256)
        classes = np.array([255] + [name2label[item["label"]].trainId for item in canvas.objects])
        shares.append(np.bincount(classes[np.asarray(canvas.owners)].ravel(), minlength=256) / (128 * 256))
    mean, present = np.mean(shares, axis=0), np.mean(np.array(shares) > 0.0005, axis=0)
    assert (mean[:CLASSES] > 0.002).all(), mean[:CLASSES]
    assert (present[:CLASSES] >= 0.25).all(), present[:CLASSES]
    assert 0.01 < mean[255] < 0.12
    assert set(np.argsort(mean[:CLASSES])[-3:]) <= {0, 2, 8, 10, 13}  # road, building, vegetation, sky, car


def test_files_depend_on_seed_split_and_index_alone(scenes, tmp_path):
    assert run(tmp_path / "more", train=5, val=2, num_workers=2) == 0
    more = contents(tmp_path / "more")
    for name, data in contents(scenes).items():
        assert more[name] == data, name
    pictures = [data for name, data in more.items() if name.endswith("leftImg8bit.png")]
    assert len(set(pictures)) == len(pictures) == 8
    assert run(tmp_path / "other", "--seed", "2") == 0
    assert not set(contents(tmp_path / "other").values()) & set(pictures)


def test_second_run_leaves_the_scenes(scenes, capsys):
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*.png")}
    assert run(scenes, train=3) == 0
    assert "are there already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in scenes.rglob("*.png")}


def test_unfinished_run_is_finished_and_other_settings_need_overwrite(tmp_path, capsys):
    assert run(tmp_path, train=3) == 0
    expected = contents(tmp_path)
    next(tmp_path.glob("gtFine/val/*/*_labelIds.png")).unlink()
    assert run(tmp_path, train=3) == 0
    assert contents(tmp_path) == expected
    assert run(tmp_path, train=1) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(tmp_path, "--overwrite", train=1) == 0
    assert len(list(tmp_path.glob("leftImg8bit/train/*/*.png"))) == 1


def test_never_touches_a_real_data_set(tmp_path, capsys):
    assert run(tmp_path) == 0
    real = tmp_path / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    real.parent.mkdir(parents=True, exist_ok=True)
    real.write_bytes(b"real")
    before = contents(tmp_path)
    assert run(tmp_path, "--overwrite") == 1
    message = capsys.readouterr().err
    assert real.name in message and message.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("marker", ["", '{"size": 3}'])
def test_damaged_marker_is_an_error(tmp_path, capsys, marker):
    (tmp_path / "scenes.json").write_text(marker)
    assert run(tmp_path) == 1
    assert "scenes.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("flags, word", [(("--size", "32", "128"), "--size"), (("--train", "-1"), "--train")])
def test_bad_flags(tmp_path, capsys, flags, word):
    assert main([str(tmp_path / "x"), *flags]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "scenes") == 1
    assert "can't be written" in capsys.readouterr().err


def test_without_labels(tmp_path):
    assert run(tmp_path, "--no_labels") == 0
    assert not list(tmp_path.rglob("gtFine/**/*.png")) and len(list(tmp_path.rglob("*_polygons.json"))) == 4


def test_camera_agrees_with_itself():
    camera = Camera(100, 200, focal=0.8, centre=0.5, horizon=0.4, above=1.5)
    np.testing.assert_allclose(camera.project([(0, 1.5, 7.0)]), [(100, 40)])  # eye height is at the horizon
    x, z = camera.ground_at((0, 60, 200, 100))
    np.testing.assert_allclose(camera.ground([(x[3, 17], z[3, 17])]), [(17.5, 63.5)], atol=1e-3)
    np.testing.assert_allclose(camera.plane(2, 9, 0.0)([(1, 3)]), camera.project([(3, 3, 9)]))
    np.testing.assert_allclose(camera.plane(2, 9, np.pi / 2)([(1, 3)]), camera.project([(2, 3, 10)]))


def test_paddle_is_not_imported():
    code = "import sys, tools.make_scenes; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
