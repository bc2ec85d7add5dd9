import json
import subprocess

import numpy as np
import paddle
import pytest
from tiny import Colors, arrays, build, run

from paddleseg.core.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    optimizer_state,
    prune_checkpoints,
    save_checkpoint,
)
from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.utils import files
from paddleseg.weights.load import read_weights
from paddleseg.weights.write import write_weights


def trained(seed=0):
    """A model after one step, so that the optimizer has state."""
    model, optimizer = build(seed)
    optimizer.set_lr(0.1)
    sum(logit.mean() for logit in model(paddle.randn([2, 3, 8, 8]))).backward()
    optimizer.step()
    optimizer.clear_grad()
    return model, optimizer


def test_round_trip_is_exact_into_a_model_with_other_generated_names(tmp_path):
    model, optimizer = trained()
    path = save_checkpoint(str(tmp_path), 7, model, optimizer, {"epoch": 2})
    other, other_optimizer = trained(seed=5)
    names = {p.name for p in model.parameters()} & {p.name for p in other.parameters()}
    assert not names  # or this test shows nothing
    assert load_checkpoint(path, other, other_optimizer)["iter"] == 7
    for name, value in arrays(model).items():
        np.testing.assert_array_equal(arrays(other)[name], value)
    before, after = optimizer_state(model, optimizer), optimizer_state(other, other_optimizer)
    assert before.keys() == after.keys() and len(before) == 6
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_optimizer_state_is_named_after_the_parameters():
    assert set(optimizer_state(*trained())) == {f"{name}@velocity_0" for name in (
        "conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight", "head.bias")}


def test_paddle_and_paddleseg_read_the_weights(tmp_path):
    model, optimizer = trained()
    save_checkpoint(str(tmp_path), 1, model, optimizer, {})
    state = paddle.load(str(tmp_path / "iter_1" / "model.pdparams"))
    fresh, _ = build(9)
    fresh.set_state_dict(state)
    assert all(np.array_equal(value, arrays(model)[name]) for name, value in arrays(fresh).items())


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "train_state.json"])
def test_an_incomplete_checkpoint_is_refused(tmp_path, name):
    save_checkpoint(str(tmp_path), 1, *trained(), {})
    (tmp_path / "iter_1" / name).unlink()
    with pytest.raises(RunError, match=f"can't resume, {name} is missing"):
        load_checkpoint(str(tmp_path / "iter_1"), *trained())


def test_optimizer_state_of_another_model_is_refused(tmp_path):
    save_checkpoint(str(tmp_path), 1, *trained(), {})
    state = read_weights(str(tmp_path / "iter_1" / "model.pdopt"))
    state["tail.weight@velocity_0"] = state.pop("head.weight@velocity_0")
    write_weights(str(tmp_path / "iter_1" / "model.pdopt"), state)
    files.write_sums(str(tmp_path / "iter_1"))
    with pytest.raises(WeightsError, match="belongs to another model; 2 parameters differ"):
        load_checkpoint(str(tmp_path / "iter_1"), *trained())


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "train_state.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    save_checkpoint(str(tmp_path), 1, *trained(), {})
    content = (tmp_path / "iter_1" / name).read_bytes()
    (tmp_path / "iter_1" / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=f"can't resume, {name} is damaged"):
        load_checkpoint(str(tmp_path / "iter_1"), *trained())


@pytest.mark.parametrize("text", ['{"iter"', "[]", "{}", '{"iter": -1}', '{"iter": "1"}'])
def test_a_state_without_an_iteration_is_refused(tmp_path, text):
    save_checkpoint(str(tmp_path), 1, *trained(), {})
    (tmp_path / "iter_1" / "train_state.json").write_text(text)
    files.write_sums(str(tmp_path / "iter_1"))
    with pytest.raises(RunError, match="train_state.json"):
        load_checkpoint(str(tmp_path / "iter_1"), *trained())


def test_sha256sum_agrees(tmp_path):
    save_checkpoint(str(tmp_path), 1, *trained(), {})
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "iter_1").returncode == 0


def test_what_a_crash_leaves_is_no_checkpoint(tmp_path):
    for name in ("iter_5", "iter_10", "iter_7.tmp", "iter_7.old", "best_model", "iter_x"):
        (tmp_path / name).mkdir()
    assert [path[-6:].strip("/") for path in list_checkpoints(str(tmp_path))] == ["iter_5", "ter_10"]
    prune_checkpoints(str(tmp_path), keep=1, iteration=10)
    assert not (tmp_path / "iter_5").exists() and (tmp_path / "iter_10").exists()


def test_saving_twice_replaces(tmp_path):
    save_checkpoint(str(tmp_path), 1, *trained(0), {"epoch": 1})
    save_checkpoint(str(tmp_path), 1, *trained(1), {"epoch": 2})
    assert json.loads((tmp_path / "iter_1" / "train_state.json").read_text())["epoch"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_1"]


def test_the_best_model_is_the_one_that_scored(tmp_path):
    run(tmp_path, iters=4, save_interval=1, do_eval=True, val_dataset=Colors("val", 3))
    score = json.loads((tmp_path / "best_model" / "score.json").read_text())
    best = read_weights(str(tmp_path / "best_model" / "model.pdparams"))
    saved = read_weights(str(tmp_path / f"iter_{score['iter']}" / "model.pdparams"))
    assert all(np.array_equal(best[name], saved[name]) for name in saved)
    assert score["miou"] == max(json.loads(line)["mIoU"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
                                if '"eval"' in line)
