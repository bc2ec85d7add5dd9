import numpy as np
import pytest
from fake_data import make_lists, write_image, write_label

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError, LabelValueError
from paddleseg.datasets import Dataset


@pytest.fixture
def root(tmp_path):
    return make_lists(tmp_path / "own")


def build(root, **changes):
    arguments = {"transforms": [], "dataset_root": str(root), "num_classes": 3,
                 "train_path": str(root / "train.txt"), **changes}
    return Dataset(**arguments)


def test_is_registered_with_its_facts(root):
    assert manager.DATASETS["Dataset"] is Dataset
    dataset = build(root)
    assert (len(dataset), dataset.num_classes, dataset.ignore_index, dataset.mode) == (4, 3, 255, "train")
    assert dataset.class_names == ["0", "1", "2"]
    assert dataset.palette.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert build(root, class_names=["a", "b", "c"]).class_names == ["a", "b", "c"]


@pytest.mark.parametrize("separator, text", [
    (" ", "images/0.png   annotations/0.png\r\n\r\n\timages/1.png annotations/1.png"),
    ("\t", "images/0.png\tannotations/0.png"),
    (",", "\ufeffimages/0.png, annotations/0.png\n"),
    ("|", "images/0.png|annotations/0.png\n"),
])
def test_separators(root, separator, text):
    (root / "train.txt").write_text(text, encoding="utf-8")
    assert build(root, separator=separator).file_list[0] == [str(root / "images/0.png"),
                                                             str(root / "annotations/0.png")]


@pytest.mark.parametrize("line, separator, expected", [
    ("my images/a b.png,my labels/a b.png", " ", r"splits into 5 paths .* set separator: \",\""),
    ("a,b.png,a,b.png", ",", r"splits into 4 paths at separator ','; .* set separator: \"\|\""),
    ("images/0.png annotations/0.png", ",", r"has a blank but no ','; set separator: \" \""),
    ("images/0.png,annotations/0.png", " ", r"has a comma but no blank; set separator: \",\"")])
def test_another_separator_than_the_lists(root, line, separator, expected):
    (root / "train.txt").write_text(line)
    with pytest.raises(DataError, match=rf"train\.txt:1 {expected}"):
        build(root, separator=separator)


def test_paths_with_blanks(root):
    write_image(root / "my images" / "a b.png")
    write_label(root / "my labels" / "a b.png", (2,))
    (root / "train.txt").write_text("my images/a b.png,my labels/a b.png\n")
    assert (build(root, separator=",")[0]["label"] == 2).all()
    (root / "test.txt").write_text("my images/a b.png\n")
    dataset = build(root, separator=",", mode="test", test_path=str(root / "test.txt"))
    assert dataset.file_list == [[str(root / "my images/a b.png")]]


@pytest.mark.parametrize("mode", ["train", "val"])
def test_line_without_label(root, mode):
    path = root / "list.txt"
    path.write_text("images/0.png annotations/0.png\n\nimages/1.png\n")
    with pytest.raises(DataError, match=rf"list\.txt:3 names no label, which mode {mode} needs"):
        build(root, mode=mode, **{f"{mode}_path": str(path)})


def test_test_mode_with_and_without_labels(root):
    path = root / "test.txt"
    path.write_text("images/0.png\nimages/1.png annotations/1.png\n")
    dataset = build(root, mode="test", test_path=str(path))
    assert [len(entry) for entry in dataset.file_list] == [1, 2]
    assert "label" not in dataset[0]
    assert dataset[1]["gt_fields"] == [] and (dataset[1]["label"] == 1).all()


def test_missing_file_names_the_line(root):
    absent = root / "annotations/2.png"
    absent.unlink()
    with pytest.raises(DataError) as error:
        build(root)
    assert str(error.value) == f"{root / 'train.txt'}:3 names {absent}, which is not a file"


def test_label_values(root):
    write_label(root / "annotations/1.png", (0, 3, 255))
    with pytest.raises(LabelValueError, match=r"1\.png holds \{3\}; legal are 0\.\.2 and 255 .* \(.*:2\)$"):
        build(root)[1]
    assert set(np.unique(build(root, num_classes=4)[1]["label"])) == {0, 3, 255}
    with pytest.raises(LabelValueError, match=r"\{255\}; legal are 0\.\.3 and 9"):
        build(root, num_classes=4, ignore_index=9)[1]


@pytest.mark.parametrize("changes, expected", [
    ({"train_path": None}, "train_path is missing"),
    ({"mode": "val"}, "val_path is missing; mode val needs"),
    ({"mode": "test"}, "test_path is missing"),
    ({"mode": "trial"}, "mode: trial is not one of train, val, test"),
    ({"train_path": "absent.txt"}, "train_path: absent.txt is not a file; write it with"),
    ({"train_path": "train.txt"}, "train_path: train.txt is not a file; did you mean .*own/train.txt?"),
    ({"num_classes": 0}, "num_classes: 0 is not within"),
    ({"num_classes": 257}, "num_classes: 257 is not within"),
    ({"ignore_index": 256}, "ignore_index: 256 is not within"),
    ({"ignore_index": -1}, "ignore_index: -1 is not within"),
    ({"img_channels": 1}, "img_channels: 1 is not offered; set 3"),
    ({"class_names": ["a"]}, "class_names: 1 names for num_classes 3; name each class"),
    ({"separator": ""}, "separator is empty"),
])
def test_wrong_arguments(root, changes, expected):
    with pytest.raises(ConfigError, match=expected) as error:
        build(root, **changes)
    assert "\n" not in str(error.value)
