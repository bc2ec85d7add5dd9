import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_data import image_path, label_path, make_cityscapes, make_lists, write_image, write_label
from PIL import Image

from paddleseg.cvlibs.errors import DataError, ImageReadError, LabelValueError, RunError
from paddleseg.datasets import Cityscapes, Dataset, cache
from paddleseg.datasets.cache import INDEX, PIXELS, write_cache
from paddleseg.datasets.cityscapes import LABEL_IDS_ENDING
from paddleseg.datasets.loader import train_batches
from paddleseg.transforms import (
    Normalize,
    Padding,
    PhotoMetricDistortion,
    RandomCrop,
    RandomDistort,
    RandomFlip,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    RandomResize,
    ResizeStepScaling,
)
from paddleseg.utils.files import SUMS

FIRST = "aachen", "000000_000019"
PIPELINES = {
    "paddleseg": lambda: [ResizeStepScaling(), RandomPaddingCrop(crop_size=[24, 12]), RandomHorizontalFlip(),
                          RandomDistort(), Normalize()],
    "mmseg": lambda: [RandomResize(scale=[32, 16], ratio_range=[0.5, 2.0]), RandomCrop(crop_size=[12, 24]),
                      RandomFlip(), PhotoMetricDistortion(), Normalize(), Padding(target_size=[24, 12])],
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
    assert text.endswith(f"; make it by `python tools/cache_dataset.py --config FILE --split {mode} "
                         f"--cache_dir {directory}`")
    return text


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
    plain = plain_of(root)
    write_cache(plain, directory, str(root), 0)
    cached = Dataset([], str(root), 3, train_path=str(root / "train.txt"), cache=directory)
    for index in range(4):
        for key in ("img", "label"):
            np.testing.assert_array_equal(cached[index][key], plain[index][key])


def plain_of(root):
    return Dataset([], str(root), 3, train_path=str(root / "train.txt"))


def test_without_labels(root, directory):
    make(root, directory, "test")
    plain, cached = (Cityscapes([], str(root), "test", cache) for cache in (None, directory))
    assert "label" not in cached[0]
    np.testing.assert_array_equal(cached[0]["img"], plain[0]["img"])


def test_files_are_not_read(root, directory, monkeypatch):
    make(root, directory)
    dataset = Cityscapes([], str(root), cache=directory)
    shutil.rmtree(root)
    assert len([dataset[index] for index in range(4)]) == 4


# ---- stale ----------------------------------------------------------------------------------------

def test_a_missing_cache(root, directory):
    assert "train is not there" in refusal(root, directory)
    make(root, directory)
    assert "val is not there" in refusal(root, directory, "val")


def change_pixels(root):
    write_image(image_path(root, "train", *FIRST), 77)


def touch(root):
    path = label_path(root, "train", *FIRST)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def grow_in_place(root):
    path = image_path(root, "train", *FIRST)
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(0, before.st_mtime_ns))


@pytest.mark.parametrize("change, changed", [(change_pixels, image_path), (touch, label_path),
                                             (grow_in_place, image_path)])
def test_a_changed_source(root, directory, change, changed):
    make(root, directory)
    change(root)
    assert f"it is stale: {changed(root, 'train', *FIRST)} has changed since" in refusal(root, directory)
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


@pytest.mark.parametrize("changes, expected", [({"num_classes": 4}, "num_classes was 3 and is 4"),
                                               ({"ignore_index": 7}, "ignore_index was 255 and is 7")])
def test_another_rule_for_labels(tmp_path, directory, changes, expected):
    root = make_lists(tmp_path / "own")
    write_cache(plain_of(root), directory, str(root), 0)
    arguments = {"num_classes": 3, "train_path": str(root / "train.txt"), "cache": directory, **changes}
    with pytest.raises(DataError, match=f"it is stale: {expected}"):
        Dataset([], str(root), **arguments)


def test_another_mapping_of_label_ids(root, directory, monkeypatch):
    make(root, directory)
    values = Cityscapes.label_values
    other = replace(values[LABEL_IDS_ENDING], classes=np.zeros(256, np.uint8))
    monkeypatch.setattr(Cityscapes, "label_values", {**values, LABEL_IDS_ENDING: other})
    assert "it is stale: train_ids was" in refusal(root, directory)


def test_another_format(root, directory, monkeypatch):
    make(root, directory)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert "it was made by another version of this toolkit (format 1, not 2)" in refusal(root, directory)


# ---- damaged --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [INDEX, PIXELS, SUMS])
def test_a_file_is_missing(root, directory, name):
    make(root, directory)
    os.remove(os.path.join(directory, "train", name))
    assert name in refusal(root, directory)


@pytest.mark.parametrize("cut", [1, 4096])
def test_truncated_pixels(root, directory, cut):
    total = make(root, directory)
    os.truncate(os.path.join(directory, "train", PIXELS), total - cut)
    assert f"pixels.bin is truncated or damaged: it has {total - cut} of {total} bytes" in refusal(root, directory)


def test_a_damaged_index(root, directory):
    make(root, directory)
    path = os.path.join(directory, "train", INDEX)
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace('"offsets": [0', '"offsets": [1', 1))
    assert "index.json is damaged" in refusal(root, directory)


def flip_byte(directory, offset):
    with open(os.path.join(directory, "train", PIXELS), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_pixels_end_the_run(root, directory, which, num_workers):
    make(root, directory)
    dataset = Cityscapes([], str(root), cache=directory)
    flip_byte(directory, dataset.cached.entries[2].offsets[which] + 100)
    received = []
    with pytest.raises(DataError) as error:
        for _, batch in train_batches(dataset, 1, seed=0, num_batches=8, num_workers=num_workers):
            received += batch["path"]
    image = dataset.file_list[2][0]
    assert image not in received
    assert f"{PIXELS} is damaged: the bytes of {os.path.relpath(image, root)} are not those" in str(error.value)
    assert "make it by" in str(error.value)


def test_a_sample_is_compared_once_by_all_processes(root, directory):
    make(root, directory)
    dataset = Cityscapes([], str(root), cache=directory)
    list(train_batches(dataset, 4, seed=0, num_batches=1, num_workers=1))
    assert dataset.cached.compared.tolist() == [1, 1, 1, 1]


# ---- writing --------------------------------------------------------------------------------------

@pytest.mark.parametrize("spoil, kind, expected", [
    (lambda path: path.write_bytes(path.read_bytes()[:-20]), ImageReadError, "truncated"),
    (lambda path: write_label(path, (0, 204)), LabelValueError, r"holds \{204\}"),
])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_files_make_no_cache(root, directory, spoil, kind, expected, num_workers):
    make(root, directory)
    before = open(os.path.join(directory, "train", PIXELS), "rb").read()
    for city, name in (FIRST, ("zurich", "000001_000019")):
        spoil(label_path(root, "train", city, name))
    with pytest.raises(kind, match=f"{expected}.*; 1 more errors, .*; no cache was written"):
        make(root, directory, num_workers=num_workers)
    assert open(os.path.join(directory, "train", PIXELS), "rb").read() == before
    assert os.listdir(directory) == ["train"]
    assert "has changed since" in refusal(root, directory)


def test_too_little_room(root, directory, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 12))
    with pytest.raises(RunError, match=r"train needs 3\.05e-05 GiB, and its disk has 3\.81e-06 GiB free"):
        make(root, directory)
    assert os.listdir(directory) == []


def test_killed_halfway(root, directory, monkeypatch):
    """What a kill leaves is no cache, and is removed by the next attempt."""
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
    import fcntl

    make(root, directory)
    other = os.open(directory, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(RunError, match="another process writes a cache there"):
            make(root, directory)
    finally:
        os.close(other)


def test_a_header_that_lies_about_its_size(root, directory, monkeypatch):
    monkeypatch.setattr(cache, "image_size", lambda path: (8, 8))
    with pytest.raises(DataError, match="is 16x32 .*, but its header says 8x8"):
        make(root, directory)
