"""Masks that aren't class indices, and images that EXIF turns: each message says the fix."""

import logging

import numpy as np
import pytest
from fake_data import make_lists, write_label
from PIL import Image

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, SizeMismatchError
from paddleseg.datasets import Dataset


@pytest.fixture
def root(tmp_path):
    return make_lists(tmp_path / "eigene Bilder ä", separator=",")


def build(root, **changes):
    return Dataset(**{"transforms": [], "dataset_root": str(root), "num_classes": 2, "separator": ",",
                      "train_path": str(root / "train.txt"), **changes})


def color_mask(path):
    Image.new("RGB", (32, 16), (255, 0, 0)).save(path)


def palette_mask(path):
    write_label(path, (1, 7, 8))
    picture = Image.open(path)
    picture.putpalette(list(range(60)))
    picture.save(path)


def jpeg_mask(path):
    noise = np.random.default_rng(0).integers(0, 2, (16, 32), dtype=np.uint8) * 200
    Image.fromarray(noise).save(path, format="JPEG")


def mask_of(*values):
    return lambda path: write_label(path, values)


@pytest.mark.parametrize("write, kind, fix", [
    (color_mask, ImageReadError, r"is a picture of mode RGB.*tools/index_masks\.py"),
    (palette_mask, LabelValueError, r"holds \{7, 8\}; .*palette.*tools/index_masks\.py"),
    (jpeg_mask, LabelValueError, r"holds .*values\)\}; legal are .*; JPEG blurs values"),
    (mask_of(0, 255), LabelValueError, r"holds \{255\}; legal are 0\.\.1 and 9 .*--colors 0 255`"),
    (mask_of(1, 2), LabelValueError, r"\{2\}; .*num_classes must be above them.*grey values, tools/index_masks\.py"),
    (mask_of(0, 2, 255), LabelValueError, "num_classes must be above them")])
def test_masks_that_are_no_class_indices(root, write, kind, fix):
    write(root / "annotations/0.png")
    with pytest.raises(kind, match=rf"annotations/0\.png .*{fix}.*train\.txt:1\)$"):
        build(root, ignore_index=9)[0]


@pytest.mark.parametrize("mode", ["train", "val"])
@pytest.mark.parametrize("values, changes, warned", [
    ((0, 255), {}, True), ((0, 255), {"num_classes": 5}, True), ((0, 1, 255), {}, False), ((0,), {}, False),
    ((0, 255), {"num_classes": 1}, False), ((0, 255), {"ignore_index": 7}, False)])
def test_masks_of_0_and_255_alone_are_warned_of(root, values, changes, warned, mode, caplog):
    for index in range(4):
        write_label(root / f"annotations/{index}.png", values)
    with caplog.at_level(logging.WARNING, "paddleseg"):
        build(root, mode=mode, val_path=str(root / "train.txt"), **changes)
    assert (f"of {mode} hold 0 and 255 alone" in caplog.text and "--colors 0 255`" in caplog.text) == warned


def test_a_label_drawn_on_the_turned_image(root):
    write_label(root / "annotations/1.png", (0, 1), size=(32, 16))
    with pytest.raises(SizeMismatchError, match=r"1\.png is 16x32 .* is 32x16; an EXIF .*save the image turned"):
        build(root)[1]
    write_label(root / "annotations/1.png", (0, 1), size=(30, 16))
    with pytest.raises(SizeMismatchError, match="is 30x16; write both at one size"):
        build(root)[1]
