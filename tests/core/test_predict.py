import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg.core.predict import OUTPUTS, list_images, predict, result_names
from paddleseg.cvlibs.errors import DataError
from paddleseg.transforms import Compose, Normalize

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class Oracle(paddle.nn.Layer):
    def forward(self, x):
        return [x]


def write(path, color=(200, 10, 10), size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "deep er" / "ü.jpg", (10, 200, 10))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_gives_all_below_it(tree):
    images, root = list_images(str(tree))
    assert [image[len(root) + 1:] for image in images] == ["a.png", "deep er/ü.jpg"]


def test_one_image(tree):
    images, root = list_images(str(tree / "a.png"))
    assert result_names(images, root) == ["a.png"]


@pytest.mark.parametrize("line", ["deep er/ü.jpg", "deep er/ü.jpg,gt/x.png", "a.png gt/x.png", "a.png"])
def test_a_list_file_with_or_without_labels(tree, line):
    (tree / "list.txt").write_text(f"\n{line}\n", encoding="utf-8")
    images, _ = list_images(str(tree / "list.txt"))
    assert images == [str(tree / ("a.png" if line.startswith("a") else "deep er/ü.jpg"))]


@pytest.mark.parametrize("make, message", [
    (lambda root: root / "gone.png", "no such image, directory or list file"),
    (lambda root: (root / "empty").mkdir() or root / "empty", "no image below it"),
    (lambda root: (root / "l.txt").write_text("a.png\nb.png\n") and root / "l.txt", r"l.txt:2: b.png is not an image"),
    (lambda root: (root / "l.txt").write_text("\n\n") and root / "l.txt", "names no image"),
])
def test_nothing_to_predict_is_an_error_that_says_where(tree, make, message):
    with pytest.raises(DataError, match=message):
        list_images(str(make(tree)))


def test_results_keep_relative_paths_and_never_collide():
    assert result_names(["r/a.jpg", "r/a.bmp", "r/x/a.jpg"], "r") == ["a.jpg.png", "a.bmp.png", "x/a.png"]


@pytest.mark.parametrize("line", ["../a.png\n../deep er/ü.jpg", "{root}/a.png\n{root}/deep er/ü.jpg"])
def test_a_list_that_lies_elsewhere_writes_below_save_dir_all_the_same(tree, tmp_path, line):
    (tree / "lists").mkdir()
    (tree / "lists" / "val.txt").write_text(line.format(root=tree), encoding="utf-8")
    images, root = list_images(str(tree / "lists" / "val.txt"))
    assert result_names(images, root) == ["a.png", "deep er/ü.png"]
    before = (tree / "a.png").read_bytes()
    predict(Oracle(), images, root, Compose([Normalize()]), PALETTE, str(tmp_path / "out" / "x"))
    assert len(list((tmp_path / "out" / "x").rglob("*.png"))) == 6 and (tree / "a.png").read_bytes() == before


def test_writes_overlay_colours_and_class_indices(tree, tmp_path):
    images, root = list_images(str(tree))
    out = tmp_path / "out"
    predict(Oracle(), images, root, Compose([Normalize()]), PALETTE, str(out))
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == sorted(
        f"{folder}/{name}" for folder in OUTPUTS for name in ("a.png", "deep er/ü.png"))
    label = Image.open(out / "label" / "a.png")
    assert label.mode == "L" and label.size == (12, 8) and set(np.unique(label)) == {0}
    colors = Image.open(out / "pseudo_color_prediction" / "deep er" / "ü.png")
    assert colors.mode == "P" and set(np.unique(colors)) == {1}
    assert colors.convert("RGB").getpixel((0, 0)) == (0, 255, 0)
    overlay = np.asarray(Image.open(out / "added_prediction" / "a.png"))
    np.testing.assert_allclose(overlay[0, 0], 0.6 * np.array([200, 10, 10]) + 0.4 * PALETTE[0], atol=1)
