import logging

import numpy as np
import pytest
from fake_data import SIZE, image_path, label_path, make_cityscapes, write_label

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import DataError, ImageReadError, LabelValueError, SizeMismatchError
from paddleseg.datasets import Cityscapes


@pytest.fixture
def root(tmp_path):
    return make_cityscapes(tmp_path / "cityscapes")


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def first_train_label(root, kind="labelTrainIds"):
    return label_path(root, "train", "aachen", "000000_000019", kind)


def list_first_image(root):
    paths = [image_path(root, "train", "aachen", "000000_000019"), first_train_label(root)]
    (root / "train.txt").write_text(",".join(str(path.relative_to(root)) for path in paths))


def test_is_registered_with_its_facts(root):
    assert manager.DATASETS["Cityscapes"] is Cityscapes
    dataset = Cityscapes([], str(root), "val")
    assert (dataset.num_classes, dataset.ignore_index, dataset.mode) == (19, 255, "val")
    assert dataset.class_names[0] == "road" and dataset.class_names[18] == "bicycle"
    assert dataset.palette.shape == (19, 3) and dataset.palette[0].tolist() == [128, 64, 128]


def test_pairs_by_name_though_the_orders_differ(root):
    # As a sorted list of labels this one would stand at another place than its image.
    write_label(label_path(root, "train", "aachen", "000000_000001"), (3,))
    dataset = Cityscapes([], str(root))
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


def test_item_is_the_untransformed_sample(root):
    dataset = Cityscapes([], str(root))
    np.testing.assert_array_equal(dataset[1]["img"], dataset.sample(1, np.random.default_rng(5))["img"])


def test_mode_test_has_images_only(root):
    write_label(label_path(root, "test", "berlin", "000000_000019"))
    dataset = Cityscapes([], str(root), "test")
    assert [len(entry) for entry in dataset.file_list] == [1]
    assert "label" not in dataset[0]


def test_label_ids_are_mapped_where_train_ids_are_absent(root, caplog, monkeypatch):
    first_train_label(root).unlink()
    write_label(first_train_label(root, "labelIds"), (0, 7, 8, 26, 29, 33, 255))
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    with caplog.at_level(logging.INFO, "paddleseg"):
        dataset = Cityscapes([], str(root))
    assert "1 labels are label ids" in caplog.text
    label = dataset[0]["label"]
    assert label.dtype == np.uint8
    assert [int(value) for value, before in zip(label[0], [None, *label[0]]) if value != before] == [
        255, 0, 1, 13, 255, 18, 255]


def test_illegal_label_id_is_named(root):
    first_train_label(root).unlink()
    write_label(first_train_label(root, "labelIds"), (7, 40))
    with pytest.raises(LabelValueError) as error:
        Cityscapes([], str(root))[0]
    path = first_train_label(root, "labelIds")
    assert message(error) == f"{path} holds {{40}}; legal are 0..33 (label ids) and 255 (id -1)"


@pytest.mark.parametrize("separator", [",", " ", ", ", "\t"])
def test_list_file_with_any_separator(tmp_path, separator):
    root = make_cityscapes(tmp_path / "city, scapes")
    names = [(image_path(root, "val", "lindau", name), label_path(root, "val", "lindau", name))
             for name in ("000001_000019", "000000_000019")]
    lines = [separator.join(str(path.relative_to(root)) for path in pair) for pair in names]
    (root / "val.txt").write_text("\n" + "\n\n".join(lines) + "\n")
    dataset = Cityscapes([], str(root), "val")
    assert dataset.file_list == [[str(path) for path in pair] for pair in names]


def test_list_file_may_name_train_ids_that_are_still_label_ids(root):
    first_train_label(root).unlink()
    write_label(first_train_label(root, "labelIds"), (7,))
    list_first_image(root)
    assert (Cityscapes([], str(root))[0]["label"] == 0).all()


def test_test_list_drops_labels(root):
    image = image_path(root, "test", "berlin", "000000_000019").relative_to(root)
    (root / "test.txt").write_text(f"{image},withheld.png\n")
    assert [len(entry) for entry in Cityscapes([], str(root), "test").file_list] == [1]


def test_missing_root(tmp_path):
    with pytest.raises(DataError) as error:
        Cityscapes([], str(tmp_path / "absent"))
    text = message(error)
    assert str(tmp_path / "absent") in text and "www.cityscapes-dataset.com" in text
    assert f"python tools/make_scenes.py {tmp_path / 'absent'}" in text


@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_missing_folder(root, folder):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"has no folder {folder}; unpack {folder}_trainvaltest.zip"):
        Cityscapes([], str(root))


def test_image_without_label(root):
    first_train_label(root).unlink()
    with pytest.raises(DataError) as error:
        Cityscapes([], str(root))
    assert message(error) == (
        f"{image_path(root, 'train', 'aachen', '000000_000019')} has no label {first_train_label(root)}; "
        f"make it by `python tools/convert_cityscapes.py --cityscapes_path {root}`")


def test_first_fault_counts_the_others(root):
    for path in (root / "gtFine" / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"; 3 more errors, which tools/check_data\.py lists"):
        Cityscapes([], str(root))


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
    with pytest.raises(DataError) as error:
        Cityscapes([], str(root))
    assert message(error).startswith(f"{root / 'train.txt'}:2 ") and expected in message(error)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_list(root, content):
    (root / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match="train.txt is empty; write it with tools/create_dataset_list.py"):
        Cityscapes([], str(root))


def test_list_that_is_no_text(root):
    (root / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="train.txt: can't be read as a list"):
        Cityscapes([], str(root))


@pytest.mark.parametrize("spoil, kind, expected", [
    (lambda path: path.write_bytes(path.read_bytes()[:60]), ImageReadError, "truncated"),
    (lambda path: write_label(path, (0, 19, 204)), LabelValueError,
     r" holds \{19, 204\}; legal are 0\.\.18 and 255 \(ignored\)"),
    (lambda path: write_label(path, (0,), (16, 30)), SizeMismatchError,
     r"is 16x32 \(height x width\) but its label .* is 16x30"),
])
def test_bad_label_file_names_file_and_line(root, spoil, kind, expected):
    spoil(first_train_label(root))
    with pytest.raises(kind, match=expected) as error:
        Cityscapes([], str(root))[0]
    assert str(first_train_label(root)) in message(error)
    list_first_image(root)
    with pytest.raises(kind) as error:
        Cityscapes([], str(root))[0]
    assert message(error).endswith(f"({root / 'train.txt'}:1)")
