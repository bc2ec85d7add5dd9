import pytest
from fake_data import image_path, label_path, make_cityscapes, write_image, write_label

from paddleseg.datasets import Cityscapes, Dataset
from tools.create_dataset_list import main

CITYSCAPES = ["--type", "cityscapes", "--separator", ","]


def names(root):
    """The files of the root itself: the lists, and anything left behind."""
    return sorted(path.name for path in root.iterdir() if path.is_file())


def test_cityscapes_lists_are_what_the_folders_hold(tmp_path, capsys):
    root = make_cityscapes(tmp_path)
    expected = {mode: Cityscapes([], str(root), mode).file_list for mode in ("train", "val", "test")}
    assert main([f"{root}/", *CITYSCAPES]) == 0
    assert names(root) == ["test.txt", "train.txt", "val.txt"]
    for mode, pairs in expected.items():
        listed = [line.split(",") for line in (root / f"{mode}.txt").read_text().splitlines()]
        assert [[str(root / path) for path in pair] for pair in listed] == pairs
        assert Cityscapes([], str(root), mode).file_list == pairs
    said = capsys.readouterr().out
    assert "train.txt: 4 images, 4 labels\n" in said
    assert "test.txt: 1 images, 0 labels (images alone, for mode test)" in said


def test_label_ids_stand_in(tmp_path, capsys):
    root = make_cityscapes(tmp_path, test=0)
    label_path(root, "val", "lindau", "000000_000019").unlink()
    write_label(label_path(root, "val", "lindau", "000000_000019", "labelIds"))
    assert main([str(root), *CITYSCAPES]) == 0
    said = capsys.readouterr().out
    assert "val.txt: 2 images, 2 labels (1 of the labels are label ids, mapped to train ids" in said
    assert "test.txt: 0 images, 0 labels (no images there, the list is empty)" in said
    assert (root / "val.txt").read_text().splitlines()[0].endswith("_gtFine_labelIds.png")


def test_unpaired_files_are_named_and_old_lists_stay(tmp_path, capsys):
    root = make_cityscapes(tmp_path)
    (root / "val.txt").write_text("old")
    label_path(root, "train", "aachen", "000000_000019").unlink()
    image_path(root, "val", "lindau", "000001_000019").unlink()
    assert main([str(root), *CITYSCAPES]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png has no label "
        "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png",
        "gtFine/val/lindau/lindau_000001_000019_gtFine_labelTrainIds.png has no image"]
    assert said[2].startswith("DataError: 2 files") and "tools/convert_cityscapes.py" in said[2] and len(said) == 3
    assert names(root) == ["val.txt"] and (root / "val.txt").read_text() == "old"


@pytest.fixture
def custom(tmp_path):
    """Two depths of folders, names that differ by postfix."""
    for split, name in (("train", "b/c/one"), ("train", "two"), ("val", "three")):
        write_image(tmp_path / "photos" / split / f"{name}_rgb.png")
        write_label(tmp_path / "masks" / split / f"{name}_id.png")
    return tmp_path


CUSTOM = ["--folder", "photos", "masks", "--format", "png", "png", "--postfix", "_rgb", "_id"]


def test_custom_pairs_by_relative_name(custom):
    write_image(custom / "photos" / "extra" / "four_rgb.png")
    assert main([str(custom), *CUSTOM, "--second_folder", "train", "extra"]) == 0
    assert names(custom) == ["extra.txt", "train.txt"]
    assert (custom / "train.txt").read_text() == ("photos/train/b/c/one_rgb.png masks/train/b/c/one_id.png\n"
                                                  "photos/train/two_rgb.png masks/train/two_id.png\n")
    assert (custom / "extra.txt").read_text() == "photos/extra/four_rgb.png\n"
    assert len(Dataset([], str(custom), 2, train_path=str(custom / "train.txt"))) == 2


def test_custom_defaults_and_one_folder_for_both(tmp_path):
    write_image(tmp_path / "images/train/a.jpg")
    write_label(tmp_path / "annotations/train/a.png")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "train.txt").read_text() == "images/train/a.jpg annotations/train/a.png\n"
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "both/train" / name)
        write_label(tmp_path / "both/train" / name.replace(".", "_mask."))
    both = ["--folder", "both", "both", "--format", "png", "png"]
    assert main([str(tmp_path), *both, "--postfix", "", "_mask", "--separator", ","]) == 0
    assert (tmp_path / "train.txt").read_text() == ("both/train/a.png,both/train/a_mask.png\n"
                                                    "both/train/b.png,both/train/b_mask.png\n")


@pytest.mark.parametrize("split", ["train", "val"])
def test_custom_files_without_a_partner(custom, capsys, split):
    write_label(custom / "masks/train/five_id.png")
    for path in (custom / "masks" / split).glob("t*.png"):
        path.unlink()
    assert main([str(custom), *CUSTOM]) == 1
    said = capsys.readouterr().err
    assert f"_rgb.png has no label masks/{split}/" in said and names(custom) == []
    assert "masks/train/five_id.png has no image photos/train/five_rgb.png\n" in said


def test_capitals_of_an_ending_do_not_count(tmp_path, capsys):
    for name in ("a.JPG", "b.Jpg"):
        write_image(tmp_path / "images/train" / name)
    for name in ("a.PNG", "b.png"):
        write_label(tmp_path / "annotations/train" / name)
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "train.txt").read_text() == ("images/train/a.JPG annotations/train/a.PNG\n"
                                                    "images/train/b.Jpg annotations/train/b.png\n")
    write_image(tmp_path / "images/train/a.jpg")
    assert main([str(tmp_path)]) == 1
    assert "images/train/a.JPG and images/train/a.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("flags, code, expected", [
    (["--separator", ""], 2, "--separator"), (["--separator", "_"], 2, "photos/train/b/c/one_rgb.png"),
    (["--folder", "pictures", "masks"], 1, "pictures"), (["--folder", "photos", "photos", "--postfix", "", ""], 2, ""),
    (["--format", "jpg", "jpg"], 1, "holds no image of train, val, test"),
    (["--type", "cityscapes"], 2, "--folder")])
def test_wrong_flags(custom, capsys, flags, code, expected):
    assert main([str(custom), *CUSTOM, *flags]) == code
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1 and names(custom) == []


@pytest.fixture
def flat(tmp_path):
    """Thirty images and masks in no split's folder, some names with blanks and letters beyond ASCII."""
    for index in range(30):
        name = f"{index} ä" if index % 3 == 0 else f"{index}"
        write_image(tmp_path / "images" / f"{name}.jpg", index)
        write_label(tmp_path / "annotations" / f"{name}.png")
    return tmp_path


def listed(root):
    return {name: (root / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("train", "val")}


def test_val_share_divides_images_without_folders_of_splits(flat):
    assert main([str(flat), "--val_share", "0.2", "--separator", ","]) == 0
    assert names(flat) == ["train.txt", "val.txt"]
    first = listed(flat)
    assert (len(first["train"]), len(first["val"])) == (24, 6) and not set(first["train"]) & set(first["val"])
    assert "images/0 ä.jpg,annotations/0 ä.png" in first["train"] + first["val"]
    for mode in first:
        paths = {f"{mode}_path": str(flat / f"{mode}.txt")}
        assert len(Dataset([], str(flat), 2, mode=mode, separator=",", **paths)) == len(first[mode])
    assert main([str(flat), "--val_share", "0.2", "--separator", ","]) == 0
    assert listed(flat) == first
    for index in range(30, 35):
        write_image(flat / "images" / f"{index}.jpg")
        write_label(flat / "annotations" / f"{index}.png")
    assert main([str(flat), "--val_share", "0.2", "--separator", ","]) == 0
    assert len(set(listed(flat)["val"]) & set(first["val"])) >= 4


@pytest.mark.parametrize("flags, code, expected", [
    ([], 1, "--val_share"), (["--val_share", "0.2"], 1, "images/1.jpg has no label annotations/1.png"),
    (["--val_share", "0"], 2, "--val_share 0"), (["--val_share", "1.5"], 2, "--val_share 1.5"),
    (["--val_share", "0.01"], 2, "of 30 images"),
    (["--val_share", "0.2", "--second_folder", "train"], 2, "--second_folder"),
    (["--val_share", "0.2", "--type", "cityscapes"], 2, "--val_share: only for --type custom")])
def test_wrong_val_share(flat, flags, code, expected, capsys):
    (flat / "annotations/1.png").unlink()
    assert main([str(flat), "--separator", ",", *flags]) == code
    assert expected in capsys.readouterr().err and names(flat) == []
    (flat / "images/val").mkdir()
    assert main([str(flat), "--separator", ",", "--val_share", "0.2"]) == 2
    assert "images/val" in capsys.readouterr().err
