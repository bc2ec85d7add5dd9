"""Mixed precision: its rules and what a CPU can compute; the rest runs where there is a GPU."""

import json
import logging
import warnings

import numpy as np
import paddle
import paddle.nn as nn
import pytest
from tiny import Colors, TinyNet, run

from paddleseg.core.optim import SGD
from paddleseg.core.precision import LossScale, MixedPrecision, float32_weights
from paddleseg.core.state import optimizer_state
from paddleseg.cvlibs.errors import RunError
from paddleseg.models import EncNet
from paddleseg.models.backbones import ResNet18_vd
from paddleseg.models.layers import Encoding
from paddleseg.models.losses import CrossEntropyLoss, SELoss
from paddleseg.weights.load import read_weights

HALVES = {"fp16": "float16", "bf16": "bfloat16"}
TOLERANCES = {"fp16": 0.02, "bf16": 0.04}  # of losses after 20 steps
KINDS = [("fp16", "O1"), ("bf16", "O1"), ("fp16", "O2"), ("bf16", "O2")]
CRITERIA = {"seg": CrossEntropyLoss(), "aux": CrossEntropyLoss(), "se": SELoss()}


def encnet():
    paddle.seed(1)
    return EncNet(3, ResNet18_vd(base_channels=8), num_codes=4, mid_channels=16)


def batch(index):
    """Class c is where channel c is brightest."""
    image = np.random.default_rng(index).normal(size=(4, 3, 64, 64)).astype("float32")
    return paddle.to_tensor(image), paddle.to_tensor(image.argmax(axis=1).astype("int64"))


def one_step(model, optimizer, mixed, index, factor=1.0):
    """A step as the training loop makes it; returns the loss and whether the parameters were updated."""
    paddle.seed(index)
    optimizer.set_lr(0.01)
    image, label = batch(index)
    with mixed.autocast():
        logits = model(image)
    loss = sum(CRITERIA[name](logit, label) for name, logit in zip(model.loss_names, logits))
    mixed.backward(loss * factor)
    return loss.item(), mixed.step(optimizer)


def everything(model, optimizer):
    """Weights and the optimizer's state by the model's names."""
    return {**float32_weights(model, optimizer), **optimizer_state(model, optimizer)}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.mark.parametrize("precision, level", [("fp16", "O1"), ("bf16", "O1"), ("fp16", "O2")])
def test_a_cpu_says_so_in_one_line_and_trains_in_fp32(precision, level, caplog):
    ends = []
    for options in (), (precision, level, "cpu"):
        with warnings.catch_warnings(), caplog.at_level(logging.INFO, "paddleseg"):
            warnings.filterwarnings("error", ".*can only be enabled")  # Paddle's own, at every iteration
            mixed = MixedPrecision(*options)
            paddle.seed(1)
            model = TinyNet()
            optimizer = SGD(model, momentum=0.9)
            mixed.prepare(model, optimizer)
            for index in range(2):
                assert one_step(model, optimizer, mixed, index)[1]
            assert all(parameter.grad is None for parameter in model.parameters())
            mixed.restore(mixed.state())
            with mixed.evaluation():
                model(batch(0)[0])
        assert mixed.state() == {} and mixed.loss_scale == 1.0
        ends.append(everything(model, optimizer))
    assert_equal(*ends)
    assert [precision in record.message and "CPU" in record.message for record in caplog.records] == [True]


def test_a_checkpoint_in_fp16_is_named_where_training_is_not(caplog):
    MixedPrecision().restore({"loss_scale": 1024.0, "steps_since_change": 7})
    assert "fp16" in caplog.records[0].message
    MixedPrecision().restore({})
    assert len(caplog.records) == 1


def test_the_loss_scale_adapts_and_goes_on_from_a_checkpoint(monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH_STEPS", 3)
    updated = [index not in (2, 9) for index in range(10)]

    def scales_of(steps, scale):
        return [(scale.update(step), np.log2(scale.value))[1] for step in steps]

    whole = LossScale()
    assert scales_of(updated, whole) == [16, 16, 15, 15, 15, 16, 16, 16, 17, 16]
    first, second = LossScale(), LossScale()
    scales_of(updated[:5], first)
    second.restore(json.loads(json.dumps(first.state())))
    assert first.state() == {"loss_scale": 32768.0, "steps_since_change": 2}
    scales_of(updated[5:], second)
    assert second.state() == whole.state()


def test_a_run_that_skips_every_step_ends():
    scale = LossScale()
    for _ in range(16):
        assert scale.update(False)
    with pytest.raises(RunError, match="infinite or NaN at every loss scale"):
        scale.update(False)


@pytest.mark.parametrize("half", HALVES.values())
def test_encoding_computes_in_float32_whatever_it_gets(half):
    layer, exact = Encoding(6, 4), Encoding(6, 4)
    layer.to(dtype=half)
    exact.set_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    x = paddle.to_tensor(np.random.default_rng(0).normal(0, 30, (2, 6, 20, 20)).astype("float32")).astype(half)
    x.stop_gradient = False
    codes = layer(x)
    assert codes.dtype == paddle.float32
    np.testing.assert_array_equal(codes.numpy(), exact(x.astype("float32")).numpy())
    codes.square().mean().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.dtype == tensor.dtype != paddle.float32
        gradient = tensor.grad.astype("float32").numpy()
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("half", HALVES.values())
@pytest.mark.parametrize("criterion, shape", [(CrossEntropyLoss(weight=[1.0, 2.0, 0.5]), (2, 3, 40, 40)),
                                              (SELoss(), (2, 3))])
def test_losses_compute_in_float32_whatever_they_get(criterion, shape, half):
    """The sum over these pixels, above 65504, would be infinite in fp16."""
    logit = paddle.to_tensor(np.random.default_rng(0).normal(0, 300, shape).astype("float32")).astype(half)
    logit.stop_gradient = False
    label = paddle.to_tensor(np.random.default_rng(1).integers(0, 3, (2, 40, 40)))
    loss = criterion(logit, label)
    assert loss.dtype == paddle.float32
    assert loss.item() == criterion(logit.detach().astype("float32"), label).item() > 30
    loss.backward()
    assert np.isfinite(logit.grad.astype("float32").numpy()).all()


# ---- on a GPU --------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()),
                               reason="Paddle's mixed precision needs a GPU, and there is none here")


@pytest.fixture(params=KINDS, ids=str)
def gpu_kind(request):
    """A precision and level, with the GPU chosen."""
    if request.param[0] == "bf16" and paddle.device.cuda.get_device_capability() < (8, 0):
        pytest.skip("bf16 needs compute capability 8.0")
    before = paddle.get_device()
    paddle.set_device("gpu:0")
    paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    yield request.param
    paddle.set_flags({"FLAGS_cudnn_deterministic": False})
    paddle.set_device(before)


def build(kind):
    model, mixed = encnet(), MixedPrecision(*kind, paddle.get_device())
    optimizer = SGD(model, momentum=0.9)
    mixed.prepare(model, optimizer)
    if mixed.state():
        mixed.restore({"loss_scale": 64.0, "steps_since_change": 0})  # so low that no step is skipped
    return model, optimizer, mixed


@needs_gpu
def test_training_on_a_gpu_stays_near_fp32(gpu_kind):
    losses = []
    for kind in ("fp32", "O1"), gpu_kind:
        model, optimizer, mixed = build(kind)
        found, updated = zip(*[one_step(model, optimizer, mixed, 0) for _ in range(20)])
        losses.append(found)
        assert all(updated)
        model.eval()
        with mixed.evaluation():
            assert np.isfinite(model(batch(0)[0])[0].astype("float32").numpy()).all()
    assert losses[0] != losses[1] and losses[1][-1] < losses[1][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=TOLERANCES[gpu_kind[0]])


@needs_gpu
def test_what_a_gpu_computes_in(gpu_kind):
    model, optimizer, mixed = build(gpu_kind)
    half, seen = paddle.float16 if gpu_kind[0] == "fp16" else paddle.bfloat16, {}
    for layer in model.sublayers():
        for parameter in layer.parameters(include_sublayers=False):
            cast = gpu_kind[1] == "O2" and isinstance(layer, (nn.Conv2D, nn.Linear))
            assert parameter.dtype == (half if cast else paddle.float32)
    watched = {"conv": model.backbone.conv1_1._conv, "encoding": model.enc_module.encoding[0],
               "code norm": model.enc_module.encoding[1]}
    for name, layer in watched.items():
        layer.register_forward_post_hook(
            lambda layer, inputs, output, name=name: seen.update({name: (inputs[0].dtype, output.dtype)}))
    with mixed.autocast():
        logits = model(batch(0)[0])
    assert seen["conv"][1] == half and seen["encoding"][1] == paddle.float32
    assert seen["code norm"] == (paddle.float32, paddle.float32)
    assert logits[0].dtype == logits[1].dtype == paddle.float32  # resized


@needs_gpu
def test_a_gpu_skips_what_overflows(gpu_kind):
    model, optimizer, mixed = build(gpu_kind)
    if gpu_kind[0] != "fp16":
        pytest.skip("only fp16 scales its losses")
    one_step(model, optimizer, mixed, 0)
    before = everything(model, optimizer)["head.weight"]
    assert not one_step(model, optimizer, mixed, 1, factor=float("inf"))[1] and mixed.loss_scale == 32
    np.testing.assert_array_equal(everything(model, optimizer)["head.weight"], before)


@needs_gpu
def test_a_run_on_a_gpu_goes_on_exactly_and_its_checkpoints_serve_every_precision(gpu_kind, tmp_path):
    kwargs = {"accum_iters": 2, "do_eval": True, "use_ema": True, "val_dataset": Colors("val", 4)}
    half = {"precision": gpu_kind[0], "amp_level": gpu_kind[1]}
    run(tmp_path / "whole", **half, **kwargs)
    run(tmp_path / "parts", resume_model=tmp_path / "whole" / "iter_3", model_seed=5, **half, **kwargs)
    for name in ("model.pdparams", "ema_model.pdparams", "model.pdopt"):
        one, other = (read_weights(str(tmp_path / part / "iter_6" / name)) for part in ("whole", "parts"))
        assert_equal(one, other)
        assert {value.dtype.name for value in one.values()} == {"float32"}
    one, other = (json.loads((tmp_path / part / "iter_6" / "train_state.json").read_text())["loss_scaling"]
                  for part in ("whole", "parts"))
    assert one == other and bool(one) == (gpu_kind[0] == "fp16")
    run(tmp_path / "fp32", resume_model=tmp_path / "whole" / "iter_3", **kwargs)
    one, other = (read_weights(str(tmp_path / part / "iter_6" / "model.pdparams")) for part in ("whole", "fp32"))
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=0.02, err_msg=name)
