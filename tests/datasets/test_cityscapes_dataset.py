import logging
import re

import numpy as np
import pytest
from fake_data import SIZE, image_path, label_path, make_cityscapes, write_label

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import DataError, ImageReadError, LabelValueError, SizeMismatchError
from paddleseg.datasets import Cityscapes


@pytest.fixture
def root(tmp_path):
    return make_cityscapes(tmp_path / "cityscapes")


def refusal(kind, run, *arguments):
    """The one line with which run(*arguments) is refused."""
    with pytest.raises(kind) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def build(root, mode="train"):
    return Cityscapes([], str(root), mode)


def first_train_label(root, kind="labelTrainIds"):
    return label_path(root, "train", "aachen", "000000_000019", kind)


def use_label_ids(root, values):
    """Label ids, in place of the train ids of the first training image."""
    first_train_label(root).unlink()
    write_label(first_train_label(root, "labelIds"), values)


def list_first_image(root):
    paths = [image_path(root, "train", "aachen", "000000_000019"), first_train_label(root)]
    (root / "train.txt").write_text(",".join(str(path.relative_to(root)) for path in paths))


def test_is_registered_with_its_facts(root):
    assert manager.DATASETS["Cityscapes"] is Cityscapes
    dataset = build(root, "val")
    assert (dataset.num_classes, dataset.ignore_index, dataset.mode) == (19, 255, "val")
    assert (dataset.class_names[0], dataset.class_names[18]) == ("road", "bicycle")
    assert dataset.palette.shape == (19, 3) and dataset.palette[0].tolist() == [128, 64, 128]


def test_pairs_by_name_though_the_orders_differ(root):
    # As a sorted list of labels this one would stand at another place than its image.
    write_label(label_path(root, "train", "aachen", "000000_000001"), (3,))
    dataset = build(root)
    assert len(dataset) == 4
    for image, label in dataset.file_list:
        assert label.endswith(image.split("leftImg8bit/")[1].replace("_leftImg8bit", "_gtFine_labelTrainIds"))


def test_sample_in_training_and_validation(root):
    rng = np.random.default_rng(0)
    train, val = (Cityscapes([], str(root), mode).sample(0, rng) for mode in ("train", "val"))
    assert train["gt_fields"] == ["label"] and val["gt_fields"] == []
    for data in (train, val):
        assert data["img"].shape == (3, *SIZE) and data["img"].dtype == np.float32
        assert data["label"].shape == SIZE and data["label"].dtype == np.uint8
        assert set(np.unique(data["label"])) == {0, 1, 255} and "rng" not in data
        assert data["path"].endswith("_leftImg8bit.png")


def test_mode_test_has_images_only(root):
    write_label(label_path(root, "test", "berlin", "000000_000019"))
    image = image_path(root, "test", "berlin", "000000_000019").relative_to(root)
    assert build(root, "test").file_list == [[str(root / image)]] and "label" not in build(root, "test")[0]
    (root / "test.txt").write_text(f"{image},withheld.png\n")
    assert build(root, "test").file_list == [[str(root / image)]]


def test_label_ids_are_mapped_where_train_ids_are_absent(root, caplog):
    use_label_ids(root, (0, 7, 8, 26, 29, 33, 255))
    with caplog.at_level(logging.INFO, "paddleseg"):
        label = build(root)[0]["label"]
    assert "1 labels are label ids" in caplog.text and label.dtype == np.uint8
    assert [int(value) for value, before in zip(label[0], [None, *label[0]]) if value != before] == [
        255, 0, 1, 13, 255, 18, 255]
    list_first_image(root)  # which names the train ids that are still label ids
    np.testing.assert_array_equal(build(root)[0]["label"], label)


def test_illegal_label_id_is_named(root):
    use_label_ids(root, (7, 40))
    text = refusal(LabelValueError, build(root).sample, 0, None)
    assert f"{first_train_label(root, 'labelIds')} holds {{40}}; " in text


@pytest.mark.parametrize("separator", [",", " ", ", ", "\t"])
def test_list_file_with_any_separator(tmp_path, separator):
    root = make_cityscapes(tmp_path / "city, scapes")
    names = [(image_path(root, "val", "lindau", name), label_path(root, "val", "lindau", name))
             for name in ("000001_000019", "000000_000019")]
    lines = [separator.join(str(path.relative_to(root)) for path in pair) for pair in names]
    (root / "val.txt").write_text("\n" + "\n\n".join(lines) + "\n")
    assert build(root, "val").file_list == [[str(path) for path in pair] for pair in names]


def test_missing_root_and_folders(root):
    text = refusal(DataError, build, root / "absent")
    assert "www.cityscapes-dataset.com" in text and f"tools/make_scenes.py {root / 'absent'}" in text
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder).rename(root / "elsewhere")
        assert f"{folder}; unpack {folder}_trainvaltest.zip" in refusal(DataError, build, root)
        (root / "elsewhere").rename(root / folder)


def test_images_without_label(root):
    first_train_label(root).unlink()
    text = refusal(DataError, build, root)
    assert str(image_path(root, "train", "aachen", "000000_000019")) in text and str(first_train_label(root)) in text
    assert f"tools/convert_cityscapes.py --cityscapes_path {root}" in text and "more errors" not in text
    for path in (root / "gtFine" / "train").rglob("*.png"):
        path.unlink()
    assert "; 3 more errors, which tools/check_data.py lists" in refusal(DataError, build, root)


@pytest.mark.parametrize("line, expected", [
    ("leftImg8bit/train/aachen/none.png,gtFine/train/aachen/none.png", "has no label"),
    ("leftImg8bit/train/aachen/{name}_leftImg8bit.png", "names no label, which mode train needs"),
    ("leftImg8bit/train/aachen/{name}_leftImg8bit.png,", "names no label, which mode train needs"),
    ("leftImg8bit/train/aachen/none.png gtFine/train/aachen/{name}_gtFine_labelTrainIds.png",
     "none.png, which is not a file"),
    ("aachen", "is not `image,label`"),
])
def test_faulty_list_line_is_named(root, line, expected):
    (root / "train.txt").write_text("\n" + line.format(name="aachen_000000_000019") + "\n")
    text = refusal(DataError, build, root)
    assert text.startswith(f"{root / 'train.txt'}:2 ") and expected in text


@pytest.mark.parametrize("content, expected", [(b"", "is empty"), (b"\n\n", "is empty"),
                                               (b"\xff\xfe\x00", "can't be read as a list")])
def test_list_without_lines(root, content, expected):
    (root / "train.txt").write_bytes(content)
    assert f"{root / 'train.txt'}" in (text := refusal(DataError, build, root)) and expected in text


@pytest.mark.parametrize("spoil, kind, expected", [
    (lambda path: path.write_bytes(path.read_bytes()[:60]), ImageReadError, "truncated"),
    (lambda path: write_label(path, (0, 19, 204)), LabelValueError,
     r" holds \{19, 204\}; legal are 0\.\.18 and 255 \(ignored\)"),
    (lambda path: write_label(path, (0,), (16, 30)), SizeMismatchError,
     r"is 16x32 \(height x width\) but its label .* is 16x30"),
])
def test_bad_label_file_names_file_and_line(root, spoil, kind, expected):
    spoil(first_train_label(root))
    text = refusal(kind, build(root).sample, 0, None)
    assert re.search(expected, text) and str(first_train_label(root)) in text
    list_first_image(root)
    assert refusal(kind, build(root).sample, 0, None).endswith(f"({root / 'train.txt'}:1)")
