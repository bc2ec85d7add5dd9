import math

import pytest
import yaml
from fake_data import image_path, label_path, make_cityscapes, make_lists, write_image, write_label
from fake_layouts import AUG, LAYOUTS, TRAIN, VAL
from PIL import Image

from tools.check_data import main


@pytest.fixture
def root(tmp_path):
    return make_cityscapes(tmp_path / "cityscapes")


def rows(text):
    """class -> the cells of its rows, one for each split that has it"""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(name, []).append(cells)
    return found


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_good_data(root, num_workers, capsys):
    assert main([str(root), "--num_workers", num_workers]) == 0
    said = capsys.readouterr()
    # 32 columns in stripes of 11, 11 and 10: classes i and i + 1 of label i, then the ignored.
    table = rows(said.out)
    assert table["road"] == [["176", "8.594%", "1"], ["176", "17.188%", "1"]]
    assert table["sidewalk"][0] == [str(2 * 176), "17.188%", "2"]
    assert table["(ignored, 255)"][0] == [str(4 * 160), "31.250%", "4"]
    assert "train: 4 samples, 0 errors; images (height x width): 4 of 16x32\n" in said.out
    assert "test: 1 samples, 0 errors" in said.out
    assert said.err.splitlines()[0] == (
        "warning: train: never occurs: pole, traffic light, traffic sign, vegetation, terrain, sky, person, "
        "rider, car, truck, bus, train, motorcycle, bicycle")


def test_one_line_for_each_error(root, capsys):
    image = image_path(root, "train", "aachen", "000000_000019")
    image.write_bytes(image.read_bytes()[:100])
    write_label(label_path(root, "train", "zurich", "000001_000019"), (0, 204))
    write_label(label_path(root, "train", "aachen", "000002_000019"), (0,), (16, 31))
    label_path(root, "train", "zurich", "000003_000019").unlink()
    image_path(root, "test", "berlin", "000000_000019").write_bytes(b"")
    assert main([str(root), "--num_workers", "2"]) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if not line.startswith("warning")]
    assert "zurich_000003_000019_leftImg8bit.png has no label" in errors[0] and f"{image} is truncated" in errors[1]
    assert "16x32" in errors[2] and "16x31" in errors[2] and "{204}" in errors[3] and "is empty" in errors[4]
    assert errors[5].startswith(f"DataError: {root}: 5 errors") and len(errors) == 6
    assert "train: 4 samples, 4 errors" in said.out


def test_list_lines_are_checked_and_named(root, capsys):
    pairs = {name: ",".join(str(make(root, *name).relative_to(root)) for make in (image_path, label_path))
             for name in (("val", "lindau", "000001_000019"), ("train", "aachen", "000000_000019"))}
    write_label(label_path(root, "val", "lindau", "000001_000019"), (77,))
    (root / "val.txt").write_text("\n".join([*pairs.values(), "nonsense"]))
    (root / "test.txt").write_text("")
    assert main([str(root)]) == 1
    said = capsys.readouterr().err
    assert f"{root / 'val.txt'}:3 is not `image,label`" in said and f"{root / 'test.txt'} is empty" in said
    assert f"holds {{77}}; legal are 0..18 and 255 (ignored) ({root / 'val.txt'}:1)\n" in said
    (root / "val.txt").write_text(pairs["train", "aachen", "000000_000019"])
    (root / "test.txt").unlink()
    assert main([str(root)]) == 0
    assert "warning: 1 images are in both train and val" in capsys.readouterr().err


def test_absent_splits_and_label_ids(tmp_path, capsys):
    root = make_cityscapes(tmp_path, val=0, test=0)
    for mode in ("val", "test"):
        (root / f"{mode}.txt").write_text("")
    label_path(root, "train", "aachen", "000000_000019").unlink()
    write_label(label_path(root, "train", "aachen", "000000_000019", "labelIds"), (26,))  # counted as train ids
    assert main([str(root)]) == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines() if "samples" in line] == ["train"]
    assert rows(said)["car"][0][0] == "512"


def custom(root, *flags):
    return main([str(root), "--type", "custom", "--train_path", str(root / "train.txt"), *flags])


def test_custom(tmp_path, capsys):
    root = make_lists(tmp_path)
    write_image(root / "images/3.png", size=(8, 8))
    write_label(root / "annotations/3.png", (1, 2), size=(8, 8))
    assert custom(root, "--num_classes", "3", "--class_names", "sky", "sea", "sand") == 0
    said = capsys.readouterr()
    assert rows(said.out)["sea"] == [["544", "34.000%", "2"]]
    assert "images (height x width): 3 of 16x32, 1 of 8x8\n" in said.out and said.err == ""
    assert custom(root, "--num_classes", "2") == 1
    said = capsys.readouterr().err
    assert "2.png holds {2}; legal are 0..1 and 255 (ignored); if they are classes, num_classes must" in said
    assert f"turns them into classes ({root / 'train.txt'}:3)\n" in said
    assert custom(root, "--num_classes", "4", "--ignore_index", "2") == 0
    said = capsys.readouterr()
    assert "2" not in rows(said.out) and "(ignored, 2)" in rows(said.out)
    assert said.err == "warning: train: never occurs: 3\n"


def weights_of(said):
    """Return the YAML line's content, and the splits that the line before the table names."""
    *_, last = said.splitlines()
    heading = next(line for line in said.splitlines() if line.startswith("weights by the labels of "))
    (loss,) = yaml.safe_load(last)
    assert loss["type"] == "CrossEntropyLoss"
    return loss["weight"], heading.removeprefix("weights by the labels of ").rstrip(":")


def test_class_weights_are_of_the_labelled_pixels_of_training(tmp_path, capsys):
    root = make_lists(tmp_path)
    write_label(root / "annotations/3.png", (1, 255))
    for index, values in ((0, (0,)), (1, (1,)), (2, (1, 255))):
        write_label(root / f"annotations/{index}.png", values)
    write_label(root / "annotations/val.png", (2,))
    (root / "val.txt").write_text("images/0.png annotations/val.png\n")
    assert custom(root, "--val_path", str(root / "val.txt"), "--num_classes", "3", "--class_weights") == 0
    weights, splits = weights_of(capsys.readouterr().out)
    expected = [1 / math.log(1.02 + share) for share in (1 / 3, 2 / 3, 0)]
    assert weights == pytest.approx(expected, abs=6e-4) and splits == "train"
    assert custom(root, "--num_classes", "3", "--ignore_index", "1", "--class_weights") == 1  # 255 is illegal then
    assert "no class weights, as faulty labels don't count" in capsys.readouterr().err
    for index in (2, 3):
        write_label(root / f"annotations/{index}.png", (1, 2))
    assert custom(root, "--num_classes", "3", "--ignore_index", "1", "--class_weights") == 0
    assert weights_of(capsys.readouterr().out)[0] == pytest.approx(
        [1 / math.log(1.52), 1 / math.log(1.02), 1 / math.log(1.52)], abs=6e-4)


def test_class_weights_of_voc_count_aug(tmp_path, capsys):
    root = LAYOUTS["PascalVOC"].make(tmp_path)
    for name in AUG:
        write_label(root / f"SegmentationClassAug/{name}.png", (20,))
    assert main([str(root), "--type", "voc", "--class_weights"]) == 0
    weights, splits = weights_of(capsys.readouterr().out)
    share = len(AUG) / (len(AUG) + len(TRAIN) * 3 / 4)
    assert weights[20] == pytest.approx(1 / math.log(1.02 + share), abs=6e-4) and splits == "train and aug"


def test_class_weights_of_nothing(root, capsys):
    for path in (root / "gtFine/train").rglob("*.png"):
        write_label(path, (255,))
    assert main([str(root), "--class_weights"]) == 1
    said = capsys.readouterr()
    assert "DataError: --class_weights" in said.err and "weight" not in said.out


@pytest.mark.parametrize("flags, expected", [
    (["--type", "custom", "--train_path", "x"], "--num_classes"),
    (["--type", "custom", "--num_classes", "2"], "--type custom needs a list file: --train_path"),
    (["--type", "custom", "--num_classes", "2", "--train_path", "x"], "train_path: x is not a file"),
    (["--type", "custom", "--num_classes", "2", "--class_names", "a"], "class_names: 1 names for num_classes 2"),
    (["--num_classes", "2", "--val_path", "x"], "--val_path, --num_classes: only for --type custom"),
    (["--num_workers", "-1"], "--num_workers -1")])
def test_wrong_flags(tmp_path, flags, expected, capsys):
    assert main([str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ConfigError: ") and expected in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("kind", ["cityscapes", *(layout.check_type for layout in LAYOUTS.values())])
def test_data_sets_that_are_not_there(tmp_path, kind, capsys):
    for root in (tmp_path / "absent", tmp_path):
        assert main([str(root), "--type", kind]) == 1
        said = capsys.readouterr().err
        assert str(root) in said and "unpack" in said and "DataError: " in said


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_public_data_sets(tmp_path, name, capsys):
    layout = LAYOUTS[name]
    root = layout.make(tmp_path)
    assert main([str(root), "--type", layout.check_type]) == 0
    said = capsys.readouterr()
    assert f"train: {len(TRAIN)} samples, 0 errors" in said.out and f"val: {len(VAL)} samples, 0 errors" in said.out
    assert rows(said.out)[layout.first_name][1] == ["256", "25.000%", str(len(VAL))]
    ignored = layout.classes.count(255)
    assert rows(said.out)["(ignored, 255)"][1] == [str(256 * ignored), f"{25 * ignored}.000%", str(len(VAL))]
    assert ("test: 1 samples" in said.out) == (name in ("ADE20K", "PascalVOC"))
    assert (f"aug: {len(AUG)} samples" in said.out) == (name == "PascalVOC")
    label = next(path for path in root.rglob("*.png") if path.stem == "d")
    write_label(label, (layout.num_classes + 1,))
    assert main([str(root), "--type", layout.check_type]) == 1
    assert f"{label} holds {{{layout.num_classes + 1}}}; legal are" in capsys.readouterr().err
    assert main([str(root), "--type", layout.check_type, "--num_classes", "3"]) == 2
    assert f"--num_classes: only for --type custom; {layout.check_type} has its own" in capsys.readouterr().err


def test_images_that_exif_turns(tmp_path, capsys):
    root, exif = make_lists(tmp_path), Image.Exif()
    for orientation in (None, 1, 6):
        if orientation:
            exif[0x0112] = orientation
        Image.new("RGB", (32, 16)).save(root / "images/1.png", format="JPEG", exif=exif)
        assert custom(root, "--num_classes", "3") == 0
        said = capsys.readouterr().err
        assert (f"{root}/images/1.png" in said and "EXIF" in said) == (orientation == 6)
