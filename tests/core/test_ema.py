import json
import shutil
import types

import numpy as np
import paddle
import pytest
from tiny import Colors, TinyNet, arrays, build, run

from paddleseg.core import checkpoint
from paddleseg.core.ema import AveragedWeights
from paddleseg.core.resume import averaged_weights
from paddleseg.core.run_dir import open_save_dir
from paddleseg.core.val import evaluate
from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.weights.load import load_into, read_weights

VAL = Colors("val", 3)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def averages_of(directory):
    return read_weights(str(directory / "ema_model.pdparams"))


def test_equals_the_recurrence():
    """PaddleSeg's: a = d a + (1 - d) w with d = min(1 - 1 / (t + 1), 0.999)."""
    model, optimizer = build()
    averaged, expected = AveragedWeights(model), arrays(model)
    rng = np.random.default_rng(0)
    for iteration in (1, 2, 3, 998, 999, 5000):
        for parameter in model.state_dict().values():
            parameter.set_value(rng.normal(size=parameter.shape).astype("float32"))
        averaged.update(model, optimizer, iteration)
        decay = min(1 - 1 / (iteration + 1), 0.999)
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in arrays(model).items()}
    for name, value in averaged.state(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)
    assert {"norm._mean", "norm._variance"} <= averaged.state(model).keys()


def test_the_model_gets_its_own_weights_back_after_an_error_too():
    model, optimizer = build()
    averaged, before = AveragedWeights(model), arrays(model)
    model.conv.weight.set_value(np.ones(model.conv.weight.shape, "float32"))
    own, kept = arrays(model), averaged.state(model)
    with pytest.raises(RunError), averaged.in_place_of(model):
        assert same(arrays(model), before)
        model.norm._mean.set_value(np.full([8], 7.0, "float32"))
        raise RunError("stopped")
    assert same(arrays(model), own) and same(averaged.state(model), kept)


def test_half_precision_is_averaged_from_the_masters():
    model = paddle.nn.Linear(2, 1)
    averaged, weight = AveragedWeights(model), model.weight
    weight.get_tensor()  # on the device
    master = paddle.full(weight.shape, 1 + 2 ** -13)  # which float16 doesn't hold
    before = averaged.state(model)["weight"]
    averaged.update(model, types.SimpleNamespace(_master_weights={weight.name: master}), 1)
    np.testing.assert_allclose(averaged.state(model)["weight"], (before + 1 + 2 ** -13) / 2, rtol=1e-7)


def test_a_run_without_averages_is_not_changed_by_them(tmp_path):
    plain, averaging = (arrays(run(tmp_path / str(use), use_ema=use)[0]) for use in (False, True))
    assert same(plain, averaging)
    assert not (tmp_path / "False" / "iter_6" / "ema_model.pdparams").exists()


@pytest.mark.parametrize("changes", [{}, {"accum_iters": 2}, {"do_eval": True, "val_dataset": VAL}], ids=str)
def test_a_resumed_run_has_the_averages_of_an_uninterrupted_one(tmp_path, changes):
    run(tmp_path / "whole", use_ema=True, **changes)
    run(tmp_path / "parts", iters=3, use_ema=True, **changes)
    run(tmp_path / "parts", resume_model=tmp_path / "parts" / "iter_3", model_seed=99, use_ema=True, **changes)
    for name in ("model.pdparams", "ema_model.pdparams", "model.pdopt"):
        one, other = ((tmp_path / part / "iter_6" / name).read_bytes() for part in ("whole", "parts"))
        assert one == other, name
    averages, weights = averages_of(tmp_path / "parts" / "iter_6"), read_weights(
        str(tmp_path / "parts" / "iter_6" / "model.pdparams"))
    assert averages.keys() == weights.keys() and not same(averages, weights)


def test_both_are_evaluated_and_the_best_of_each_is_kept(tmp_path):
    run(tmp_path, iters=12, use_ema=True, do_eval=True, val_dataset=VAL)
    evals = [record for record in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
             if record["mode"] == "eval"]
    best = checkpoint.best_score(str(tmp_path))
    assert best["miou"] == max(record["mIoU"] for record in evals)
    assert best["ema"]["miou"] == max(record["Ema_mIoU"] for record in evals)
    model = TinyNet()
    for name, score in (("model.pdparams", best), ("ema_model.pdparams", best["ema"])):
        load_into(model, read_weights(str(tmp_path / "best_model" / name)), name)
        assert evaluate(model, VAL).miou == score["miou"]


def test_the_best_averages_stay_when_the_model_gets_better_and_the_reverse(tmp_path):
    model, optimizer = build()
    averaged = AveragedWeights(model)
    model.conv.weight.set_value(np.ones(model.conv.weight.shape, "float32"))
    first, later = ({"iter": number, "miou": number / 10, "accuracy": 1.0} for number in (1, 2))
    checkpoint.save_best(str(tmp_path), model, optimizer, first)
    checkpoint.save_best(str(tmp_path), model, optimizer, first, averaged)
    kept = averages_of(tmp_path / "best_model")
    averaged.update(model, optimizer, 1)
    checkpoint.save_best(str(tmp_path), model, optimizer, later)
    assert checkpoint.best_score(str(tmp_path)) == {**later, "ema": first}
    assert same(averages_of(tmp_path / "best_model"), kept)
    checkpoint.save_best(str(tmp_path), model, optimizer, later, averaged)
    assert checkpoint.best_score(str(tmp_path)) == {**later, "ema": later}
    assert same(averages_of(tmp_path / "best_model"), averaged.state(model))


def test_damaged_averages_are_found_before_a_run_goes_on(tmp_path):
    run(tmp_path, use_ema=True)
    path = tmp_path / "iter_6" / "ema_model.pdparams"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert checkpoint.newest(str(tmp_path)) == str(tmp_path / "iter_3")
    with pytest.raises(RunError, match="ema_model.pdparams is damaged"):
        checkpoint.verify(str(tmp_path / "iter_6"))
    path.unlink()
    with pytest.raises(RunError, match="ema_model.pdparams is missing"):
        checkpoint.verify(str(tmp_path / "iter_6"))


def test_averages_that_begin_late_or_belong_to_another_model_are_named(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.warning", lines.append)
    run(tmp_path, iters=3)
    run(tmp_path, resume_model=tmp_path / "iter_3", use_ema=True)
    assert any("iter_3 has no averaged weights; they begin with" in line for line in lines)
    with pytest.raises(WeightsError, match="belong to another model; weight is missing or has another shape"):
        averaged_weights(paddle.nn.Linear(2, 1), types.SimpleNamespace(directory=str(tmp_path / "iter_6")))


def test_the_best_averages_of_a_discarded_future_do_not_count(tmp_path, monkeypatch):
    """Those of iteration 6 would keep any that the resumed run finds before it from being saved."""
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.warning", lines.append)
    run(tmp_path, use_ema=True, do_eval=True, val_dataset=VAL)
    model, optimizer = build()
    first = {"iter": 3, "miou": 0.1, "accuracy": 1.0}
    checkpoint.save_best(str(tmp_path), model, optimizer, first)
    checkpoint.save_best(str(tmp_path), model, optimizer, {"iter": 6, "miou": 2.0, "accuracy": 1.0},
                         AveragedWeights(model))
    kept = (tmp_path / "best_model" / "model.pdparams").read_bytes()
    shutil.rmtree(tmp_path / "iter_6")
    open_save_dir(str(tmp_path), str(tmp_path / "iter_3"))
    assert checkpoint.best_score(str(tmp_path)) == first
    assert any("come after iteration 3; they" in line for line in lines)
    assert sorted(path.name for path in (tmp_path / "best_model").iterdir()) == [
        "SHA256SUMS", "model.pdparams", "score.json"]
    assert (tmp_path / "best_model" / "model.pdparams").read_bytes() == kept
    assert checkpoint.damage_of_best(str(tmp_path)) is None
    assert (tmp_path / "best_model.of_another_run" / "ema_model.pdparams").exists()
    run(tmp_path, resume_model=tmp_path / "iter_3", use_ema=True, do_eval=True, val_dataset=VAL)
    assert checkpoint.best_score(str(tmp_path))["ema"]["iter"] == 6


def test_damaged_best_averages_are_set_aside_and_not_signed_anew(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.warning", lines.append)
    run(tmp_path, use_ema=True, do_eval=True, val_dataset=VAL, iters=3)
    path = tmp_path / "best_model" / "ema_model.pdparams"
    path.write_bytes(path.read_bytes()[:-1])
    open_save_dir(str(tmp_path), str(tmp_path / "iter_3"))
    assert any("ema_model.pdparams is damaged" in line and "set aside as best_model.damaged" in line for line in lines)
    assert not (tmp_path / "best_model").exists()
