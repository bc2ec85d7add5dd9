import numpy as np
import paddle
import pytest
from fake_data import make_lists, write_image, write_label
from tiny import Colors, build, options

from paddleseg.core import preflight
from paddleseg.core.optim import SGD, Adam, AdamW
from paddleseg.core.preflight import check_files, check_run, slots_bytes, weights_bytes
from paddleseg.core.run_dir import RunDir
from paddleseg.core.state import TrainState, run_fingerprint
from paddleseg.cvlibs.errors import DataError, ImageReadError, LabelValueError, RunError, SizeMismatchError
from paddleseg.datasets import Dataset
from paddleseg.datasets.base import BaseDataset
from paddleseg.transforms import Compose


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "paddleseg"]


def state_of(model, optimizer, settings):
    return TrainState(model, [], optimizer, None, settings, run_fingerprint(settings, 6))


def check(save_dir, train=None, val=None, start=None, **changes):
    settings = options(do_eval=val is not None, **changes)
    state = state_of(*build(), settings)
    if start is not None:
        state.iteration, state.resumed = start, "a checkpoint"
    datasets = {"train_dataset": train or Colors(), **({"val_dataset": val} if val is not None else {})}
    check_run(state, datasets, RunDir(str(save_dir)), settings)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_that_can_go_well_passes_silently_and_leaves_no_trace(tmp_path, caplog, num_workers):
    with caplog.at_level("INFO", "paddleseg"):
        check(tmp_path, val=Colors("val", 3), num_workers=num_workers)
    assert warnings(caplog) == [] and list(tmp_path.iterdir()) == []


# ---- disk space -----------------------------------------------------------------------------------

class Wide(paddle.nn.Layer):
    """So many weights that a file is little else."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = paddle.nn.Linear(400, 300), paddle.nn.BatchNorm1D(300)
        self.frozen = paddle.nn.Linear(90, 90)
        for parameter in self.frozen.parameters():
            parameter.stop_gradient = True

    def forward(self, x):
        return self.norm(self.body(x))


@pytest.mark.parametrize("optimizer_of", [lambda model: SGD(model), lambda model: SGD(model, 0.9, 1e-4, True), Adam,
                                          AdamW])
def test_the_estimate_is_what_a_checkpoint_takes(tmp_path, optimizer_of):
    model = Wide()
    model.eval()
    optimizer = optimizer_of(model)
    weights, slots = weights_bytes(model), slots_bytes(model, optimizer)
    assert optimizer.state_dict() == {} and slots_bytes(model, "an own optimizer") == slots_bytes(model, AdamW(model))
    model(paddle.ones([2, 400])).sum().backward()
    optimizer.step()
    settings, run_dir = options(use_ema=True), RunDir(str(tmp_path))
    checkpoint = state_of(model, optimizer, settings).save(run_dir, settings, True)
    run_dir.save_best(checkpoint, {})
    run_dir.save_best(checkpoint, {}, ema=True)
    assert run_dir.size() == pytest.approx(4 * weights + slots, rel=0.01)


@pytest.fixture
def disk(monkeypatch):
    """Sets the room on the disk, in checkpoints of the tiny model."""
    model, optimizer = build()
    size = weights_bytes(model) + slots_bytes(model, optimizer)

    def set_room(checkpoints):
        monkeypatch.setattr(preflight, "free_bytes", lambda path: int(checkpoints * size))
    return set_room


@pytest.mark.parametrize("room, changes, fitting", [
    (2.1, {}, None), (1.9, {}, 0), (2.1, {"val": Colors("val", 2)}, 0), (2.1, {"use_ema": True}, 0),
    (1.1, {"iters": 2}, None),  # writes one alone
    (4.5, {"iters": 30, "keep_checkpoint_max": 5}, 3), (4.5, {"iters": 30, "keep_checkpoint_max": 3}, None),
    (4.5, {"iters": 12, "keep_checkpoint_max": 5}, None),  # writes four
    (0, {"iters": 6, "start": 6}, None)])
def test_checkpoints_kept_the_one_being_written_and_the_best_model_should_fit(tmp_path, disk, caplog, room, changes,
                                                                              fitting):
    disk(room)
    if fitting == 0:
        with pytest.raises(RunError, match="--keep_checkpoint_max 1 .*another --save_dir"):
            check(tmp_path, **changes)
        return
    check(tmp_path, **changes)
    assert [f"--keep_checkpoint_max {fitting} fits" in line for line in warnings(caplog)] == [True] * bool(fitting)


def written(save_dir, *iterations, extra=()):
    """A run's directory with empty files of the size of checkpoints in it."""
    model, optimizer = build()
    sizes = weights_bytes(model) + slots_bytes(model, optimizer)
    for name in [f"iter_{iteration}" for iteration in iterations] + list(extra):
        (save_dir / name).mkdir(parents=True)
        (save_dir / name / "model.pdparams").write_bytes(bytes(sizes))


def test_what_a_new_run_deletes_is_room(tmp_path, disk, caplog):
    written(tmp_path, 3, 6, extra=["iter_9.tmp", "best_model.old"])
    written(tmp_path / "notes", 3)
    disk(0)
    check(tmp_path, iters=30, keep_checkpoint_max=3)
    assert warnings(caplog) == []
    check(tmp_path, iters=30, keep_checkpoint_max=4)
    assert "--keep_checkpoint_max 3 fits" in warnings(caplog)[0]


def test_what_a_resumed_run_replaces_is_room(tmp_path, disk, caplog):
    written(tmp_path, 3, 6, 9)
    disk(0.1)
    check(tmp_path, start=6, iters=30, keep_checkpoint_max=2)  # iter_9 goes at once
    assert warnings(caplog) == []
    disk(-0.1)
    with pytest.raises(RunError, match="keep_checkpoint_max 1"):
        check(tmp_path, start=6, iters=30, keep_checkpoint_max=2)


def test_where_nothing_can_be_written():
    with pytest.raises(RunError, match="--save_dir /proc/self .*another --save_dir"):
        check("/proc/self")


# ---- data -----------------------------------------------------------------------------------------

class Own(BaseDataset):
    """A data set of one's own, that sets its list of files by itself."""

    num_classes, ignore_index, mode = 3, 255, "train"

    def __init__(self, pairs):
        self.file_list, self.transforms = pairs, Compose([])


def listed(root, **changes):
    return Dataset([], str(root), **{"num_classes": 3, "train_path": str(root / "train.txt"), **changes})


@pytest.fixture
def root(tmp_path):
    return make_lists(tmp_path / "data", count=9)


def test_missing_files_are_counted_and_the_first_named(root, tmp_path):
    pairs = [list(pair) for pair in listed(root).file_list]
    check(tmp_path, Own(pairs))
    for index in (1, 2, 4, 5):
        pairs[index][index % 2] += ".gone"
    with pytest.raises(DataError) as error:
        check(tmp_path, Own(pairs), val=Own([["nowhere/a.png", "nowhere/b.png"]]))
    shown = ", ".join(f"{pairs[index][index % 2]} of train_dataset" for index in (1, 2, 4))
    assert f"6 of 20 files don't exist: {shown} and 3 more; " in str(error.value)


def test_files_that_were_looked_for_already_are_not_again(root, monkeypatch):
    dataset = listed(root)
    monkeypatch.setattr(preflight.os, "listdir", lambda folder: pytest.fail("asked again"))
    check_files({"train_dataset": dataset})


@pytest.mark.parametrize("spoil, kind", [
    (lambda root: (root / "images/8.png").write_bytes(b""), ImageReadError),
    (lambda root: write_label(root / "annotations/5.png", (7,)), LabelValueError),
    (lambda root: write_label(root / "annotations/0.png", size=(8, 8)), SizeMismatchError),
])
@pytest.mark.parametrize("place", ["train", "val"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_spread_over_the_list_are_read(root, tmp_path, spoil, kind, place, num_workers):
    spoil(root)
    dataset = listed(root) if place == "train" else listed(root, mode="val", val_path=str(root / "train.txt"))
    with pytest.raises(kind, match=r"train.txt:\d"):
        check(tmp_path, **{place: dataset}, num_workers=num_workers)


def test_samples_are_transformed_and_must_make_a_batch(root, tmp_path):
    dataset = listed(root)
    dataset.transforms = Compose([lambda data: 1 / 0])
    with pytest.raises(DataError, match="0.png .*ZeroDivisionError"):
        check(tmp_path, dataset)
    for number in (0, 2, 5, 8):
        write_image(root / f"images/{number}.png", size=(16, 30 + number))
        write_label(root / f"annotations/{number}.png", size=(16, 30 + number))
    with pytest.raises(DataError, match="of one batch differ in size"):
        check(tmp_path, listed(root))
    (root / "images/1.png").write_bytes(b"")  # isn't read, as a few are
    check(tmp_path, listed(root), batch_size=1)


def test_samples_without_labels(root, tmp_path):
    (root / "train.txt").write_text("images/0.png\nimages/1.png\n")
    with pytest.raises(DataError, match="train_dataset: .*images/0.png has no label"):
        check(tmp_path, listed(root, mode="test", test_path=str(root / "train.txt")))


@pytest.mark.parametrize("train, val, changes, expected", [
    (Colors(count=3), None, {}, r"3 samples, fewer than the 4 of one batch \(batch_size 2 x 2 processes\)"),
    (Colors(), Colors("val", 0), {}, "val_dataset has no samples.*without --do_eval"),
    (Colors(), Colors("test", 3), {}, "val_dataset is in mode test.*without --do_eval"),
])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_numbers_of_samples_are_checked_by_every_process(tmp_path, monkeypatch, train, val, changes, expected, rank):
    monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(DataError, match=expected):
        check(tmp_path, train, val, **changes)


def test_rank_0_alone_reads(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    dataset = Own([["gone.png", "gone.png"]] * 8)
    with pytest.raises(DataError):
        check(tmp_path, dataset)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    check("/proc/self", dataset)


def test_no_random_state_is_touched(tmp_path):
    paddle.seed(1)
    np.random.seed(1)
    expected = paddle.rand([2]).tolist(), np.random.rand()
    settings = options()
    state = state_of(*build(), settings)
    paddle.seed(1)
    np.random.seed(1)
    check_run(state, {"train_dataset": Colors()}, RunDir(str(tmp_path)), settings)
    assert (paddle.rand([2]).tolist(), np.random.rand()) == expected
