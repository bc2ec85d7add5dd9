import json
import types

import numpy as np
import paddle
import pytest
from tiny import Colors, TinyNet, arrays, build, run

from paddleseg.core.ema import ModelEma
from paddleseg.core.val import evaluate
from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.weights.load import load_into, read_weights

VAL = Colors("val", 3)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_equals_the_recurrence():
    """PaddleSeg's: a = d a + (1 - d) w with d = min(1 - 1 / (t + 1), 0.999)."""
    model, optimizer = build()
    ema, expected = ModelEma(model), arrays(model)
    rng = np.random.default_rng(0)
    for iteration in (1, 2, 3, 998, 999, 5000):
        for parameter in model.state_dict().values():
            parameter.set_value(rng.normal(size=parameter.shape).astype("float32"))
        ema.update(model, optimizer, iteration)
        decay = min(1 - 1 / (iteration + 1), 0.999)
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in arrays(model).items()}
    for name, value in ema.state(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6)
    assert {"norm._mean", "norm._variance"} <= ema.state(model).keys()


def test_the_model_gets_its_own_weights_back_after_an_error_too():
    model, _ = build()
    ema, before = ModelEma(model), arrays(model)
    model.conv.weight.set_value(np.ones(model.conv.weight.shape, "float32"))
    own, kept = arrays(model), ema.state(model)
    with pytest.raises(RunError), ema.apply_to(model):
        assert same(arrays(model), before)
        model.norm._mean.set_value(np.full([8], 7.0, "float32"))
        raise RunError("stopped")
    assert same(arrays(model), own) and same(ema.state(model), kept)


def test_half_precision_is_averaged_from_the_masters():
    model = paddle.nn.Linear(2, 1)
    ema, weight = ModelEma(model), model.weight
    weight.get_tensor()  # on the device
    master = paddle.full(weight.shape, 1 + 2 ** -13)  # which float16 doesn't hold
    before = ema.state(model)["weight"]
    ema.update(model, types.SimpleNamespace(_master_weights={weight.name: master}), 1)
    np.testing.assert_allclose(ema.state(model)["weight"], (before + 1 + 2 ** -13) / 2, rtol=1e-7)


def test_a_run_without_averages_is_not_changed_by_them(tmp_path):
    plain, averaging = (arrays(run(tmp_path / str(use), use_ema=use)[0]) for use in (False, True))
    assert same(plain, averaging)
    assert not (tmp_path / "False" / "iter_6" / "ema_model.pdparams").exists()
    averages, weights = (read_weights(str(tmp_path / "True" / "iter_6" / name))
                         for name in ("ema_model.pdparams", "model.pdparams"))
    assert averages.keys() == weights.keys() and not same(averages, weights)


def test_both_are_evaluated_and_the_best_of_each_is_kept(tmp_path):
    run(tmp_path, iters=12, use_ema=True, do_eval=True, val_dataset=VAL)
    evals = [record for record in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
             if record["mode"] == "eval"]
    best = json.loads((tmp_path / "best_model" / "score.json").read_text())
    assert best["miou"] == max(record["mIoU"] for record in evals)
    assert best["ema"]["miou"] == max(record["Ema_mIoU"] for record in evals)
    model = TinyNet()
    for name, score in (("model.pdparams", best), ("ema_model.pdparams", best["ema"])):
        load_into(model, read_weights(str(tmp_path / "best_model" / name)), name)
        assert evaluate(model, VAL).miou == score["miou"]


def test_averages_that_begin_late_or_belong_to_another_model_are_named(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.warning", lines.append)
    run(tmp_path, iters=3)
    run(tmp_path, resume_model=tmp_path / "iter_3", use_ema=True)
    assert any("iter_3 has no averaged weights" in line for line in lines)
    with pytest.raises(WeightsError, match="iter_6: .*weight is missing or has another shape"):
        ModelEma(paddle.nn.Linear(2, 1)).restore(arrays(TinyNet()), "iter_6")
