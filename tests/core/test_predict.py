import threading

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg.core import predict as predict_module
from paddleseg.core.predict import OUTPUTS, list_images, predict, result_names
from paddleseg.cvlibs.errors import DataError, ImageReadError, RunError
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
    assert result_names(["r/a.jpg", "r/a.bmp", "r/a.jpg.png"], "r") == ["a.jpg.png", "a.bmp.png", "a.jpg.png.png"]


def test_an_image_that_a_list_names_twice_keeps_its_name():
    assert result_names(["r/a.jpg", "r/b.jpg", "r/./a.jpg"], "r") == ["a.png", "b.png", "a.png"]


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


def names_below(folder):
    """Files of every kind, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def many(folder, count=7):
    rng = np.random.default_rng(0)
    for number in range(count):
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(count)]


@pytest.mark.parametrize("num_writers", [1, 3])
def test_reading_ahead_and_writing_behind_mixes_nothing_up(tmp_path, num_writers):
    images, out = many(tmp_path / "in"), tmp_path / "out"
    predict(Oracle(), [*images, images[2]], str(tmp_path), Compose([Normalize()]), PALETTE, str(out),
            num_writers=num_writers)
    assert len(names_below(out)) == 3 * 7
    for image in images:
        pixels = np.asarray(Image.open(image))
        normalized = ((pixels / np.float32(255)).astype("float32") - 0.5) / 0.5
        name = result_names([*images, images[2]], str(tmp_path))[images.index(image)]
        label = np.asarray(Image.open(out / "label" / name))
        np.testing.assert_array_equal(label, normalized.argmax(axis=2))
        np.testing.assert_allclose(np.asarray(Image.open(out / "added_prediction" / name)),
                                   0.6 * pixels + 0.4 * PALETTE[label], atol=1)


def test_the_overlay_shows_the_image_even_if_a_transform_wrote_to_it(tmp_path):
    class Blacken:
        def __call__(self, data):
            data["img"][:] = 0
            return data

    image, = many(tmp_path / "in", 1)
    predict(Oracle(), [image], str(tmp_path / "in"), Compose([Blacken(), Normalize()]), PALETTE, str(tmp_path / "out"))
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / "added_prediction" / "0.png")),
                               0.6 * np.asarray(Image.open(image)) + 0.4 * PALETTE[0], atol=1)


def test_reading_computing_and_writing_overlap(tmp_path, monkeypatch):
    """The first result isn't written before the second image is computed, nor that before the fourth is read."""
    images, out = many(tmp_path / "in"), tmp_path / "out"
    computed, read = threading.Event(), threading.Event()
    write_png = predict_module.write_png

    def write(path, *args, **kwargs):
        assert computed.wait(30)
        write_png(path, *args, **kwargs)

    class Waiting(Oracle):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                assert read.wait(30)
                computed.set()
            return [x]

    class Reading:
        calls = 0

        def __call__(self, data):
            self.calls += 1
            if self.calls == 4:
                read.set()
            return data

    monkeypatch.setattr(predict_module, "write_png", write)
    predict(Waiting(), images, str(tmp_path), Compose([Normalize(), Reading()]), PALETTE, str(out))
    assert len(names_below(out)) == 3 * 7


def test_an_image_that_can_not_be_read_ends_the_run_after_the_results_before_it(tmp_path):
    images, out = many(tmp_path / "in"), tmp_path / "out"
    (tmp_path / "in" / "4.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"4\.png is empty"):
        predict(Oracle(), images, str(tmp_path / "in"), Compose([Normalize()]), PALETTE, str(out))
    assert names_below(out) == sorted(f"{folder}/{number}.png" for folder in OUTPUTS for number in range(4))


@pytest.mark.parametrize("num_writers", [1, 2])
def test_a_result_that_can_not_be_written_ends_the_run_and_is_named(tmp_path, num_writers):
    images, out = many(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "label").write_text("in the way")
    with pytest.raises(RunError, match=r"label/0\.png can't be written: .*--save_dir"):
        predict(Oracle(), images, str(tmp_path / "in"), Compose([Normalize()]), PALETTE, str(out),
                num_writers=num_writers)


@pytest.mark.parametrize("error, raised", [(OSError(28, "No space left on device"), RunError),
                                           (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_result_is_whole_or_absent(tmp_path, monkeypatch, error, raised):
    images, out = many(tmp_path / "in"), tmp_path / "out"

    class Half:
        def save(self, path, format):
            with open(path, "wb") as file:
                file.write(b"half")
            raise error

        def putpalette(self, colors):
            pass

    monkeypatch.setattr("paddleseg.transforms.image_io.Image.fromarray", lambda array: Half())
    with pytest.raises(raised, match="No space left on device" if raised is RunError else None):
        predict(Oracle(), images, str(tmp_path / "in"), Compose([Normalize()]), PALETTE, str(out))
    assert names_below(out) == []
