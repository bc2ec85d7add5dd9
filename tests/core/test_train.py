"""The loop: what it logs, saves, evaluates and stops for, and that a resumed run is the uninterrupted one."""

import json
import logging
import os
import re
import resource
import signal
from functools import partial

import numpy as np
import paddle
import pytest
import small_encnet
from tiny import Colors, TinyNet, arrays, options, run, run_pointwise
from tiny import build as tiny_build

from paddleseg.core import train as train_module
from paddleseg.core.metrics import Scores
from paddleseg.core.optim import SGD, Adam, AdamW
from paddleseg.core.options import TrainOptions
from paddleseg.core.run_dir import RunDir
from paddleseg.core.train import iteration_seed
from paddleseg.core.train_log import Evaluation, log_effective_batch
from paddleseg.cvlibs.errors import ConfigError, Interrupted, RunError
from paddleseg.datasets.loader import train_batches
from paddleseg.models.losses import CrossEntropyLoss, checks
from paddleseg.utils import files
from paddleseg.weights.load import read_weights

LINE = re.compile(r"\[TRAIN\] epoch: \d+, iter: \d+/\d+, loss: [\d.]+, lr: [\d.]+, batch_cost: [\d.]+, "
                  r"reader_cost: [\d.]+, ips: [\d.]+ samples/sec \| ETA \d\d:\d\d:\d\d \| "
                  r"loss_seg: [\d.]+, loss_aux: [\d.]+")
VAL = {"do_eval": True, "val_dataset": Colors("val", 3)}


@pytest.fixture
def lines(monkeypatch):
    """Lines that the run logs."""
    seen, handler = [], logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger("paddleseg"), "handlers", [handler])
    logging.getLogger("paddleseg").setLevel(logging.INFO)
    return seen


def records(save_dir, mode, key=None):
    found = [record for record in map(json.loads, (save_dir / "log.jsonl").read_text().splitlines())
             if record["mode"] == mode]
    return found if key is None else [record[key] for record in found]


def checkpoints(save_dir):
    return sorted(int(path.name[len("iter_"):]) for path in save_dir.glob("iter_*"))


def facts(save_dir, iteration):
    return json.loads((save_dir / f"iter_{iteration}" / "train_state.json").read_text())


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# ---- training --------------------------------------------------------------------------------------

def test_the_loss_falls_and_the_model_learns(tmp_path):
    _, best = run(tmp_path, iters=60, save_interval=60, **VAL)
    losses = records(tmp_path, "train", "loss")
    assert losses[-1] < 0.6 * losses[0] and best > 0.7


def test_logs_paddlesegs_line_and_the_same_as_json(tmp_path, lines):
    run(tmp_path, iters=5, save_interval=100)
    train_lines = [line for line in lines if line.startswith("[TRAIN]")]
    assert len(train_lines) == 3 and all(LINE.fullmatch(line) for line in train_lines)
    assert records(tmp_path, "train", "iter") == [2, 4, 5] and checkpoints(tmp_path) == [5]
    last = records(tmp_path, "train")[-1]
    assert last["epoch"] == 2 and f"loss: {last['loss']:.4f}, lr: {last['lr']:.6f}" in train_lines[-1]
    assert last["loss"] == pytest.approx(last["loss_seg"] + 0.4 * last["loss_aux"], rel=1e-5)


def test_the_log_holds_the_means_of_every_iteration(tmp_path):
    run(tmp_path / "each", log_iters=1)
    run(tmp_path / "two", log_iters=3)
    each, two = (records(tmp_path / name, "train", "loss_aux") for name in ("each", "two"))
    assert two == [(each[0] + each[1] + each[2]) / 3, (each[3] + each[4] + each[5]) / 3]


def test_accumulation_averages_gradients(tmp_path):
    one = run_pointwise(tmp_path / "one", batch_size=4)
    two = run_pointwise(tmp_path / "two", batch_size=2, accum_iters=2)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-12)


def test_two_runs_are_bit_identical_and_the_seed_matters(tmp_path):
    first, second, other = (arrays(run(tmp_path / name, seed=seed)[0])
                            for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(first, second) and not same(first, other)


def test_every_iteration_and_rank_has_a_seed_of_its_own():
    assert len({iteration_seed(42, iteration, rank) for iteration in range(1, 2000) for rank in range(8)}) == 1999 * 8


def test_a_schedule_is_asked_for_the_rate_of_an_iteration_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tiny.PolynomialDecay", lambda *args, **kwargs: lambda iteration: 0.5 / (1 + iteration))
    run(tmp_path, log_iters=1, iters=3)
    assert records(tmp_path, "train", "lr") == [0.5, 0.25, 0.5 / 3]


def test_nothing_is_read_from_the_device_between_two_lines_of_the_log(tmp_path, monkeypatch, float64):
    """A GPU would have to be waited for; the losses compute as they do there."""
    monkeypatch.setattr(checks, "is_on_cpu", lambda tensor: False)
    reads, at_iteration = set(), [0]
    for name in ("numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__"):
        original = getattr(paddle.Tensor, name)

        def reading(tensor, *args, original=original, **kwargs):
            reads.add(at_iteration[0])
            return original(tensor, *args, **kwargs)
        monkeypatch.setattr(paddle.Tensor, name, reading)
    seed = train_module.seed_iteration
    monkeypatch.setattr(train_module, "seed_iteration", lambda number, iteration, rank: (
        at_iteration.__setitem__(0, iteration), seed(number, iteration, rank)))
    monkeypatch.setattr(small_encnet, "ITERS", 7)
    small_encnet.after_training(tmp_path, False, log_iters=3, save_interval=5)
    assert reads <= {0, 3, 5, 6, 7} and {3, 5, 6, 7} <= reads


@pytest.mark.parametrize("device, expected", [("gpu:0", [10, 15, 20]), ("cpu", list(range(1, 22)))])
def test_several_gpus_ask_each_other_only_now_and_then(monkeypatch, device, expected):
    asked = []
    monkeypatch.setattr("paddleseg.utils.distributed.any_rank", lambda flag: asked.append(iteration))
    monkeypatch.setattr("paddleseg.utils.distributed.world_size", lambda: 2)
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    for iteration in range(1, 22):
        train_module.should_stop(iteration, due=iteration == 15, log_iters=25)
    assert asked == expected


class Frozen(TinyNet):
    """Only the head learns."""

    def __init__(self):
        super().__init__()
        for parameter in [*self.conv.parameters(), *self.norm.parameters()]:
            parameter.stop_gradient = True

    def train(self):
        super().train()
        self.norm.eval()


@pytest.mark.parametrize("optimizer", [partial(SGD, momentum=0.9, weight_decay=0.1), partial(Adam, weight_decay=0.1),
                                       partial(AdamW, weight_decay=0.1)])
def test_frozen_parts_stay_as_they_are(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr("tiny.TinyNet", Frozen)
    monkeypatch.setattr("tiny.SGD", lambda model, **unused: optimizer(model))
    before = arrays(tiny_build()[0])
    model, _ = run(tmp_path / "whole")
    after, head = arrays(model), {"head.weight", "head.bias"}
    assert {name for name in after if not np.array_equal(before[name], after[name])} == head
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in head)
    assert {name.partition("@")[0] for name in read_weights(str(tmp_path / "whole" / "iter_6" / "model.pdopt"))} == head
    resumed, _ = run(tmp_path / "parts", resume_model=tmp_path / "whole" / "iter_3", model_seed=99)
    assert same(after, arrays(resumed))


# ---- losses and weights that aren't finite ---------------------------------------------------------

class Late(paddle.nn.Layer):
    """A loss that goes bad at its n-th call."""

    def __init__(self, number, harm):
        super().__init__()
        self.calls_left, self.harm = number, harm

    def forward(self, logit, label):
        self.calls_left -= 1
        return self.harm(logit.mean()) if self.calls_left <= 0 else logit.mean()


@pytest.mark.parametrize("accum_iters, number", [(1, 2), (2, 4)])
def test_a_loss_that_is_not_finite_is_named_by_its_own_iteration(tmp_path, accum_iters, number):
    with pytest.raises(RunError, match=r"^iteration 2: the loss is not finite \(loss inf, .*lr 0\.09") as stopped:
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0), (Late(number, lambda loss: loss + float("inf")), 0.4)],
            log_iters=10, save_interval=5, accum_iters=accum_iters)
    order = [path for _, batch in train_batches(Colors(), 2, 42, num_batches=number) for path in batch["path"]]
    assert f"images {', '.join(order[-2:])})" in str(stopped.value) and not checkpoints(tmp_path)


@pytest.mark.parametrize("harm, iteration, message", [
    (lambda loss: loss * float("nan"), 2, "the loss is not finite"),
    (lambda loss: paddle.sqrt(loss * 0), 3, r"\d of 8 parameters are not finite, such as conv.weight")])
def test_what_is_not_finite_is_not_saved(tmp_path, harm, iteration, message):
    """Told to stop after a bad loss; and a loss that is finite where its gradient isn't."""
    dataset = Stopping(signal.SIGTERM, 7) if iteration == 2 else Colors()
    with pytest.raises(RunError, match=f"^iteration {iteration}: {message}"):
        run(tmp_path, dataset=dataset, criteria=[(CrossEntropyLoss(), 1.0), (Late(iteration, harm), 0.4)],
            log_iters=10, save_interval=3 if iteration == 3 else 10)
    assert not checkpoints(tmp_path)


# ---- going on --------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{}, {"num_workers": 2}, {"accum_iters": 2}, {"use_ema": True, **VAL}],
                         ids=" ".join)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, changes):
    run(tmp_path / "whole", **changes)
    run(tmp_path / "parts", iters=3, **changes)
    run(tmp_path / "parts", resume_model=tmp_path / "parts" / "iter_3", model_seed=99, **changes)
    averages = ["iter_6/ema_model.pdparams", "best_model/ema_model.pdparams", "best_model/score.json"]
    for name in ["iter_6/model.pdparams", "iter_6/model.pdopt", *(averages if "use_ema" in changes else ())]:
        one, other = ((tmp_path / part / name).read_bytes() for part in ("whole", "parts"))
        assert one == other, name


def test_what_a_resumed_run_changes_is_named(tmp_path, lines):
    run(tmp_path, iters=3)
    state = facts(tmp_path, 3)
    state["versions"]["Paddle"] = "1.0"
    (tmp_path / "iter_3" / "train_state.json").write_text(json.dumps(state))
    files.write_sums(str(tmp_path / "iter_3"))
    run(tmp_path, resume_model=tmp_path / "iter_3", iters=6, batch_size=3, log_iters=1)
    said, = [line for line in lines if "was trained with" in line]
    assert all(words in said for words in ("batch_size 2, now 3", "iters 3, now 6", "Paddle 1.0, now"))
    assert "log_iters" not in said


def test_a_finished_run_says_so(tmp_path, lines):
    run(tmp_path)
    run(tmp_path, resume_model=tmp_path / "iter_6")
    assert "nothing to do" in lines[-1] and "--iters" in lines[-1]


@pytest.mark.parametrize("iters", [3, 4])
def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path, iters):
    run(tmp_path, iters=3, **VAL)
    first = records(tmp_path, "eval", "mIoU")
    (tmp_path / "iter_3" / "score.json").unlink()
    run(tmp_path, resume_model=tmp_path / "iter_3", iters=iters, **VAL)
    assert records(tmp_path, "eval", "iter") == [3, 4][:iters - 2] and records(tmp_path, "eval", "mIoU")[:1] == first
    assert (tmp_path / "iter_3" / "score.json").exists()


def test_records_that_a_resumed_run_makes_again_are_dropped(tmp_path):
    from visualdl import LogReader

    run(tmp_path, log_iters=1, use_vdl=True, **VAL)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"mode": "train", "it')  # cut off by a crash
    run(tmp_path, resume_model=tmp_path / "iter_3", iters=5, log_iters=1, use_vdl=True, **VAL)
    assert records(tmp_path, "train", "iter") == [1, 2, 3, 4, 5] and records(tmp_path, "eval", "iter") == [3, 5]
    reader = LogReader(file_path=str(next(tmp_path.glob("vdlrecords*"))))
    losses = [(item.id, item.value) for item in reader.get_data("scalar", "Train/loss")]
    np.testing.assert_allclose(losses, list(enumerate(records(tmp_path, "train", "loss"), 1)), rtol=1e-6)
    assert {"Train/lr", "Train/loss_seg", "Evaluate/mIoU", "Evaluate/Acc"} <= set(reader.get_tags()["scalar"])


def test_a_score_that_is_not_a_number_is_no_best(tmp_path):
    class Unlabelled(Colors):
        def sample(self, index, rng):
            sample = super().sample(index, rng)
            return {**sample, "label": np.full_like(sample["label"], 255)}

    _, first = run(tmp_path, iters=3, **VAL)
    _, best = run(tmp_path, resume_model=tmp_path / "iter_3", do_eval=True, val_dataset=Unlabelled("val", 3))
    assert best == first > 0 and json.loads((tmp_path / "best_model" / "score.json").read_text())["iter"] == 3
    assert records(tmp_path, "eval")[-1]["mIoU"] is None and "NaN" not in (tmp_path / "log.jsonl").read_text()


# ---- stopping --------------------------------------------------------------------------------------

class Stopping(Colors):
    """Sends a signal to its own process when a sample is read for the n-th time."""

    def __init__(self, number, at, mode="train", count=6):
        super().__init__(mode, count)
        self.number, self.reads_left = number, at

    def sample(self, index, rng):
        self.reads_left -= 1
        if self.reads_left == 0:
            os.kill(os.getpid(), self.number)
        return super().sample(index, rng)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_a_signal_saves_between_two_checkpoints_and_the_run_goes_on(tmp_path, number):
    whole, _ = run(tmp_path / "whole", **VAL)
    with pytest.raises(Interrupted, match=r"SIG\w+: iteration 4 of 6 .*iter_4; .*--resume auto") as stopped:
        run(tmp_path / "run", dataset=Stopping(number, 7), **VAL)
    assert stopped.value.exit_code == 75
    assert not facts(tmp_path / "run", 4)["evaluation_due"]
    resumed, _ = run(tmp_path / "run", resume_model=tmp_path / "run" / "iter_4", **VAL)
    assert same(arrays(whole), arrays(resumed)) and records(tmp_path / "run", "eval", "iter") == [3, 6]
    for name in ("model.pdparams", "score.json"):
        assert (tmp_path / "run" / "best_model" / name).read_bytes() == (
            tmp_path / "whole" / "best_model" / name).read_bytes()


def test_a_signal_ends_an_evaluation_at_once(tmp_path):
    with pytest.raises(Interrupted, match="iteration 3 is saved"):
        run(tmp_path, do_eval=True, val_dataset=Stopping(signal.SIGTERM, 2, "val", 3))
    assert checkpoints(tmp_path) == [3] and not (tmp_path / "iter_3" / "score.json").exists()


def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoint(tmp_path):
    class Full(Colors):
        def sample(self, index, rng):
            if checkpoints(tmp_path) == [3]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
            return super().sample(index, rng)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError, match="iter_6 .*File too large; iter_3 .*--resume auto"):
            run(tmp_path, dataset=Full())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(tmp_path)) == ["iter_3", "log.jsonl"]
    run_dir = RunDir(str(tmp_path))
    with run_dir.locked():
        assert run_dir.latest().iteration == 3


def evaluation_of(miou):
    """Two classes, each with this IoU; NaN for a score that is none."""
    right, wrong = (0, 0) if np.isnan(miou) else (round(1000 * miou), round(1000 * (1 - miou) / 2))
    return Evaluation(Scores(np.array([[right, wrong], [wrong, right]])), ["a", "b"], 2)


def run_scored(save_dir, mious, iters=12, patience=2, **changes):
    """Train with an evaluation at each iteration that finds these scores; returns the last iteration."""
    coming = list(mious)

    def evaluate(state):
        found = coming.pop(0)
        if isinstance(found, BaseException):
            raise found
        evaluation = evaluation_of(found[0] if isinstance(found, tuple) else found)
        evaluation.ema_scores = evaluation_of(found[1]).scores if isinstance(found, tuple) else None
        return evaluation

    run(save_dir, iters=iters, save_interval=1, do_eval=True, evaluate=evaluate, early_stop_intervals=patience,
        keep_checkpoint_max=20, **changes)
    return checkpoints(save_dir)[-1]


@pytest.mark.parametrize("found, patience, end", [
    ([0.5, 0.4, 0.3], 2, 3), ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 5), ([0.5, 0.5], 1, 2), ([float("nan")] * 3, 3, 3),
    ([0.1, 0.2, 0.3, 0.4], 1, 4), ([0.4, 0.3, 0.2, 0.1], None, 4), ([0.4, 0.3, 0.2, 0.1], 4, 4)])
def test_patience_ends_the_run(tmp_path, lines, found, patience, end):
    assert run_scored(tmp_path, found, 4 if end == 4 else 12, patience) == end
    assert any(line.startswith("Early stopping at iter") for line in lines) == (end != 4)


def test_a_better_average_counts_too(tmp_path):
    assert run_scored(tmp_path, [(0.5, 0.5), (0.4, 0.6), (0.4, 0.5), (0.3, 0.5)], use_ema=True) == 4


@pytest.mark.parametrize("cut", range(1, 6))
@pytest.mark.parametrize("how", ["after the score was written", "before it was", "amid the evaluation"])
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(tmp_path, cut, how):
    found = [0.5, 0.4, 0.6, 0.5, 0.5, 0.9]
    if how == "amid the evaluation":
        with pytest.raises(Interrupted):
            run_scored(tmp_path, [*found[:cut - 1], Interrupted("now")])
    else:
        run_scored(tmp_path, found, cut)
    again = 0 if how == "after the score was written" else 1
    if how == "before it was":  # the best model may be of this very iteration
        (tmp_path / f"iter_{cut}" / "score.json").unlink()
    assert run_scored(tmp_path, found[cut - again:], resume_model=tmp_path / f"iter_{cut}") == 5


def test_a_stopped_run_goes_on_only_with_more_patience(tmp_path, lines):
    run_scored(tmp_path, [0.5, 0.4, 0.3])
    run_scored(tmp_path, [], resume_model=tmp_path / "iter_3")
    assert "nothing to do" in lines[-1] and "--early_stop_intervals" in lines[-1]
    assert run_scored(tmp_path, [0.2, 0.2], patience=4, resume_model=tmp_path / "iter_3") == 5


# ---- options ---------------------------------------------------------------------------------------

def test_every_output_needs_a_loss(tmp_path):
    with pytest.raises(ConfigError, match="loss.coef has 1 values, but the model has 2 outputs .loss_seg, loss_aux"):
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0)])


@pytest.mark.parametrize("name", ["batch_size", "iters", "accum_iters", "save_interval", "log_iters", "threads",
                                  "keep_checkpoint_max", "repeats", "effective_batch", "early_stop_intervals"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} 0: must be at least 1"):
        TrainOptions(**{"batch_size": 1, "iters": 1, name: 0})


@pytest.mark.parametrize("changes, named", [
    ({"precision": "fp8"}, "precision 'fp8'"), ({"precision": "fp16", "amp_level": "O3"}, "amp_level 'O3'"),
    ({"amp_level": "O2"}, "only with precision"), ({"early_stop_intervals": 3}, "early_stop_intervals 3.*--do_eval")])
def test_options_that_have_no_effect_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        options(**changes).check_early_stop()
    options(early_stop_intervals=3, do_eval=True).check_early_stop()


@pytest.mark.parametrize("world, batch_size, accum_iters, expected, offered", [
    (4, 2, 1, 8, None), (1, 2, 4, 8, None), (1, 3, 1, None, None),
    (1, 2, 1, 8, ["--batch_size 8", "--accum_iters 4", "4 processes", "--learning_rate 0.0025 --iters 320000"]),
    (3, 2, 1, 8, ["4 processes", "--learning_rate"]), (1, 3, 1, 8, ["--batch_size 8", "--learning_rate"])])
def test_another_effective_batch_is_named_with_what_mends_it(monkeypatch, lines, world, batch_size, accum_iters,
                                                             expected, offered):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(world))
    settings = options(batch_size=batch_size, accum_iters=accum_iters, effective_batch=expected, iters=80000)
    log_effective_batch(settings, 0.01)
    assert lines[0].startswith("effective batch = ") and f"= {world * batch_size * accum_iters}" in lines[0]
    for way in ("--batch_size", "--accum_iters", "processes,", "--learning_rate"):
        wanted = any(way.strip(",") in word for word in offered or ())
        assert (len(lines) > 1 and way in lines[1]) == wanted
    assert all(word in lines[1] for word in offered or ())
