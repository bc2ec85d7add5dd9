import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg.transforms.image_io import read_label
from tools.index_masks import main

ROOT = Path(__file__).resolve().parents[2]
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


def test_an_unknown_color_is_named_and_its_mask_not_written(tmp_path, capsys):
    write(tmp_path / "masks/a.png", (RED, (1, 2, 3)))
    write(tmp_path / "masks/b.png", (RED,))
    (tmp_path / "masks/c.png").write_bytes(b"")
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "255,0,0"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("masks/a.png holds 1,2,3 (2 pixels), which --colors doesn't name")
    assert "c.png is empty" in said[1]
    assert said[2] == f"DataError: {tmp_path / 'masks'}: 2 of 3 masks have errors, see above"
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["b.png"]


def test_grey_values_of_16_bits_are_not_cut_off(tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 1, 2]], np.uint16)).save(tmp_path / "masks/a.png")
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "0"]) == 1
    assert "a.png has grey values of more than 8 bits; if they are class indices, training" in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()


def test_jpeg_blurs_colors(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise).save(tmp_path / "masks/a.jpg")
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "0"]) == 1
    assert "more colors, which --colors doesn't name; JPEG blurs colors" in capsys.readouterr().err
    assert main([str(tmp_path / "masks")]) == 0
    assert "these may be photos, or blurred" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [
    (["labels", "--colors", "1,2"], "--colors: 1,2 is not a color; give red,green,blue"),
    (["labels", "--colors", "1,2,256"], "--colors: 1,2,256 is not a color"),
    (["labels", "--colors", "-1"], "--colors"),
    (["labels", "--colors", "1", "1,1,1"], "--colors: 1,1,1 stands twice"),
    (["labels", "--colors", "1", "--ignore_colors", "1"], "--ignore_colors: 1 stands twice"),
    (["labels", "--colors", *map(str, range(256))], "256 are more than the 255 classes"),
    (["labels"], "give both the folder to write to and --colors"),
    (["masks", "--colors", "1"], "masks lies in the folder of the masks, whose files are all read"),
    (["masks/labels", "--colors", "1"], "masks/labels lies in the folder of the masks, whose files are all read"),
    (["--num_workers", "-1"], "--num_workers -1 is below 0"),
])
def test_wrong_flags(tmp_path, monkeypatch, flags, message, capsys):
    write(tmp_path / "masks/a.png", (1,))
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["masks", *flags]) == 2
    except SystemExit as error:  # argparse's own
        assert error.code == 2
    assert message in capsys.readouterr().err and not (tmp_path / "labels").exists()


def test_two_masks_of_one_label(tmp_path, capsys):
    for suffix in (".png", ".bmp"):
        write(tmp_path / "masks" / f"a{suffix}", (0,))
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "0"]) == 1
    assert "a.bmp and a.png would both become" in capsys.readouterr().err


def test_labels_that_can_not_be_written(tmp_path, capsys):
    write(tmp_path / "masks/a.png", (0,))
    (tmp_path / "labels").touch()
    assert main([str(tmp_path / "masks"), str(tmp_path / "labels"), "--colors", "0"]) == 1
    assert "labels/a.png can't be written" in capsys.readouterr().err


def test_nothing_there(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 1
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "absent is not a folder" in said and "holds no mask" in said


def test_runs_as_a_script_from_anywhere(tmp_path):
    write(tmp_path / "a.png", (RED,))
    command = [sys.executable, str(ROOT / "tools/index_masks.py"), "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "255,0,0: 2 pixels in 1 masks\n")
