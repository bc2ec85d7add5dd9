import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_data import image_path, make_cityscapes, write_image
from PIL import Image

from paddleseg.datasets.cityscapes_server import class_label_ids, server_name
from tools import make_submission
from tools.make_submission import main


@pytest.fixture(scope="module")
def results_of(tmp_path_factory):
    """Right results of a Cityscapes of two test images, to be linked by each test."""
    folder = tmp_path_factory.mktemp("results")
    values = np.resize(class_label_ids(), (1024, 2048))
    for name in ("berlin_000000_000019", "berlin_000001_000019"):
        Image.fromarray(values).save(folder / server_name(f"{name}_leftImg8bit.png"))
    return folder


@pytest.fixture
def folder(tmp_path, results_of):
    (tmp_path / "label ids").mkdir()
    for path in results_of.iterdir():
        (tmp_path / "label ids" / path.name).symlink_to(path)
    return tmp_path / "label ids"


@pytest.fixture
def flags(tmp_path):
    return ["--dataset_root", str(make_cityscapes(tmp_path / "cityscapes", train=0, val=1, test=2)),
            "--num_workers", "0"]


def replace(folder: Path, values, size=(1024, 2048), mode="L") -> Path:
    """Other content for the first result."""
    path = folder / "berlin_000000_000019_labelIds.png"
    path.unlink()
    pixels = np.resize(np.array(values, np.uint8), size)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_zips_the_files_by_their_names(folder, flags, capsys):
    assert main([str(folder), *flags]) == 0
    archive = folder.parent / "submission.zip"
    assert f"{archive}: 2 results" in capsys.readouterr().out
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == ["berlin_000000_000019_labelIds.png", "berlin_000001_000019_labelIds.png"]
        assert zipped.read(zipped.namelist()[0]) == next(folder.glob("*000000_000019*")).read_bytes()


@pytest.mark.parametrize("values, size, mode, message", [
    ((7, 8), (512, 1024), "L", "is 512x1024 (height x width), not 1024x2048"),
    ((0, 1, 18), (1024, 2048), "L", "holds {0, 1, 18}; the label ids of the 19 classes are 7, 8, 11, "),
    ((0, 1, 7, 18), (1024, 2048), "L", "32, 33; these are train ids: take the files that predict.py --save_label_ids"),
    ((7, 29), (1024, 2048), "L", "holds {29}; the label ids of the 19 classes"),
    ((7, 8), (1024, 2048), "RGB", "is a picture of mode RGB"),
])
def test_faults_of_a_file(folder, flags, values, size, mode, message, capsys):
    path = replace(folder, values, size, mode)
    assert main([str(folder), *flags]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{path} ") and message in said[0]
    assert said[1] == f"DataError: {folder}: 1 errors, see above; no archive was written"
    assert not (folder.parent / "submission.zip").exists()


def test_the_hint_of_train_ids_is_for_train_ids(folder, flags, capsys):
    replace(folder, (7, 29))
    assert main([str(folder), *flags]) == 1
    assert "train ids" not in capsys.readouterr().err


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: (folder / "berlin_000001_000019_labelIds.png").unlink(), "berlin_000001_000019 has no result"),
    (lambda folder: (folder / "berlin_000001_000019_labelIds.png").rename(folder / "bonn_000001_000019.png"),
     "bonn_000001_000019 is no image of the split"),
    (lambda folder: (folder / "berlin_000001_000019_labelIds.png").rename(folder / "photo.png"),
     "photo.png is not named <city>_<sequence>_<frame>*.png"),
    (lambda folder: (folder / "berlin_000001_000019_b.png").symlink_to(
        (folder / "berlin_000001_000019_labelIds.png").resolve()), "are both of berlin_000001_000019; the server"),
])
def test_faults_of_names(folder, flags, spoil, message, capsys):
    spoil(folder)
    assert main([str(folder), *flags]) == 1
    assert message in capsys.readouterr().err


def test_without_the_data_set_results_are_counted(folder, capsys, monkeypatch):
    assert main([str(folder), "--num_workers", "0"]) == 1
    assert "there are results of 2 images; the test split has 1525" in capsys.readouterr().err
    monkeypatch.setattr(make_submission, "TEST_IMAGES", 2)
    assert main([str(folder), "--output", str(folder.parent / "new" / "mine.zip"), "--num_workers", "2"]) == 0
    assert (folder.parent / "new" / "mine.zip").is_file()


def test_a_rehearsal_on_val(folder, flags, tmp_path, capsys):
    assert main([str(folder), *flags, "--split", "val"]) == 1
    assert "lindau_000000_000019 has no result" in capsys.readouterr().err
    assert image_path(tmp_path / "cityscapes", "val", "lindau", "000000_000019").is_file()
    assert main([str(folder), "--split", "val"]) == 2
    assert "ConfigError: --split val needs --dataset_root" in capsys.readouterr().err


def test_images_whose_names_say_no_frame(folder, flags, tmp_path, capsys):
    write_image(tmp_path / "cityscapes/leftImg8bit/test/berlin/photo_leftImg8bit.png")
    assert main([str(folder), *flags]) == 1
    said = capsys.readouterr().err
    assert "photo_leftImg8bit.png is not named <city>_<sequence>_<frame>" in said and said.count("\n") == 1


def test_nothing_there(tmp_path, flags, capsys):
    assert main([str(tmp_path / "absent"), *flags]) == 1
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), *flags]) == 1
    said = capsys.readouterr().err
    assert "absent is not a folder" in said and said.count("write it by predict.py --save_label_ids") == 1


def test_an_archive_that_can_not_be_written(folder, flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(folder), *flags, "--output", str(tmp_path / "file" / "a.zip")]) == 1
    assert "RunError: " in capsys.readouterr().err
