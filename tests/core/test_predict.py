"""Predictions as pictures and as label ids of Cityscapes' server; images that may be too large."""

import logging
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg.commands.predict import server_label_ids
from paddleseg.core import predict as predict_module
from paddleseg.core.infer import InferOptions
from paddleseg.core.predict import OUTPUTS, ResultWriter, predict
from paddleseg.cvlibs.errors import ConfigError, DataError, ImageReadError, RunError
from paddleseg.datasets.cityscapes_server import server_name
from paddleseg.transforms import Compose, Normalize, Resize

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class Oracle(paddle.nn.Layer):
    """The class is the brightest of red, green and blue."""

    def forward(self, x):
        return [x]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 255, (8, 12, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(7)]


def run(images, out, *transforms, model=None, options=None, num_writers=1, **writer):
    predict(model or Oracle(), images, str(Path(images[0]).parent), Compose([*transforms, Normalize()]),
            ResultWriter(str(out), PALETTE, **writer), options, num_writers)


def names_below(folder):
    """Files of every kind, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("num_writers", [1, 3])
def test_overlay_colours_and_class_indices_of_each_image(images, tmp_path, num_writers):
    out = tmp_path / "out"
    run([*images, images[2]], out, num_writers=num_writers)
    assert names_below(out) == sorted(f"{folder}/{number}.png" for folder in OUTPUTS for number in range(7))
    for image in images:
        pixels, name = np.asarray(Image.open(image)), Path(image).name
        label, colors = (Image.open(out / folder / name) for folder in ("label", "pseudo_color_prediction"))
        assert label.mode == "L" and colors.mode == "P"
        label = np.asarray(label)
        np.testing.assert_array_equal(label, ((pixels / np.float32(255) - np.float32(0.5)) / 0.5).argmax(axis=2))
        np.testing.assert_array_equal(colors.convert("RGB"), PALETTE[label])
        np.testing.assert_allclose(np.asarray(Image.open(out / "added_prediction" / name)),
                                   0.6 * pixels + 0.4 * PALETTE[label], atol=1)


def test_the_overlay_shows_the_image_even_if_a_transform_wrote_to_it(images, tmp_path):
    def blacken(data):
        data["img"][:] = 0
        return data

    run(images[:1], tmp_path / "out", blacken)
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / "added_prediction" / "0.png")),
                               0.6 * np.asarray(Image.open(images[0])) + 0.4 * PALETTE[0], atol=1)


def test_reading_computing_and_writing_overlap(images, tmp_path, monkeypatch):
    """The first result isn't written before the second image is computed, nor that before the fourth is read."""
    computed, read, counts = threading.Event(), threading.Event(), {"model": 0, "transform": 0}
    write_png = predict_module.write_png

    def write(path, *args, **kwargs):
        assert computed.wait(30)
        write_png(path, *args, **kwargs)

    class Waiting(Oracle):
        def forward(self, x):
            counts["model"] += 1
            if counts["model"] == 2:
                assert read.wait(30)
                computed.set()
            return [x]

    def reading(data):
        counts["transform"] += 1
        if counts["transform"] == 4:
            read.set()
        return data

    monkeypatch.setattr(predict_module, "write_png", write)
    run(images, tmp_path / "out", reading, model=Waiting())
    assert len(names_below(tmp_path / "out")) == 3 * 7


def test_an_image_that_can_not_be_read_ends_the_run_after_the_results_before_it(images, tmp_path):
    Path(images[4]).write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"4\.png is empty"):
        run(images, tmp_path / "out")
    assert len(names_below(tmp_path / "out")) == 3 * 4


@pytest.mark.parametrize("num_writers", [1, 2])
def test_a_result_that_can_not_be_written_ends_the_run_and_is_named(images, tmp_path, num_writers):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "label").write_text("in the way")
    with pytest.raises(RunError, match=r"label/0\.png can't be written: .*--save_dir"):
        run(images, tmp_path / "out", num_writers=num_writers)


@pytest.mark.parametrize("error, raised", [(OSError(28, "No space left on device"), RunError),
                                           (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_result_is_whole_or_absent(images, tmp_path, monkeypatch, error, raised):
    def write_half(path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(predict_module, "write_png", write_half)
    with pytest.raises(raised):
        run(images, tmp_path / "out")
    assert names_below(tmp_path / "out") == []


def test_label_ids_are_written_at_full_size_by_the_servers_names(images, tmp_path):
    frame = Path(images[0]).rename(tmp_path / "berlin_000000_000019_leftImg8bit.png")
    run([str(frame)], tmp_path / "out", Resize([6, 4]), label_ids=np.array([7, 8, 33], np.uint8),
        label_ids_name=server_name)
    ids = Image.open(tmp_path / "out/label_ids/berlin_000000_000019_labelIds.png")
    classes = np.asarray(Image.open(tmp_path / "out/label" / frame.name))
    assert ids.mode == "L" and ids.size == (12, 8) and len(np.unique(classes)) == 3
    np.testing.assert_array_equal(np.asarray(ids), np.select([classes == 0, classes == 1], [7, 8], 33))


def test_the_command_refuses_images_that_the_server_can_not_take():
    assert server_label_ids("Cityscapes", ["berlin_000000_000019_leftImg8bit.png"]).tolist()[:3] == [7, 8, 11]
    with pytest.raises(ConfigError, match="--save_label_ids: val_dataset is ADE20K"):
        server_label_ids("ADE20K", [])
    with pytest.raises(DataError, match="photo.jpg is not named"):
        server_label_ids("Cityscapes", ["photo.jpg"])


@pytest.mark.parametrize("options, limit, warned", [
    (InferOptions(), 100, ["1.png", "2.png"]), (InferOptions(), 10 ** 6, []),
    (InferOptions(is_slide=True, crop_size=(8, 8), stride=(8, 8)), 100, [])])
def test_larger_and_larger_images_are_warned_of(images, tmp_path, monkeypatch, caplog, options, limit, warned):
    for path, side in zip(images, (10, 11, 12, 11)):
        Image.new("RGB", (side, side)).save(path)
    monkeypatch.setattr(predict_module, "LARGE_PX", limit)
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    with caplog.at_level(logging.WARNING, "paddleseg"):
        run(images[:4], tmp_path / "out", options=options)
    assert [Path(record.message.split()[0]).name for record in caplog.records] == warned
    assert all("--is_slide --crop_size" in record.message for record in caplog.records)


def test_images_that_exif_turns_are_warned_of_once(tmp_path, monkeypatch, caplog):
    exif, paths = Image.Exif(), [str(tmp_path / f"{number}.jpg") for number in range(3)]
    for path, orientation in zip(paths, (1, 6, 3)):
        exif[0x0112] = orientation
        Image.new("RGB", (12, 8)).save(path, exif=exif)
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    with caplog.at_level(logging.WARNING, "paddleseg"):
        run(paths, tmp_path / "out")
    assert [record.message.split()[0] for record in caplog.records] == [paths[1]]
    assert Image.open(tmp_path / "out/label/1.png").size == (12, 8)
