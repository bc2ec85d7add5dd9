import pytest

from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.listing import files_below, list_images, result_names


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "deep er/ü.jpg", "deep er/B.TIF", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_all_below_it(tree):
    images, root = list_images(str(tree))
    assert root == str(tree) and [image[len(root) + 1:] for image in images] == [
        "a.png", "deep er/B.TIF", "deep er/ü.jpg"]
    assert files_below(str(tree), [".txt"]) == [str(tree / "notes.txt")]


def test_one_image(tree):
    assert list_images(str(tree / "a.png")) == ([str(tree / "a.png")], str(tree))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line", ["deep er/ü.jpg", "deep er/ü.jpg,gt/x.png", "a.png gt/x.png", "a.png"])
def test_a_list_file_with_or_without_labels(tree, line, encoding):
    (tree / "list.txt").write_text(f"\r\n{line}\r\n", encoding=encoding)
    assert list_images(str(tree / "list.txt"))[0] == [str(tree / ("a.png" if line[0] == "a" else "deep er/ü.jpg"))]


@pytest.mark.parametrize("line", ["../a.png\n../deep er/ü.jpg", "{root}/a.png\n{root}/deep er/ü.jpg"])
def test_results_of_a_list_that_lies_elsewhere_stay_below_their_folder(tree, line):
    (tree / "lists").mkdir()
    (tree / "lists" / "val.txt").write_text(line.format(root=tree), encoding="utf-8")
    assert result_names(*list_images(str(tree / "lists" / "val.txt"))) == ["a.png", "deep er/ü.png"]


@pytest.mark.parametrize("make, message", [
    (lambda root: root / "gone.png", "no such image, directory or list file"),
    (lambda root: (root / "empty").mkdir() or root / "empty", "no image below it"),
    (lambda root: (root / "l.txt").write_text("a.png\nb.png\n") and root / "l.txt", r"l.txt:2: b.png is not an image"),
    (lambda root: (root / "l.txt").write_text("\n\n") and root / "l.txt", "names no image"),
])
def test_nothing_to_predict_is_an_error_that_names_the_place(tree, make, message):
    with pytest.raises(DataError, match=message):
        list_images(str(make(tree)))


@pytest.mark.parametrize("images, expected", [
    (["r/a.jpg", "r/a.bmp", "r/x/a.jpg"], ["a.jpg.png", "a.bmp.png", "x/a.png"]),
    (["r/a.jpg", "r/a.bmp", "r/a.jpg.png"], ["a.jpg.png", "a.bmp.png", "a.jpg.png.png"]),
    (["r/a.jpg", "r/b.jpg", "r/./a.jpg"], ["a.png", "b.png", "a.png"])])
def test_results_keep_relative_paths_and_never_collide(images, expected):
    assert result_names(images, "r") == expected
