import random
import traceback
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from fake_data import make_lists, write_image, write_label

from paddleseg.cvlibs.errors import ConfigError, DataError, ImageReadError, LabelValueError
from paddleseg.datasets import Dataset
from paddleseg.datasets.loader import eval_batches, preview_batches, seeded_globals, train_batches


class Noise:
    """Adds a number from each source of randomness that a transform may use, and a size change to report."""

    def __call__(self, data):
        drawn = data["rng"].random() + random.random() + np.random.rand()
        return {**data, "img": data["img"] + np.float32(drawn), "trans_info": [("resize", (4, 5))]}


class Count:
    """A data set without files whose sample is its index; `fault(index)` is called before each sample."""

    def __init__(self, samples, fault=lambda index: None):
        self.samples = samples
        self.fault = fault

    def __len__(self):
        return self.samples

    def name_of(self, index):
        return f"image{index}.png (list.txt:{index + 1})"

    def sample(self, index, rng):
        self.fault(index)
        image = np.full((3, 2, 2), rng.random(), dtype=np.float32)
        return {"img": image, "label": np.full((2, 2), index, np.uint8), "path": f"image{index}.png",
                "trans_info": []}


def indices(batch):
    return [int(label[0, 0]) for label in batch["label"]]


def snapshot(epoch, batch):
    return epoch, batch["path"], batch["trans_info"], batch["img"].numpy().tobytes(), indices(batch)


@pytest.fixture
def dataset(tmp_path):
    root = make_lists(tmp_path, count=5)
    return Dataset([Noise()], str(root), num_classes=3, train_path=str(root / "train.txt"))


def test_batches_are_what_a_model_takes_and_outlive_the_loader(dataset):
    import paddle

    taken = list(train_batches(dataset, 2, seed=0, num_workers=1, num_batches=6))
    again = list(train_batches(dataset, 2, seed=0, num_batches=6))
    weight = paddle.ones([1], "float32")
    weight.stop_gradient = False
    for (_, batch), (_, other) in zip(taken, again):
        assert set(batch) == {"img", "label", "path", "trans_info"} and len(set(batch["path"])) == 2
        assert batch["trans_info"] == [[("resize", (4, 5))]] * 2
        for key, shape, dtype in (("img", [2, 3, 16, 32], paddle.float32), ("label", [2, 16, 32], paddle.int64)):
            assert list(batch[key].shape) == shape and batch[key].dtype == dtype and batch[key].stop_gradient
            np.testing.assert_array_equal(batch[key].numpy(), other[key].numpy())
            assert paddle.__version__ < "3" or batch[key].data_ptr() % 4096 == 0
    (taken[0][1]["img"] * weight).sum().backward()
    assert weight.grad.item() == pytest.approx(again[0][1]["img"].numpy().sum(dtype="float64"), rel=1e-3)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_same_batches_for_any_number_of_workers(dataset, num_workers):
    def streams(workers):
        return ([snapshot(*each) for each in train_batches(dataset, 2, 3, 1, num_workers=workers, num_batches=6)],
                [snapshot(0, batch) for batch in eval_batches(dataset, workers)])

    (train, val), there = streams(0), streams(num_workers)
    assert (train, val) == there and len(train) == 6
    assert train[0][0] == 0 and train[-1][0] == 3  # epochs of two batches
    assert [batch[1][0] for batch in val] == [pair[0] for pair in dataset.file_list]


@pytest.mark.parametrize("start_iter", [1, 2, 3, 7])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_exactly(start_iter, num_workers):
    whole = [snapshot(*each) for each in train_batches(Count(7), 3, seed=5, num_batches=9)]
    rest = train_batches(Count(7), 3, 5, start_iter, num_workers, num_batches=9 - start_iter)
    assert [snapshot(*each) for each in rest] == whole[start_iter:]


def test_each_epoch_is_a_new_permutation_without_the_rest():
    batches = list(islice(train_batches(Count(7), 3, seed=0), 6))
    for epoch in range(3):
        order = [index for number, batch in batches if number == epoch for index in indices(batch)]
        assert order == np.random.default_rng([0, epoch]).permutation(7)[:6].tolist()


def test_repeats_lengthen_the_epoch_and_augment_anew():
    batches = list(train_batches(Count(3), 1, seed=0, repeats=2, num_batches=6))
    assert {epoch for epoch, _ in batches} == {0}
    assert sorted(indices(batch)[0] for _, batch in batches) == [0, 0, 1, 1, 2, 2]
    assert len({batch["img"].numpy().tobytes() for _, batch in batches}) == 6


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_steps_of_one_process(world):
    ranks = [train_batches(Count(13), 2, seed=1, rank=rank, world=world, num_batches=5) for rank in range(world)]
    for single, *parts in zip(train_batches(Count(13), 2 * world, seed=1, num_batches=5), *ranks):
        assert {epoch for epoch, _ in parts} == {single[0]}
        assert sum((indices(part) for _, part in parts), []) == indices(single[1])
        images = np.concatenate([part["img"].numpy() for _, part in parts])
        assert images.tobytes() == single[1]["img"].numpy().tobytes()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_shards_hold_every_sample_once(world):
    shards = [[indices(batch)[0] for batch in eval_batches(Count(3), rank=rank, world=world)]
              for rank in range(world)]
    assert shards == [list(range(3))[rank::world] for rank in range(world)]


@pytest.mark.parametrize("arguments, kind, expected", [
    ({"batch_size": 4}, DataError, r"3 samples, fewer than the 4 .* --batch_size, .* --repeats"),
    ({"batch_size": 2, "world": 2}, DataError, "fewer than the 4"),
    ({"batch_size": 0}, ConfigError, "batch_size: 0"), ({"batch_size": 1, "repeats": 0}, ConfigError, "repeats: 0"),
    ({"batch_size": 1, "seed": -1}, ConfigError, "seed: -1")])
def test_refused_before_the_first_batch(arguments, kind, expected):
    with pytest.raises(kind, match=expected):
        train_batches(Count(3), **{"seed": 0, **arguments})


def test_global_generators_are_seeded_and_put_back():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist()

    before, drawn = states(), []
    for sample in (2, 3, 2):
        with pytest.raises(KeyError), seeded_globals(0, 1, sample):
            drawn.append((random.random(), np.random.rand()))
            raise KeyError
        assert states() == before
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unequal_sizes_are_named(tmp_path, num_workers):
    root = make_lists(tmp_path, count=2)
    write_image(root / "images/1.png", size=(16, 30))
    write_label(root / "annotations/1.png", size=(16, 30))
    dataset = Dataset([], str(root), num_classes=3, train_path=str(root / "train.txt"))
    with pytest.raises(DataError) as error:
        next(train_batches(dataset, 2, seed=0, num_workers=num_workers))
    text = str(error.value)
    assert f"{root / 'images/0.png'} 16x32" in text and f"{root / 'images/1.png'} 16x30" in text and "\n" not in text


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("spoil, kind", [
    (lambda root: (root / "images/3.png").write_bytes(b""), ImageReadError),
    (lambda root: write_label(root / "annotations/3.png", (7,)), LabelValueError),
])
def test_errors_keep_their_class_and_text(dataset, num_workers, spoil, kind):
    root = Path(dataset.file_list[0][0]).parents[1]
    spoil(root)
    with pytest.raises(kind) as here:
        dataset[3]
    with pytest.raises(kind) as error:
        list(train_batches(dataset, 1, seed=0, num_workers=num_workers, num_batches=5))
    assert str(error.value) == str(here.value)
    assert str(error.value).endswith(f"({root / 'train.txt'}:4)")


def fail_at_three(index):
    if index == 3:
        raise ZeroDivisionError("a transform of one's own")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_foreign_errors_name_the_sample(num_workers):
    with pytest.raises(DataError) as error:
        list(eval_batches(Count(5, fail_at_three), num_workers=num_workers))
    assert str(error.value) == "image3.png (list.txt:4): ZeroDivisionError: a transform of one's own"
    assert "in fail_at_three" in "".join(traceback.format_exception(ZeroDivisionError, error.value, error.tb))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_preview_batches_are_those_of_the_first_epoch(dataset, num_workers):
    trained = {batch["path"][0]: batch for _, batch in train_batches(dataset, 1, seed=4, num_batches=5)}
    previews = list(preview_batches(dataset, [[3, 1], [4]], seed=4, num_workers=num_workers))
    assert [len(batch["path"]) for batch in previews] == [2, 1]
    for batch in previews:
        assert batch["label"].dtype == np.uint8
        for key in ("img", "label"):
            np.testing.assert_array_equal(batch[key], np.concatenate([trained[path][key] for path in batch["path"]]))
