import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_data import image_path, label_path, make_cityscapes, make_lists, write_image, write_label
from PIL import Image

from paddleseg import transforms as T
from paddleseg.cvlibs.errors import DataError, ImageReadError, LabelValueError, RunError
from paddleseg.datasets import Cityscapes, Dataset, cache
from paddleseg.datasets.cache import INDEX, PIXELS, write_cache
from paddleseg.datasets.cityscapes import LABEL_IDS_ENDING
from paddleseg.datasets.loader import train_batches
from paddleseg.utils.files import SUMS

FIRST = "aachen", "000000_000019"
PIPELINES = {
    "paddleseg": lambda: [T.ResizeStepScaling(), T.RandomPaddingCrop([24, 12]), T.RandomHorizontalFlip(),
                          T.RandomDistort(), T.Normalize()],
    "mmseg": lambda: [T.RandomResize([32, 16], [0.5, 2.0]), T.RandomCrop([12, 24]), T.RandomFlip(),
                      T.PhotoMetricDistortion(), T.Normalize(), T.Padding([24, 12])],
}


@pytest.fixture
def root(tmp_path):
    return make_cityscapes(tmp_path / "cityscapes")


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "cached")


def make(root, directory, mode="train", num_workers=0):
    return write_cache(Cityscapes([], str(root), mode), directory, str(root), num_workers)


def refusal(root, directory, mode="train"):
    """Why the cache is refused, in one line that says how to make it."""
    with pytest.raises(DataError) as error:
        Cityscapes([], str(root), mode, directory)
    text = str(error.value)
    assert f"{directory}/{mode}" in text and "\n" not in text
    assert f"cache_dataset.py --config FILE --split {mode} --cache_dir {directory}`" in text
    return text


def own(root, num_classes=3, **options):
    return Dataset([], str(root), num_classes, train_path=str(root / "train.txt"), **options)


# ---- the same samples -----------------------------------------------------------------------------

@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_batches_as_from_the_files(root, directory, pipeline, num_workers):
    label_path(root, "train", *FIRST).unlink()  # this one is mapped from label ids
    write_label(label_path(root, "train", *FIRST, "labelIds"), (0, 7, 26, 255))
    make(root, directory, num_workers=num_workers)

    def stream(**options):
        batches = train_batches(Cityscapes(PIPELINES[pipeline](), str(root), **options), 2, seed=1, num_batches=4,
                                num_workers=num_workers)
        return [(epoch, batch["path"], batch["trans_info"],
                 *(batch[key].numpy().tobytes() for key in ("img", "label"))) for epoch, batch in batches]

    assert stream(cache=directory) == stream()


def test_every_kind_of_file(tmp_path, directory):
    root = make_lists(tmp_path / "own", count=4)
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (7, 5), dtype=np.uint8)).save(root / "images/0.png")
    Image.fromarray(noise.integers(0, 65536, (7, 5), dtype=np.uint16)).save(root / "images/1.png")
    Image.fromarray(noise.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(root / "images/2.png", format="JPEG")
    for index, size in enumerate([(7, 5), (7, 5), (9, 11)]):
        write_label(root / f"annotations/{index}.png", (index,), size)
    plain = own(root)
    write_cache(plain, directory, str(root), 0)
    cached = own(root, cache=directory)
    for index in range(4):
        for key in ("img", "label"):
            np.testing.assert_array_equal(cached[index][key], plain[index][key])


def test_files_are_not_read(root, directory, monkeypatch):
    make(root, directory)
    dataset = Cityscapes([], str(root), cache=directory)
    shutil.rmtree(root)
    assert len([dataset[index] for index in range(4)]) == 4


# ---- stale ----------------------------------------------------------------------------------------

def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def grow_in_place(path):
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(0, before.st_mtime_ns))


@pytest.mark.parametrize("change, path_of", [(lambda path: write_image(path, 77), image_path), (touch, label_path),
                                             (grow_in_place, image_path)])
def test_a_changed_source(root, directory, change, path_of):
    make(root, directory)
    path = path_of(root, "train", *FIRST)
    change(path)
    assert f"{path} has changed since" in refusal(root, directory)
    make(root, directory)
    np.testing.assert_array_equal(Cityscapes([], str(root), cache=directory)[0]["img"],
                                  Cityscapes([], str(root))[0]["img"])


def test_another_list(root, directory):
    make(root, directory)
    pairs = [",".join(os.path.relpath(path, root) for path in pair) for pair in Cityscapes([], str(root)).file_list]
    for lines, expected in ((pairs[::-1], "where the data set lists leftImg8bit/train/zurich"),
                            (pairs[:3], "it holds 4 samples, and the data set lists 3")):
        (root / "train.txt").write_text("\n".join(lines))
        assert expected in refusal(root, directory)


@pytest.mark.parametrize("changes", [{"num_classes": 4}, {"ignore_index": 7}])
def test_another_rule_for_labels(tmp_path, directory, changes):
    root = make_lists(tmp_path / "own")
    write_cache(own(root), directory, str(root), 0)
    with pytest.raises(DataError, match=f"it is stale: {next(iter(changes))} was"):
        own(root, cache=directory, **changes)


def test_another_mapping_or_format(root, directory, monkeypatch):
    make(root, directory)
    values = Cityscapes.label_values
    other = replace(values[LABEL_IDS_ENDING], classes=np.zeros(256, np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr(Cityscapes, "label_values", {**values, LABEL_IDS_ENDING: other})
        assert "it is stale: train_ids was" in refusal(root, directory)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert "format 1, not 2" in refusal(root, directory)


# ---- damaged --------------------------------------------------------------------------------------

def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("name, damage", [
    (INDEX, os.remove), (PIXELS, os.remove), (SUMS, os.remove), (INDEX, cut_off), (PIXELS, cut_off),
    (INDEX, lambda path: flip_byte(path, 40))])
def test_missing_and_damaged_files(root, directory, name, damage):
    make(root, directory)
    damage(Path(directory, "train", name))
    assert name in refusal(root, directory)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_pixels_end_the_run(root, directory, which, num_workers):
    make(root, directory)
    dataset = Cityscapes([], str(root), cache=directory)
    flip_byte(Path(directory, "train", PIXELS), dataset.cached.entries[2].offsets[which] + 100)
    received, image = [], dataset.file_list[2][0]
    with pytest.raises(DataError, match=f"{PIXELS} is damaged: .*{os.path.relpath(image, root)}.*make it by"):
        for _, batch in train_batches(dataset, 1, seed=0, num_batches=8, num_workers=num_workers):
            received += batch["path"]
    assert image not in received


# ---- writing --------------------------------------------------------------------------------------

@pytest.mark.parametrize("spoil, kind, expected", [
    (lambda path: path.write_bytes(path.read_bytes()[:-20]), ImageReadError, "truncated"),
    (lambda path: write_label(path, (0, 204)), LabelValueError, r"holds \{204\}"),
])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_files_make_no_cache(root, directory, spoil, kind, expected, num_workers):
    make(root, directory)
    pixels = Path(directory, "train", PIXELS)
    before = pixels.read_bytes()
    for city, name in (FIRST, ("zurich", "000001_000019")):
        spoil(label_path(root, "train", city, name))
    with pytest.raises(kind, match=f"{expected}.*; 1 more errors"):
        make(root, directory, num_workers=num_workers)
    assert pixels.read_bytes() == before and os.listdir(directory) == ["train"]


def test_too_little_room(root, directory, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 12))
    with pytest.raises(RunError, match="train needs .* GiB free"):
        make(root, directory)
    assert os.listdir(directory) == []


def test_killed_halfway(root, directory, monkeypatch):
    """A killed attempt leaves no cache, and the next attempt removes its files."""
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(cache, "write_sums", lambda folder: os._exit(7))
        make(root, directory)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert os.listdir(directory) == ["train.tmp"]
    assert "train is not there" in refusal(root, directory)
    make(root, directory)
    assert os.listdir(directory) == ["train"] and len(Cityscapes([], str(root), cache=directory)) == 4


def test_two_at_once(root, directory):
    make(root, directory)
    other = os.open(directory, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="another process writes a cache there"):
        make(root, directory)
    os.close(other)
