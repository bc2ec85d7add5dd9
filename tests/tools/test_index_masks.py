import numpy as np
import pytest
from PIL import Image

from paddleseg.transforms.image_io import read_label
from tools.index_masks import main

RED, BLUE = (255, 0, 0), (0, 0, 255)


def write(path, colors, mode="RGB"):
    """A mask of a row of two pixels for each color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[color if isinstance(color, tuple) else (color,) * 3] * 2 for color in colors]
    Image.fromarray(np.array(rows, np.uint8)).convert(mode).save(path)
    return path


def rows_of(path):
    label = read_label(path)
    assert (label[:, 0] == label[:, 1]).all()
    return label[:, 0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors_become_classes(tmp_path, mode, capsys):
    write(tmp_path / "masks" / "in ner" / "ä.png", (BLUE, RED, (51, 51, 51)), mode)
    flags = [str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "255,0,0", "0,0,255",
             "--ignore_colors", "51,51,51"]
    assert main(flags) == 0
    assert rows_of(tmp_path / "labels" / "in ner" / "ä.png") == [1, 0, 255]
    assert "labels: 1 labels of 2 classes" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".TIF"])
def test_grey_masks_of_two_classes(tmp_path, suffix):
    write(tmp_path / "masks" / f"a{suffix}", (0, 255), "L")
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "0", "255"]) == 0
    assert rows_of(tmp_path / "labels" / "a.png") == [0, 1]


def test_without_colors_they_are_counted(tmp_path, capsys):
    write(tmp_path / "a.png", (RED, RED, BLUE))
    write(tmp_path / "b.png", (RED,))
    assert main([str(tmp_path), "--num_workers", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["255,0,0: 6 pixels in 2 masks", "0,0,255: 2 pixels in 1 masks"]


def test_a_mask_with_an_error_is_named_and_not_written(tmp_path, capsys):
    masks = tmp_path / "masks"
    for name, colors in (("a", (RED, (1, 2, 3))), ("b", (RED,)), ("d", (RED,))):
        write(masks / f"{name}.png", colors)
    (masks / "c.png").write_bytes(b"")
    Image.fromarray(np.array([[0, 1, 2]], np.uint16)).save(masks / "e.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(masks / "f.jpg")
    assert main([str(masks), str(tmp_path / "labels"), "--colors", "255,0,0"]) == 1
    said = capsys.readouterr().err.splitlines()
    for line, words in zip(said, (("a.png", "1,2,3"), ("c.png", "is empty"), ("e.png", "more than 8 bits"),
                                  ("f.jpg", "JPEG"), ("DataError: ", "4 of 6 masks"))):
        assert all(word in line for word in words), line
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["b.png", "d.png"] and len(said) == 5


@pytest.mark.parametrize("flags, message", [
    (["labels", "--colors", "1,2"], "1,2 is not a color"), (["labels", "--colors", "1,2,256"], "1,2,256"),
    (["labels", "--colors", "-1"], "--colors"), (["labels", "--colors", "1", "1,1,1"], "1,1,1 stands twice"),
    (["labels", "--colors", "1", "--ignore_colors", "1"], "--ignore_colors: 1"),
    (["labels", "--colors", *map(str, range(256))], "255 classes"), (["labels"], "--colors"),
    (["masks", "--colors", "1"], "masks lies in"), (["masks/labels", "--colors", "1"], "masks/labels lies in"),
    (["--num_workers", "-1"], "--num_workers -1")])
def test_wrong_flags(tmp_path, monkeypatch, flags, message, capsys):
    write(tmp_path / "masks/a.png", (1,))
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["masks", *flags]) == 2
    except SystemExit as error:  # argparse's own
        assert error.code == 2
    assert message in capsys.readouterr().err and not (tmp_path / "labels").exists()


def test_folders_that_do_not_do(tmp_path, capsys):
    masks, labels = tmp_path / "masks", tmp_path / "labels"
    masks.mkdir()
    for folder, message in ((tmp_path / "absent", "absent is not a folder"), (masks, "holds no mask")):
        assert main([str(folder)]) == 1 and message in capsys.readouterr().err
    write(masks / "a.png", (0,))
    labels.touch()
    assert main([str(masks), str(labels), "--colors", "0"]) == 1
    assert "labels/a.png can't be written" in capsys.readouterr().err
    write(masks / "a.bmp", (0,))
    assert main([str(masks), str(tmp_path / "other"), "--colors", "0"]) == 1
    assert "a.bmp and a.png" in capsys.readouterr().err
