import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import paddle
import pytest
import small_encnet
from tiny import Colors, TinyNet, arrays, options, run, run_pointwise
from tiny import build as tiny_build

from paddleseg.core import train as train_module
from paddleseg.core.checkpoint import best_score, list_checkpoints, load_checkpoint, save_checkpoint
from paddleseg.core.optim import SGD, Adam, AdamW, ConstantLR
from paddleseg.core.run_dir import check_save_dir, choose_checkpoint, open_save_dir
from paddleseg.core.train import TrainOptions, iteration_seed, train
from paddleseg.cvlibs.errors import ConfigError, Interrupted, RunError
from paddleseg.datasets.loader import train_batches
from paddleseg.models.losses import CrossEntropyLoss, checks
from paddleseg.utils import files
from paddleseg.utils.logger import setup_logging
from paddleseg.utils.signals import StopSignals
from paddleseg.weights.load import read_weights

LINE = re.compile(r"\[TRAIN\] epoch: \d+, iter: \d+/\d+, loss: [\d.]+, lr: [\d.]+, batch_cost: [\d.]+, "
                  r"reader_cost: [\d.]+, ips: [\d.]+ samples/sec \| ETA \d\d:\d\d:\d\d \| "
                  r"loss_seg: [\d.]+, loss_aux: [\d.]+")


@pytest.fixture
def lines(monkeypatch):
    """What the run logs."""
    seen = []
    logger = logging.getLogger("paddleseg")
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    logger.setLevel(logging.INFO)
    return seen


def records(save_dir, mode):
    return [record for record in map(json.loads, (save_dir / "log.jsonl").read_text().splitlines())
            if record["mode"] == mode]


def set_best(save_dir, miou):
    """Let the best model have this score."""
    (save_dir / "best_model" / "score.json").write_text(f'{{"iter": 3, "miou": {miou}, "accuracy": 1.0}}')
    files.write_sums(str(save_dir / "best_model"))


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_the_loss_falls_and_the_model_learns(tmp_path):
    _, best = run(tmp_path, iters=60, save_interval=60, do_eval=True, val_dataset=Colors("val", 3))
    losses = [record["loss"] for record in records(tmp_path, "train")]
    assert losses[-1] < 0.6 * losses[0]
    assert best > 0.7


def test_logs_paddlesegs_line_and_the_same_as_json(tmp_path, lines):
    run(tmp_path)
    train_lines = [line for line in lines if line.startswith("[TRAIN]")]
    assert len(train_lines) == 3 and all(LINE.fullmatch(line) for line in train_lines)
    last = records(tmp_path, "train")[-1]
    assert last["iter"] == 6 and last["epoch"] == 2
    assert f"loss: {last['loss']:.4f}, lr: {last['lr']:.6f}" in train_lines[-1]
    assert last["loss"] == pytest.approx(last["loss_seg"] + 0.4 * last["loss_aux"], rel=1e-5)


def test_the_last_iteration_is_logged_and_saved_at_any_interval(tmp_path):
    run(tmp_path, iters=5, log_iters=4, save_interval=100)
    assert [record["iter"] for record in records(tmp_path, "train")] == [4, 5]
    assert [path.name for path in tmp_path.glob("iter_*")] == ["iter_5"]


def test_two_runs_are_bit_identical_and_the_seed_matters(tmp_path):
    first, second, other = (arrays(run(tmp_path / name, seed=seed)[0])
                            for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same(first, second) and not same(first, other)


@pytest.mark.parametrize("changes", [{}, {"num_workers": 2}, {"accum_iters": 2}], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, changes):
    whole, _ = run(tmp_path / "whole", **changes)
    run(tmp_path / "parts", iters=3, **changes)
    resumed, _ = run(tmp_path / "parts", resume_model=tmp_path / "parts" / "iter_3", model_seed=99, **changes)
    assert same(arrays(whole), arrays(resumed))
    before, after = ((tmp_path / name / "iter_6" / "model.pdopt") for name in ("whole", "parts"))
    assert before.read_bytes() == after.read_bytes()


def test_accumulation_averages_gradients(tmp_path):
    one = run_pointwise(tmp_path / "one", batch_size=4)
    two = run_pointwise(tmp_path / "two", batch_size=2, accum_iters=2)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-12)


def test_a_finished_run_says_so(tmp_path, lines):
    run(tmp_path)
    run(tmp_path, resume_model=tmp_path / "iter_6")
    assert any("nothing to do" in line and "--iters" in line for line in lines)


def test_resuming_with_another_stream_warns(tmp_path, lines):
    run(tmp_path, iters=3)
    run(tmp_path, resume_model=tmp_path / "iter_3", batch_size=3)
    assert any("batch_size 2, now 3" in line for line in lines)


def test_the_best_model_survives_a_resume(tmp_path):
    run(tmp_path, iters=3, do_eval=True, val_dataset=Colors("val", 3))
    set_best(tmp_path, 2.0)
    kept = (tmp_path / "best_model" / "model.pdparams").read_bytes()
    _, best = run(tmp_path, resume_model=tmp_path / "iter_3", do_eval=True, val_dataset=Colors("val", 3))
    assert best == 2.0 and (tmp_path / "best_model" / "model.pdparams").read_bytes() == kept


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path):
    run(tmp_path, iters=3, do_eval=True, val_dataset=Colors("val", 3))
    first = best_score(str(tmp_path))
    (tmp_path / "iter_3" / "score.json").unlink()
    run(tmp_path, resume_model=tmp_path / "iter_3", iters=4, do_eval=True, val_dataset=Colors("val", 3))
    evaluated = records(tmp_path, "eval")
    assert [record["iter"] for record in evaluated] == [3, 4] and evaluated[0]["mIoU"] == first["miou"]


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    run(tmp_path, iters=6, save_interval=1, keep_checkpoint_max=2, do_eval=True, val_dataset=Colors("val", 2))
    assert [path[-6:] for path in list_checkpoints(str(tmp_path))] == ["iter_5", "iter_6"]
    assert (tmp_path / "best_model" / "model.pdparams").exists()


def test_a_loss_that_is_not_finite_stops_with_all_there_is_to_know(tmp_path):
    class Spoilt(paddle.nn.Layer):
        calls = 0

        def forward(self, logit, label):
            Spoilt.calls += 1
            return logit.mean() * (float("nan") if Spoilt.calls == 3 else 1.0)

    with pytest.raises(RunError) as stopped:
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0), (Spoilt(), 0.4)])
    assert re.fullmatch(r"iteration 3: the loss is not finite \(loss nan, loss_seg [\d.]+, loss_aux nan; lr 0\.\d+; "
                        r"images image_\d.png, image_\d.png\); check .*", str(stopped.value))
    assert not list(tmp_path.glob("iter_*"))


class Late(paddle.nn.Layer):
    """A loss that is spoilt from its n-th call on."""

    def __init__(self, number, spoil):
        super().__init__()
        self.calls_left, self.spoil = number, spoil

    def forward(self, logit, label):
        self.calls_left -= 1
        return self.spoil(logit.mean()) if self.calls_left <= 0 else logit.mean()


@pytest.mark.parametrize("accum_iters, number", [(1, 2), (2, 4)])
def test_a_loss_that_is_looked_at_later_is_named_by_its_own_iteration(tmp_path, accum_iters, number):
    with pytest.raises(RunError, match=r"^iteration 2: the loss is not finite \(loss inf, .*lr 0\.09") as stopped:
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0), (Late(number, lambda loss: loss + float("inf")), 0.4)],
            log_iters=10, save_interval=5, accum_iters=accum_iters)
    order = [path for _, batch in train_batches(Colors(), 2, 42, num_batches=number) for path in batch["path"]]
    assert f"images {', '.join(order[-2:])})" in str(stopped.value)
    assert not list(tmp_path.glob("iter_*"))


def test_a_spoilt_run_that_is_told_to_stop_is_not_saved(tmp_path):
    with pytest.raises(RunError, match="^iteration 2: the loss is not finite"):
        run(tmp_path, dataset=Stopping(signal.SIGTERM, 7), log_iters=10, save_interval=10,
            criteria=[(CrossEntropyLoss(), 1.0), (Late(2, lambda loss: loss * float("nan")), 0.4)])
    assert not list(tmp_path.glob("iter_*"))


def test_weights_that_the_last_step_spoilt_are_not_saved(tmp_path):
    """The loss is finite, its gradient isn't."""
    with pytest.raises(RunError, match=r"^iteration 3: \d of 8 parameters are not finite, such as conv.weight"):
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0), (Late(3, lambda loss: paddle.sqrt(loss * 0)), 0.4)])
    assert not list(tmp_path.glob("iter_*"))


def test_the_log_holds_the_means_of_every_iteration(tmp_path):
    run(tmp_path / "each", log_iters=1)
    run(tmp_path / "two", log_iters=3)
    each, two = ([record["loss_aux"] for record in records(tmp_path / name, "train")] for name in ("each", "two"))
    assert two == [(each[0] + each[1] + each[2]) / 3, (each[3] + each[4] + each[5]) / 3]


def test_nothing_is_read_from_the_device_between_two_lines_of_the_log(tmp_path, monkeypatch):
    """As a GPU would have to be waited for; the losses compute as they do there."""
    monkeypatch.setattr(checks, "is_on_cpu", lambda tensor: False)
    reads, at_iteration = [], [0]
    for name in ("numpy", "item", "tolist", "__array__", "__bool__", "__float__", "__int__"):
        original = getattr(paddle.Tensor, name)

        def reading(tensor, *args, original=original, **kwargs):
            reads.append(at_iteration[0])
            return original(tensor, *args, **kwargs)
        monkeypatch.setattr(paddle.Tensor, name, reading)
    seed = train_module.seed_iteration
    monkeypatch.setattr(train_module, "seed_iteration", lambda number, iteration, rank: (
        at_iteration.__setitem__(0, iteration), seed(number, iteration, rank)))
    model = small_encnet.build(False)
    train(model, small_encnet.CRITERIA, SGD(model, momentum=0.9, weight_decay=1e-4), ConstantLR(0.02, 7),
          small_encnet.Stripes(), options(iters=7, log_iters=3, save_interval=5), str(tmp_path))
    assert set(reads) == {3, 5, 6, 7}


def test_several_gpus_ask_each_other_only_now_and_then(monkeypatch):
    asked = []
    keeper = train_module._Keeper(*[None] * 3, options(log_iters=25), *[None] * 6, StopSignals())
    monkeypatch.setattr("paddleseg.utils.distributed.any_rank", lambda flag: asked.append(flag))
    monkeypatch.setattr("paddleseg.utils.distributed.world_size", lambda: 2)
    for device, expected in (("gpu:0", [10, 15, 20]), ("cpu", list(range(1, 22)))):
        monkeypatch.setattr(paddle, "get_device", lambda device=device: device)
        when = []
        for iteration in range(1, 22):
            keeper.is_told_to_stop(iteration, due=iteration == 15)
            when += [iteration] * len(asked)
            asked.clear()
        assert when == expected


# ---- frozen parts ---------------------------------------------------------------------------------

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
    assert model.norm(model.conv(paddle.randn([1, 3, 4, 4]))).stop_gradient
    resumed, _ = run(tmp_path / "parts", resume_model=tmp_path / "whole" / "iter_3", model_seed=99)
    assert same(after, arrays(resumed))


def test_vdl_files_hold_the_numbers_of_the_log(tmp_path):
    from visualdl import LogReader

    run(tmp_path, use_vdl=True, do_eval=True, val_dataset=Colors("val", 2))
    reader = LogReader(file_path=str(next(tmp_path.glob("vdlrecords*"))))
    losses = [(item.id, item.value) for item in reader.get_data("scalar", "Train/loss")]
    expected = [(record["iter"], record["loss"]) for record in records(tmp_path, "train")]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert {"Train/lr", "Train/loss_seg", "Evaluate/mIoU", "Evaluate/Acc"} <= set(reader.get_tags()["scalar"])


# ---- the run's directory and options --------------------------------------------------------------

def test_a_directory_with_another_run_is_refused(tmp_path):
    run(tmp_path / "run", iters=3)
    run(tmp_path / "other", iters=2)
    save_dir = str(tmp_path / "run")
    with pytest.raises(RunError, match=r"holds another run .*--resume auto goes on.*--overwrite .*deletes"):
        check_save_dir(save_dir, None, False)
    for overwrite in (False, True):
        with pytest.raises(RunError, match="holds another run"):
            check_save_dir(save_dir, str(tmp_path / "other" / "iter_2"), overwrite)
    check_save_dir(save_dir, save_dir + "/iter_3", False)
    check_save_dir(save_dir, None, True)
    assert (tmp_path / "run" / "iter_3").exists()


def test_a_new_run_deletes_the_old_one_and_nothing_else(tmp_path):
    run(tmp_path, iters=3, use_vdl=True)
    (tmp_path / "notes.txt").write_text("mine")
    open_save_dir(str(tmp_path), None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_save_dir_may_hold_other_things_but_must_not_be_a_file(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "train.log").write_text("an attempt that ended before its first checkpoint")
    check_save_dir(str(tmp_path), None, False)
    with pytest.raises(RunError, match="is a file"):
        check_save_dir(str(tmp_path / "notes.txt"), None, False)


def test_resuming_elsewhere_brings_the_best_model_along(tmp_path):
    run(tmp_path / "old", iters=3, do_eval=True, val_dataset=Colors("val", 3))
    set_best(tmp_path / "old", 2.0)
    _, best = run(tmp_path / "new", resume_model=tmp_path / "old" / "iter_3", do_eval=True,
                  val_dataset=Colors("val", 3))
    assert best == 2.0


def test_a_score_that_is_not_a_number_is_no_best(tmp_path):
    class Unlabelled(Colors):
        def sample(self, index, rng):
            sample = super().sample(index, rng)
            return {**sample, "label": np.full_like(sample["label"], 255)}

    _, first = run(tmp_path, iters=3, do_eval=True, val_dataset=Colors("val", 3))
    _, best = run(tmp_path, resume_model=tmp_path / "iter_3", do_eval=True, val_dataset=Unlabelled("val", 3))
    assert best == first > 0 and best_score(str(tmp_path))["iter"] == 3
    assert records(tmp_path, "eval")[-1]["mIoU"] is None and "NaN" not in (tmp_path / "log.jsonl").read_text()


def test_the_best_model_of_a_discarded_future_is_set_aside(tmp_path, lines):
    run(tmp_path, do_eval=True, val_dataset=Colors("val", 3))
    (tmp_path / "best_model" / "score.json").write_text('{"iter": 6, "miou": 2.0, "accuracy": 1.0}')
    files.write_sums(str(tmp_path / "best_model"))
    _, best = run(tmp_path, resume_model=tmp_path / "iter_3", do_eval=True, val_dataset=Colors("val", 3))
    assert best < 2.0 and any("it comes after iteration 3; set aside" in line for line in lines)


def test_evaluating_another_runs_checkpoint_leaves_no_mark_there(tmp_path):
    run(tmp_path / "old", iters=3)
    _, best = run(tmp_path / "new", resume_model=tmp_path / "old" / "iter_3", iters=3, do_eval=True,
                  val_dataset=Colors("val", 3))
    assert best is not None and not (tmp_path / "old" / "iter_3" / "score.json").exists()


def test_a_lost_best_model_is_found_again(tmp_path):
    _, best = run(tmp_path, iters=3, do_eval=True, val_dataset=Colors("val", 3))
    shutil.rmtree(tmp_path / "best_model")
    _, again = run(tmp_path, resume_model=tmp_path / "iter_3", iters=3, do_eval=True, val_dataset=Colors("val", 3))
    assert again == best and (tmp_path / "best_model" / "model.pdparams").exists()


def test_vdl_files_of_a_resumed_run_hold_each_iteration_once(tmp_path):
    from visualdl import LogReader

    run(tmp_path, use_vdl=True, log_iters=1)
    run(tmp_path, resume_model=tmp_path / "iter_3", use_vdl=True, log_iters=1)
    reader = LogReader(file_path=str(next(tmp_path.glob("vdlrecords*"))))
    assert [item.id for item in reader.get_data("scalar", "Train/loss")] == [1, 2, 3, 4, 5, 6]


def test_going_back_to_an_earlier_checkpoint_needs_a_word(tmp_path):
    run(tmp_path, iters=6, save_interval=2)
    earlier = str(tmp_path / "iter_2")
    with pytest.raises(RunError, match=r"newer than iter_2 \(iter_4, iter_6\); --resume auto .*--overwrite deletes"):
        check_save_dir(str(tmp_path), earlier, False)
    check_save_dir(str(tmp_path), earlier, True)
    run(tmp_path, resume_model=earlier, iters=3)
    assert [path[-6:] for path in list_checkpoints(str(tmp_path))] == ["iter_2", "iter_3"]


# ---- going on by itself ----------------------------------------------------------------------------

def spoil(path):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "train_state.json", "SHA256SUMS"])
def test_auto_names_and_skips_a_damaged_checkpoint(tmp_path, lines, name):
    whole, _ = run(tmp_path, iters=6, save_interval=2)
    spoil(tmp_path / "iter_6" / name)
    chosen = choose_checkpoint(str(tmp_path), "auto", None)
    assert chosen == str(tmp_path / "iter_4")
    assert any(re.search(r"iter_6: .*(is damaged|doesn't list|can't be read).*skipped", line) for line in lines)
    check_save_dir(str(tmp_path), chosen, False)
    resumed, _ = run(tmp_path, resume_model=chosen, save_interval=2)
    assert same(arrays(whole), arrays(resumed)) and choose_checkpoint(str(tmp_path), "auto", None)[-6:] == "iter_6"


def test_auto_begins_where_there_is_nothing_and_stops_where_all_is_damaged(tmp_path, lines):
    assert choose_checkpoint(str(tmp_path / "absent"), "auto", None) is None
    assert "the run starts from the beginning" in lines[-1]
    run(tmp_path, iters=3)
    spoil(tmp_path / "iter_3" / "model.pdopt")
    with pytest.raises(RunError, match="none of its 1 checkpoints is whole"):
        choose_checkpoint(str(tmp_path), "auto", None)


def test_auto_goes_before_the_checkpoint_to_begin_with(tmp_path):
    run(tmp_path / "old", iters=3)
    run(tmp_path / "new", iters=2)
    old, new = str(tmp_path / "old" / "iter_3"), str(tmp_path / "new" / "iter_2")
    assert choose_checkpoint(str(tmp_path / "new"), "auto", old) == new
    assert choose_checkpoint(str(tmp_path / "absent"), "auto", old) == old
    assert choose_checkpoint(str(tmp_path / "new"), None, old + "/") == old


def test_a_link_stands_for_the_checkpoint_that_it_leads_to(tmp_path):
    run(tmp_path, iters=6)
    (tmp_path / "last").symlink_to("iter_6")
    chosen = choose_checkpoint(str(tmp_path), None, str(tmp_path / "last"))
    check_save_dir(str(tmp_path), chosen, False)
    open_save_dir(str(tmp_path), chosen)
    assert [path[-6:] for path in list_checkpoints(str(tmp_path))] == ["iter_3", "iter_6"]


def test_a_checkpoint_may_be_a_link(tmp_path):
    run(tmp_path / "run", iters=3)
    (tmp_path / "run" / "iter_3").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "iter_3").symlink_to(tmp_path / "elsewhere")
    run(tmp_path / "run", resume_model=tmp_path / "run" / "iter_3", keep_checkpoint_max=1)
    assert sorted(path.name for path in (tmp_path / "run").glob("iter_*")) == ["iter_6"]
    assert (tmp_path / "elsewhere" / "model.pdopt").exists()


def test_a_directory_that_another_process_writes_to_is_refused(tmp_path):
    code = ("import sys, time; sys.path.insert(0, sys.argv[1])\nfrom paddleseg.core.run_dir import lock\n"
            "lock(sys.argv[2]); print('locked', flush=True); time.sleep(60)")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with subprocess.Popen([sys.executable, "-c", code, root, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match="another run is writing there"):
            check_save_dir(str(tmp_path), None, True)
        other.kill()
    check_save_dir(str(tmp_path), None, False)


def test_a_recipe_in_the_save_directory_is_not_overwritten(tmp_path):
    (tmp_path / "config.yml").write_text("mine")
    with pytest.raises(RunError, match="the run writes its own config.yml there"):
        check_save_dir(str(tmp_path), None, False, str(tmp_path / "config.yml"))


def test_parameters_without_a_gradient_can_be_resumed(tmp_path):
    class Spare(TinyNet):
        def __init__(self):
            super().__init__()
            self.spare = paddle.nn.Linear(2, 2)

    def trained(iteration):
        model = Spare()
        optimizer = SGD(model, momentum=0.9)
        optimizer.set_lr(0.1)
        sum(logit.mean() for logit in model(paddle.randn([2, 3, 8, 8]))).backward()
        optimizer.step()
        return model, optimizer

    save_checkpoint(str(tmp_path), 1, *trained(1), {})
    assert load_checkpoint(str(tmp_path / "iter_1"), *trained(2))["without_slots"] == ["spare.bias", "spare.weight"]


def test_another_paddle_is_named(tmp_path, lines):
    run(tmp_path, iters=3)
    path = tmp_path / "iter_3" / "train_state.json"
    state = json.loads(path.read_text())
    state["versions"]["Paddle"] = "1.0"
    path.write_text(json.dumps(state))
    files.write_sums(str(path.parent))
    run(tmp_path, resume_model=path.parent)
    assert any("Paddle 1.0, now" in line for line in lines)


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
    common = {"do_eval": True, "val_dataset": Colors("val", 3)}
    whole, _ = run(tmp_path / "whole", **common)
    with pytest.raises(Interrupted, match=r"stopped by SIG\w+: iteration 4 of 6 is saved in .*iter_4; the same command "
                                          "with --resume auto goes on") as stopped:
        run(tmp_path / "run", dataset=Stopping(number, 7), **common)
    assert stopped.value.exit_code == 75
    state = json.loads((tmp_path / "run" / "iter_4" / "train_state.json").read_text())
    assert (state["epoch"], state["batch_of_epoch"], state["evaluation_due"]) == (1, 1, False)
    resumed, _ = run(tmp_path / "run", resume_model=tmp_path / "run" / "iter_4", **common)
    assert same(arrays(whole), arrays(resumed))
    assert [record["iter"] for record in records(tmp_path / "run", "eval")] == [3, 6]
    for name in ("model.pdparams", "score.json"):
        assert (tmp_path / "run" / "best_model" / name).read_bytes() == (
            tmp_path / "whole" / "best_model" / name).read_bytes()


def test_a_signal_ends_an_evaluation_at_once(tmp_path):
    with pytest.raises(Interrupted, match="iter_3 is saved, its evaluation will be made up for"):
        run(tmp_path, do_eval=True, val_dataset=Stopping(signal.SIGTERM, 2, "val", 3))
    assert [path.name for path in tmp_path.glob("*_*")] == ["iter_3"]
    assert not (tmp_path / "iter_3" / "score.json").exists()


def test_records_that_a_resumed_run_makes_again_are_dropped(tmp_path):
    run(tmp_path, iters=6, log_iters=1)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"mode": "train", "it')  # cut off by a crash
    run(tmp_path, resume_model=tmp_path / "iter_3", iters=5, log_iters=1)
    assert [record["iter"] for record in records(tmp_path, "train")] == [1, 2, 3, 4, 5]


def test_a_full_disk_is_one_line_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    class Full(Colors):
        def sample(self, index, rng):
            if len(list_checkpoints(str(tmp_path))) == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
            return super().sample(index, rng)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunError) as stopped:
            run(tmp_path, dataset=Full())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(r"iter_6 couldn't be saved: .*File too large; iter_3 is whole: make room and go on with --resume "
                     r"auto", str(stopped.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_3", "log.jsonl"]
    assert choose_checkpoint(str(tmp_path), "auto", None) == str(tmp_path / "iter_3")


def test_a_cut_off_evaluation_of_a_finished_run_is_made_up_for(tmp_path):
    run(tmp_path, iters=3)
    _, best = run(tmp_path, resume_model=tmp_path / "iter_3", iters=3, do_eval=True, val_dataset=Colors("val", 3))
    assert best is not None and (tmp_path / "best_model" / "model.pdparams").exists()


def test_what_a_crash_left_aside_is_put_back(tmp_path):
    run(tmp_path, iters=3, do_eval=True, val_dataset=Colors("val", 3))
    (tmp_path / "best_model").rename(tmp_path / "best_model.old")
    (tmp_path / "iter_3").rename(tmp_path / "iter_3.old")
    check_save_dir(str(tmp_path), str(tmp_path / "iter_3"), False)
    assert (tmp_path / "best_model" / "score.json").exists() and (tmp_path / "iter_3" / "score.json").exists()


def test_what_a_crash_left_half_written_is_removed(tmp_path):
    run(tmp_path, iters=3)
    (tmp_path / ".config.yml.12.tmp").write_text("half")
    (tmp_path / "iter_3" / ".score.json.12.tmp").write_text("half")
    (tmp_path / "iter_6.tmp").mkdir()
    open_save_dir(str(tmp_path), str(tmp_path / "iter_3"))
    assert not list(tmp_path.rglob("*.tmp")) and (tmp_path / "iter_3" / "model.pdopt").exists()


def test_every_output_needs_a_loss(tmp_path):
    with pytest.raises(ConfigError, match="loss.coef has 1 values, but the model has 2 outputs .loss_seg, loss_aux"):
        run(tmp_path, criteria=[(CrossEntropyLoss(), 1.0)])


@pytest.mark.parametrize("name", ["batch_size", "iters", "accum_iters", "save_interval", "log_iters",
                                  "keep_checkpoint_max", "repeats", "threads", "effective_batch"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} 0: must be at least 1"):
        TrainOptions(**{"batch_size": 1, "iters": 1, name: 0})


def test_every_iteration_and_rank_has_a_seed_of_its_own():
    seeds = {iteration_seed(42, iteration, rank) for iteration in range(1, 2000) for rank in range(8)}
    assert len(seeds) == 1999 * 8


def test_setup_logging_writes_to_the_file_too(tmp_path, capsys):
    from paddleseg.utils import logger
    setup_logging(0, str(tmp_path / "train.log"))
    logger.info("hello")
    setup_logging(1)
    logger.info("from rank 1")
    assert capsys.readouterr().out.endswith("[INFO]\thello\n")
    assert (tmp_path / "train.log").read_text().endswith("[INFO]\thello\n")


def test_what_was_logged_before_the_file_was_there_is_in_it(tmp_path, capsys):
    from paddleseg.utils import logger
    setup_logging(0)
    logger.info("early")
    setup_logging(0, str(tmp_path / "train.log"))
    logger.info("late")
    assert capsys.readouterr().out.count("early") == 1
    assert [line.split("\t")[1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["early", "late"]
    with pytest.raises(RunError, match="can't be written"):
        setup_logging(0, str(tmp_path))
