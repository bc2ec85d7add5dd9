import zipfile

import numpy as np
import pytest
from fake_data import make_cityscapes, write_image
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
    ((0, 1, 18), (1024, 2048), "L", "holds {0, 1, 18}"), ((0, 1, 7, 18), (1024, 2048), "L", "train ids"),
    ((7, 29), (1024, 2048), "L", "holds {29}"), ((7, 8), (1024, 2048), "RGB", "mode RGB")])
def test_errors_of_a_file(folder, flags, values, size, mode, message, capsys):
    path = folder / "berlin_000000_000019_labelIds.png"
    path.unlink()
    Image.fromarray(np.resize(np.array(values, np.uint8), size)).convert(mode).save(path)
    assert main([str(folder), *flags]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{path} ") and message in said[0]
    assert "train ids" not in said[0] or 0 in values  # the hint is for them alone
    assert said[1].startswith(f"DataError: {folder}: 1 errors") and not (folder.parent / "submission.zip").exists()


@pytest.mark.parametrize("name, message", [
    (None, "berlin_000001_000019 has no result"), ("bonn_000001_000019.png", "bonn_000001_000019 is no image"),
    ("photo.png", "photo.png is not named"), ("berlin_000000_000019_b.png", "are both of berlin_000000_000019")])
def test_errors_of_names(folder, flags, name, message, capsys):
    second = folder / "berlin_000001_000019_labelIds.png"
    second.rename(folder / name) if name else second.unlink()
    assert main([str(folder), *flags]) == 1
    assert message in capsys.readouterr().err


def test_without_the_data_set_results_are_counted(folder, capsys, monkeypatch):
    assert main([str(folder), "--num_workers", "0"]) == 1
    assert "there are results of 2 images; the test split has 1525" in capsys.readouterr().err
    monkeypatch.setattr(make_submission, "TEST_IMAGES", 2)
    assert main([str(folder), "--output", str(folder.parent / "new" / "mine.zip"), "--num_workers", "2"]) == 0
    assert (folder.parent / "new" / "mine.zip").is_file()


def test_a_rehearsal_on_val_and_folders_that_do_not_do(folder, flags, tmp_path, capsys):
    assert main([str(folder), "--split", "val"]) == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, message in (([folder, "--split", "val"], "lindau_000000_000019 has no result"),
                               ([tmp_path / "absent"], "absent is not a folder"), ([tmp_path / "empty"], "predict.py"),
                               ([folder, "--output", tmp_path / "file" / "a.zip"], "RunError: ")):
        assert main([*map(str, arguments), *flags]) == 1
        assert message in capsys.readouterr().err
    write_image(tmp_path / "cityscapes/leftImg8bit/test/berlin/photo_leftImg8bit.png")
    assert main([str(folder), *flags]) == 1
    said = capsys.readouterr().err
    assert "photo_leftImg8bit.png is not named" in said and said.count("\n") == 1
