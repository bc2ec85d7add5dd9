"""A newcomer with 30 images and masks: the commands of README's section on own data, as they stand there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README_CN.md")
IMAGES = 30
CLONE = ("train.py", "val.py", "predict.py", "paddleseg", "tools", "configs")
# What is added to the commands, for a test to end within a minute: iterations alone.
SHORTER = {"train.py": ["--iters", "30", "--save_interval", "30"]}


def make_own_data(root: Path, count: int = IMAGES, size=(120, 160)) -> None:
    """images/*.jpg of discs and boxes before noise, masks/*.png of their classes: 0 background, 1 disc, 2 box."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image, mask = rng.normal(rng.integers(60, 200, 3), 25, (*size, 3)), np.zeros(size, np.uint8)
        for _ in range(5):
            kind, radius = int(rng.integers(1, 3)), int(rng.integers(10, 25))
            x, y = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
            shape = np.zeros(size, np.uint8)
            if kind == 1:
                cv2.circle(shape, (x, y), radius, 1, -1)
            else:
                cv2.rectangle(shape, (x - radius, y - radius), (x + radius, y + radius), 1, -1)
            image[shape == 1] = rng.normal(rng.integers(0, 256, 3), 10, (int(shape.sum()), 3))
            mask[shape == 1] = kind
        cv2.imwrite(str(root / "images" / f"{index:02d}.jpg"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(root / "masks" / f"{index:02d}.png"), mask)


def commands(name: str) -> list:
    """The commands of the section on own data, each as a list of words."""
    section = (ROOT / name).read_text(encoding="utf-8").partition("<!-- own data -->")[2]
    section = section.partition("<!-- /own data -->")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines)
            if words and words[0] in ("python", "cp")]


def test_both_languages_say_the_same():
    assert commands(READMES[0]) == commands(READMES[1]) and len(commands(READMES[0])) >= 7


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A clone in which all commands were run on 30 images; its folder, and what each script printed."""
    clone = tmp_path_factory.mktemp("newcomer")
    for name in CLONE:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, clone / name)
    make_own_data(clone / "data" / "mine")
    printed = {}
    for words in commands(READMES[0]):
        script = os.path.basename(words[1])
        words = [sys.executable if words[0] == "python" else words[0], *words[1:], *SHORTER.get(script, [])]
        done = subprocess.run(words, cwd=clone, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        printed[script] = done.stdout + done.stderr
    return clone, printed


def test_lists_and_check(followed):
    _, printed = followed
    assert "data/mine/train.txt: 24 images, 24 labels" in printed["create_dataset_list.py"]
    assert "train: 24 samples, 0 errors" in printed["check_data.py"]
    assert "val: 6 samples, 0 errors" in printed["check_data.py"]


def test_it_trains_and_prints_the_score(followed):
    clone, printed = followed
    for script in ("train.py", "val.py"):
        assert re.search(r"#Images: 6 mIoU: 0\.\d+", printed[script]), printed[script][-2000:]
    assert re.search(r"\| disc +\|", printed["val.py"]) and "Traceback" not in "".join(printed.values())
    assert (clone / "output" / "mine" / "best_model" / "model.pdparams").is_file()


def test_report_and_pictures_are_there(followed):
    clone, _ = followed
    output = clone / "output" / "mine"
    assert "mIoU" in (output / "report" / "report.html").read_text(encoding="utf-8")
    assert cv2.imread(str(clone / "output" / "mine_samples.png")) is not None
    for folder in ("added_prediction", "pseudo_color_prediction", "label"):
        assert len([path for path in (output / "result" / folder).rglob("*") if path.is_file()]) == IMAGES
