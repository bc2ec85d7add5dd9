"""Results for Cityscapes' server, and images that may be too large to go through a model whole."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from fake_data import make_cityscapes
from PIL import Image

from paddleseg.core import predict as predict_module
from paddleseg.core.infer import InferOptions
from paddleseg.core.predict import list_images, predict
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.datasets.cityscapes_server import class_label_ids
from paddleseg.transforms import Compose, Normalize, RandomResize
from paddleseg.utils.palette import color_map

ROOT = Path(__file__).resolve().parents[2]


class Classes(paddle.nn.Layer):
    """Class 0, 1 or 18, by the brightest of red, green and blue."""

    def forward(self, x):
        others = paddle.full([x.shape[0], 16, *x.shape[2:]], -9.0)
        return [paddle.concat([x[:, :2], others, x[:, 2:]], axis=1)]


def test_label_ids_are_written_at_full_size_by_the_servers_names(tmp_path):
    root = make_cityscapes(tmp_path / "cityscapes", train=0, val=0, test=2)
    images, folder = list_images(str(root / "leftImg8bit/test"))
    halved = Compose([RandomResize([16, 8], [1, 1]), Normalize()])
    predict(Classes(), images, folder, halved, color_map(19), str(tmp_path / "out"), label_ids=class_label_ids())
    written = sorted((tmp_path / "out/label_ids").iterdir())
    assert [path.name for path in written] == [f"berlin_00000{number}_000019_labelIds.png" for number in range(2)]
    for path, image in zip(written, images):
        ids = Image.open(path)
        classes = np.asarray(Image.open(tmp_path / "out/label" / Path(image).relative_to(folder)))
        assert ids.mode == "L" and ids.size == Image.open(image).size
        np.testing.assert_array_equal(np.asarray(ids), np.select([classes == 0, classes == 1], [7, 8], 33))
        assert set(np.unique(classes)) == {0, 1, 18}


def test_without_the_flag_there_are_none(tmp_path):
    root = make_cityscapes(tmp_path / "cityscapes", train=0, val=0, test=1)
    images, folder = list_images(str(root / "leftImg8bit/test"))
    predict(Classes(), images, folder, Compose([Normalize()]), color_map(19), str(tmp_path / "out"))
    assert not (tmp_path / "out/label_ids").exists()


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("predict_command", ROOT / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_refuses_what_the_server_can_not_take(command):
    assert command.server_label_ids("Cityscapes", ["berlin_000000_000019_leftImg8bit.png"]).tolist()[:3] == [7, 8, 11]
    with pytest.raises(ConfigError, match="--save_label_ids: val_dataset is ADE20K, and only Cityscapes"):
        command.server_label_ids("ADE20K", [])
    with pytest.raises(DataError, match="photo.jpg is not named"):
        command.server_label_ids("Cityscapes", ["photo.jpg"])


@pytest.mark.parametrize("options, limit, warned", [
    (InferOptions(), 100, ["1.png", "2.png"]), (InferOptions(), 10 ** 6, []),
    (InferOptions(is_slide=True, crop_size=(8, 8), stride=(8, 8)), 100, [])])
def test_larger_and_larger_images_are_warned_of(tmp_path, monkeypatch, caplog, options, limit, warned):
    for number, side in enumerate((10, 11, 12, 11)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(predict_module, "LARGE_PX", limit)
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    images, folder = list_images(str(tmp_path))
    with caplog.at_level(logging.WARNING, "paddleseg"):
        predict(Classes(), images, folder, Compose([Normalize()]), color_map(19), str(tmp_path / "out"), options)
    assert [Path(record.message.split()[0]).name for record in caplog.records] == warned
    assert all("--is_slide --crop_size" in record.message for record in caplog.records)


def test_images_that_exif_turns_are_warned_of_once(tmp_path, monkeypatch, caplog):
    exif = Image.Exif()
    for number, orientation in enumerate((1, 6, 3)):
        exif[0x0112] = orientation
        Image.new("RGB", (12, 8)).save(tmp_path / f"{number}.jpg", exif=exif)
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    images, folder = list_images(str(tmp_path))
    with caplog.at_level(logging.WARNING, "paddleseg"):
        predict(Classes(), images, folder, Compose([Normalize()]), color_map(19), str(tmp_path / "out"))
    assert [record.message.split(", ")[0] for record in caplog.records] == [f"{images[1]} has an EXIF orientation"]
    assert Image.open(tmp_path / "out/label/1.png").size == (12, 8)


def test_a_list_that_begins_with_a_byte_order_mark(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "ein Bild.png")
    (tmp_path / "list.txt").write_text("ein Bild.png\r\n", encoding="utf-8-sig")
    assert list_images(str(tmp_path / "list.txt"))[0] == [str(tmp_path / "ein Bild.png")]


def test_the_flag_is_in_the_help():
    command = [sys.executable, str(ROOT / "predict.py"), "--help"]
    printed = subprocess.run(command, capture_output=True, text=True).stdout
    assert "--save_label_ids" in printed and "tools/make_submission.py" in printed
