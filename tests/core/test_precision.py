"""Mixed precision: its wiring and its rules on a CPU that passes for a GPU, its numbers where there is one.

On a CPU Paddle neither casts nor scales. `pretend_gpu` lets Paddle's own GradScaler, decorate, auto_cast and optimizers
run there all the same; the few kernels that a CPU lacks in half precision are written out here.
"""

import contextlib
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn as nn
import pytest
from tiny import Colors, TinyNet, run

from paddleseg.core import checkpoint
from paddleseg.core.optim import SGD, AdamW
from paddleseg.core.precision import MixedPrecision, check_precision, float32_weights
from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.models import EncNet
from paddleseg.models.backbones import ResNet18_vd
from paddleseg.models.layers import Encoding
from paddleseg.models.losses import CrossEntropyLoss, SELoss
from paddleseg.weights.load import load_into, read_weights
from paddleseg.weights.write import write_weights

HALVES = {"fp16": "float16", "bf16": "bfloat16"}
TOLERANCES = {"fp16": 0.02, "bf16": 0.04}  # of losses; three times what the simulated rounding does in 20 steps
OFF = paddle.base.core.AmpLevel.O0


class GpuTracer:
    """Takes the place of Paddle's tracer: says it is on a GPU, and keeps what an autocast sets."""

    def __init__(self):
        no = lambda: False  # noqa: E731
        self._expected_place = SimpleNamespace(is_gpu_place=lambda: True, is_xpu_place=no, is_custom_place=no)
        self._amp_level, self._amp_dtype, self._use_promote, self.lists = OFF, "float32", True, (set(), set())

    def _get_amp_op_list(self):
        return self.lists

    def _set_amp_op_list(self, *lists):
        self.lists = lists

    def rounded(self, function):
        """A product that reads and returns half precision inside an autocast, as the operators in the white list do."""
        def to_half(value):
            is_tensor = isinstance(value, paddle.Tensor)
            return value.astype(self._amp_dtype).astype("float32") if is_tensor and self._amp_level != OFF else value

        return lambda *args, **kwargs: to_half(function(*map(to_half, args),
                                                        **{key: to_half(value) for key, value in kwargs.items()}))


def momentum_with_masters(param, grad, velocity, lr, master, mu, nesterov, method, coeff, multi_precision, rescale):
    """What the GPU's kernel does where there are masters."""
    if master is None:
        return paddle._C_ops.momentum_(param, grad, velocity, lr, master, mu, nesterov, method, coeff, multi_precision,
                                       rescale)
    gradient = grad.astype("float32") * rescale + (coeff * master if method == "l2_decay" else 0.0)
    velocity.set_value(mu * velocity + gradient)
    master.set_value(master - lr * velocity)
    param.set_value(master.astype(param.dtype))


def check_finite_and_unscale(grads, scale, outputs, found):
    unscaled = [grad.astype("float32") / scale for grad in grads]
    for output, value in zip(outputs, unscaled):
        output.set_value(value.astype(output.dtype))
    found.set_value(np.array([not all(np.isfinite(value.numpy()).all() for value in unscaled)]))


@contextlib.contextmanager
def pretend_gpu(rounds=True):
    """Let mixed precision run on this CPU; `rounds` makes convolutions and linear layers compute in half precision."""
    tracer = GpuTracer()
    auto_cast, grad_scaler = (sys.modules[f"paddle.amp.{name}"] for name in ("auto_cast", "grad_scaler"))
    functional = paddle.nn.functional
    with pytest.MonkeyPatch.context() as patch:
        for module in auto_cast, grad_scaler:
            patch.setattr(module, "_dygraph_tracer", lambda: tracer)
        for name in "_is_gpu_float16_supported", "_is_gpu_bfloat16_supported":
            patch.setattr(auto_cast, name, lambda: True)
        patch.setattr(paddle.device.cuda, "get_device_capability", lambda: (8, 0))
        patch.setattr(grad_scaler, "_legacy_C_ops", SimpleNamespace(check_finite_and_unscale=check_finite_and_unscale))
        patch.setattr(paddle.optimizer.momentum, "_C_ops", SimpleNamespace(momentum_=momentum_with_masters))
        if rounds:
            patch.setattr(functional.conv, "_conv_nd", tracer.rounded(functional.conv._conv_nd))
            patch.setattr(functional, "linear", tracer.rounded(functional.linear))
        yield tracer


@pytest.fixture
def gpu():
    with pretend_gpu() as tracer:
        yield tracer


def encnet(seed=1):
    paddle.seed(seed)
    return EncNet(3, ResNet18_vd(base_channels=8), num_codes=4, mid_channels=16)


def tiny_net(seed=1):
    paddle.seed(seed)
    return TinyNet()


CRITERIA = {"seg": CrossEntropyLoss(), "aux": CrossEntropyLoss(), "se": SELoss()}


def batch(index):
    """Class c is where channel c is brightest."""
    image = np.random.default_rng(index).normal(size=(4, 3, 64, 64)).astype("float32")
    return paddle.to_tensor(image), paddle.to_tensor(image.argmax(axis=1).astype("int64"))


def one_step(model, optimizer, precision, index, accum_iters=1, spoil=1.0):
    """A step as the training loop makes it; returns the loss and whether the parameters were updated."""
    paddle.seed(index)
    optimizer.set_lr(0.01)
    names, total = getattr(model, "_layers", model).loss_names, 0.0
    for part in range(accum_iters):
        image, label = batch(index * accum_iters + part)
        with precision.autocast():
            logits = model(image)
        loss = sum(CRITERIA[name](logit, label) for name, logit in zip(names, logits))
        precision.backward(loss / accum_iters * spoil)
        total += loss.item()
    return total / accum_iters, precision.step(optimizer)


def start_low(mixed):
    """Begin where fp16 doesn't overflow, so that no step is skipped."""
    if mixed.state():
        mixed.restore({"loss_scale": 64.0, "steps_since_change": 0})


def updated_losses(model, optimizer, mixed, count):
    """Of steps on one batch, none of them skipped."""
    losses, updated = zip(*[one_step(model, optimizer, mixed, 0) for _ in range(count)])
    assert all(updated)
    return list(losses)


def everything(model, optimizer):
    """Weights and the optimizer's state by the model's names."""
    return {**float32_weights(model, optimizer), **checkpoint.optimizer_state(model, optimizer)}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


# Options, and the CPU.

@pytest.mark.parametrize("precision, level, named", [
    ("fp8", "O1", "precision 'fp8' must be one of fp32, fp16, bf16"), ("fp16", "O3", "amp_level 'O3' must be one of"),
    ("fp32", "O2", "only with precision")])
def test_what_there_is_not_is_refused(precision, level, named):
    for refuse in check_precision, MixedPrecision:
        with pytest.raises(ConfigError, match=named):
            refuse(precision, level)


@pytest.mark.parametrize("precision, level", [("fp16", "O1"), ("bf16", "O1"), ("fp16", "O2")])
def test_a_cpu_says_so_in_one_line_and_trains_in_fp32(precision, level, caplog):
    ends = []
    for options in (), (precision, level, "cpu"):
        with warnings.catch_warnings(), caplog.at_level(logging.INFO, "paddleseg"):
            warnings.filterwarnings("error", ".*can only be enabled")  # Paddle's own, at every iteration
            mixed = MixedPrecision(*options)
            model = tiny_net()
            optimizer = SGD(model, momentum=0.9)
            mixed.prepare(model, optimizer)
            for index in range(2):
                assert one_step(model, optimizer, mixed, index)[1]
            mixed.restore(mixed.state())
            with mixed.evaluation():
                model(batch(0)[0])
        assert mixed.state() == {} and mixed.loss_scale == 1.0
        ends.append(everything(model, optimizer))
    assert_equal(*ends)
    assert [record.message for record in caplog.records] == [
        f"precision {precision}: Paddle's mixed precision does nothing on a CPU; training in fp32"]


@pytest.mark.parametrize("precision, capability, possible", [
    ("bf16", (7, 5), "fp32 or fp16"), ("fp16", (6, 1), "fp32"), ("bf16", (6, 1), "fp32")])
def test_a_gpu_that_is_too_old_is_refused(precision, capability, possible, gpu, monkeypatch):
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(RunError, match=f"{capability[0]}.{capability[1]}, hasn't got it; take {possible}$"):
        MixedPrecision(precision, "O1", "gpu:0")
    MixedPrecision("fp32", "O1", "gpu:0")


# The order of things.

class Recorder:
    """Notes calls, in order, and passes them on."""

    def __init__(self):
        self.calls = []

    def watch(self, patch, owner, method, name=None):
        original = getattr(owner, method)

        def noted(*args, **kwargs):
            self.calls.append(name or method)
            return original(*args, **kwargs)

        patch.setattr(owner, method, noted)


def test_the_order_of_a_step(gpu, monkeypatch):
    model, recorder = tiny_net(), Recorder()
    optimizer, mixed = SGD(model, momentum=0.9), MixedPrecision("fp16", "O1", "gpu:0")
    levels = []
    model.register_forward_pre_hook(lambda layer, inputs: levels.append((str(gpu._amp_level), gpu._amp_dtype)))
    loss = CrossEntropyLoss()
    loss.register_forward_pre_hook(lambda layer, inputs: levels.append((str(gpu._amp_level), gpu._amp_dtype)))
    monkeypatch.setitem(CRITERIA, "aux", loss)
    for owner, method in ((mixed._scaler, "scale"), (paddle.Tensor, "backward"), (mixed._scaler, "_unscale"),
                          (optimizer, "step"), (optimizer, "clear_grad"), (mixed, "_adapt")):
        recorder.watch(monkeypatch, owner, method)
    assert one_step(model, optimizer, mixed, 0, accum_iters=2)[1]
    assert recorder.calls == ["scale", "backward"] * 2 + ["_unscale", "step", "clear_grad", "_adapt"]
    assert levels == [("AmpLevel.O1", "float16"), ("AmpLevel.O0", "float32")] * 2


@pytest.mark.parametrize("accum_iters", [1, 2])
def test_scaling_changes_no_bit(accum_iters):
    """Scales are powers of two; without rounded products, then, a run in fp16 is that in fp32, accumulated or not."""
    ends = []
    for options in (), ("fp16", "O1", "gpu:0"):
        with pretend_gpu(rounds=False):
            model, mixed = tiny_net(), MixedPrecision(*options)
            optimizer = SGD(model, momentum=0.9, weight_decay=1e-4)
            for index in range(3):
                one_step(model, optimizer, mixed, index, accum_iters)
        ends.append(everything(model, optimizer))
    assert mixed.loss_scale == 65536
    assert_equal(*ends)


# Steps that are skipped.

@pytest.mark.parametrize("make_optimizer", [lambda model: SGD(model, momentum=0.9, weight_decay=0.1), AdamW])
@pytest.mark.parametrize("spoil", [float("inf"), float("nan")])
def test_a_step_without_finite_gradients_is_skipped(make_optimizer, spoil, gpu):
    model, mixed = tiny_net(), MixedPrecision("fp16", "O1", "gpu:0")
    optimizer = make_optimizer(model)
    assert one_step(model, optimizer, mixed, 0)[1]
    before = everything(model, optimizer)
    assert not one_step(model, optimizer, mixed, 1, spoil=spoil)[1]
    after = everything(model, optimizer)
    statistics = [name for name in after if name.endswith(("_mean", "_variance"))]
    assert len(statistics) == 2
    for name in statistics:  # they are of the forward pass
        before.pop(name), after.pop(name)
    assert_equal(before, after)
    assert mixed.loss_scale == 32768
    assert all(parameter.grad is None for parameter in model.parameters())
    assert one_step(model, optimizer, mixed, 2)[1] and mixed.loss_scale == 32768
    assert np.abs(everything(model, optimizer)["head.weight"] - after["head.weight"]).max() > 0


def test_a_run_that_skips_every_step_ends(gpu):
    model, mixed = tiny_net(), MixedPrecision("fp16", "O1", "gpu:0")
    optimizer = SGD(model)
    for index in range(16):
        assert not one_step(model, optimizer, mixed, index, spoil=float("inf"))[1]
    with pytest.raises(RunError, match="infinite or NaN at every loss scale"):
        one_step(model, optimizer, mixed, 16, spoil=float("inf"))


def test_gradients_that_overflow_fp16_are_found(gpu):
    """The loss itself is finite; only fp16, on the way back through a convolution, isn't."""
    model, mixed = tiny_net(), MixedPrecision("fp16", "O1", "gpu:0")
    optimizer = SGD(model)
    updated = [one_step(model, optimizer, mixed, index, spoil=2.0 ** 10)[1] for index in range(16)]
    assert not updated[0] and updated[-1] and 1 <= mixed.loss_scale < 65536


PROCESSES = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from paddleseg.utils import distributed
distributed.init("cpu")
from test_precision import *
with pretend_gpu(rounds=False):
    model, mixed = tiny_net(), MixedPrecision("fp16", "O1", "gpu:0")
    optimizer = SGD(model, momentum=0.9)
    runner = paddle.DataParallel(model)
    spoils = [1.0, float("inf") if distributed.rank() == 1 else 1.0, 1.0]
    updated = [one_step(runner, optimizer, mixed, index, spoil=spoil)[1] for index, spoil in enumerate(spoils)]
weight = float32_weights(model, optimizer)["head.weight"]
Path({out!r}, str(distributed.rank())).write_text(json.dumps([updated, mixed.state(), weight.tolist()]))
"""


def test_processes_agree_on_a_skipped_step(tmp_path):
    here = Path(__file__).resolve().parent
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.format(root=str(here.parents[1]), here=str(here), out=str(tmp_path)))
    done = subprocess.run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
                           str(tmp_path / "log"), str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ranks = [json.loads((tmp_path / rank).read_text()) for rank in "01"]
    assert ranks[0] == ranks[1]
    assert ranks[0][0] == [True, False, True] and ranks[0][1]["loss_scale"] == 32768


# The state of the loss scale.

def test_the_loss_scale_adapts_and_goes_on_from_a_checkpoint(gpu, monkeypatch):
    monkeypatch.setattr("paddleseg.core.precision._GROWTH_STEPS", 3)

    def run(steps, state=None):
        mixed, scales = MixedPrecision("fp16", "O1", "gpu:0"), []
        if state is not None:
            mixed.restore(json.loads(json.dumps(state)))
        for index in steps:
            one_step(model, optimizer, mixed, index, spoil=float("inf") if index in (2, 9) else 2.0 ** -12)
            scales.append(mixed.loss_scale)
        return scales, mixed.state()

    model = tiny_net()
    optimizer = SGD(model)
    whole, end = run(range(10))
    assert np.log2(whole).tolist() == [16, 16, 15, 15, 15, 16, 16, 16, 17, 16]
    first, state = run(range(5))
    assert state == {"loss_scale": 32768.0, "steps_since_change": 2}
    second, resumed_end = run(range(5, 10), state)
    assert first + second == whole and resumed_end == end


FP16_STATE = {"loss_scale": 1024.0, "steps_since_change": 7}


@pytest.mark.parametrize("precision, state, said", [
    ("fp16", {}, "not of training in fp16, this run is; its loss scale is 65536"),
    ("bf16", FP16_STATE, "of training in fp16, this run is not; its loss scale is 1"),
    ("fp32", FP16_STATE, "of training in fp16, this run is not; its loss scale is 1"),
    ("bf16", {}, None), ("fp32", {}, None)])
def test_a_checkpoint_of_another_precision(precision, state, said, gpu, caplog):
    mixed = MixedPrecision(precision, "O1", "gpu:0")
    with caplog.at_level(logging.INFO, "paddleseg"):
        mixed.restore(state)
    assert [record.message for record in caplog.records] == ([f"the checkpoint is {said}"] if said else [])
    assert mixed.loss_scale == (65536 if precision == "fp16" else 1)


# O2: weights in half precision.

@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_o2_casts_and_what_it_keeps(precision, gpu):
    model = encnet()
    optimizer, mixed = SGD(model, momentum=0.9), MixedPrecision(precision, "O2", "gpu:0")
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    mixed.prepare(model, optimizer)
    half = paddle.float16 if precision == "fp16" else paddle.bfloat16
    for prefix, layer in model.named_sublayers():
        for name, parameter in layer.named_parameters(include_sublayers=False):
            cast = isinstance(layer, (nn.Conv2D, nn.Linear))
            assert parameter.dtype == (half if cast else paddle.float32), f"{prefix}.{name}"
    assert {type(layer).__name__ for layer in model.sublayers() if layer.parameters(include_sublayers=False)} >= {
        "Conv2D", "Linear", "BatchNorm2D", "BatchNorm1D", "Encoding"}
    assert_equal(before, float32_weights(model, optimizer))
    start_low(mixed)
    assert one_step(model, optimizer, mixed, 0)[1]
    after = float32_weights(model, optimizer)
    assert {value.dtype for value in after.values()} == {np.dtype("float32")}
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.astype("float32").numpy(), rounded(after[name], tensor.dtype))
        if not tensor.stop_gradient:
            assert np.abs(after[name] - before[name]).max() > 0, name


def rounded(array, dtype):
    return paddle.to_tensor(array).astype(dtype).astype("float32").numpy()


def save(folder, model, optimizer, mixed):
    folder.mkdir()
    write_weights(str(folder / "model.pdparams"), float32_weights(model, optimizer))
    write_weights(str(folder / "model.pdopt"), checkpoint.optimizer_state(model, optimizer))
    (folder / "train_state.json").write_text(json.dumps(mixed.state()))


def build_and_go_on(folder, options, seed=1):
    """A fresh model and optimizer, from a checkpoint if a folder is given."""
    model, mixed = tiny_net(seed), MixedPrecision(*options)
    optimizer = SGD(model, momentum=0.9, weight_decay=1e-4)
    if folder:
        load_into(model, read_weights(str(folder / "model.pdparams")), str(folder))
        checkpoint.restore_optimizer(model, optimizer, str(folder / "model.pdopt"))
        mixed.restore(json.loads((folder / "train_state.json").read_text()))
    mixed.prepare(model, optimizer)
    return model, optimizer, mixed


def check_resume(folder, options):
    """5 steps, and 3, a checkpoint and 2 more in a fresh model, end in the same bits."""
    model, optimizer, mixed = build_and_go_on(None, options)
    for index in range(5):
        if index == 3:
            save(folder, model, optimizer, mixed)
        one_step(model, optimizer, mixed, index, accum_iters=2)
    again, optimizer_again, mixed_again = build_and_go_on(folder, options, seed=2)
    for index in range(3, 5):
        one_step(again, optimizer_again, mixed_again, index, accum_iters=2)
    assert_equal(everything(model, optimizer), everything(again, optimizer_again))
    assert_equal({name: value.astype("float32").numpy() for name, value in model.state_dict().items()},
                 {name: value.astype("float32").numpy() for name, value in again.state_dict().items()})
    assert mixed.state() == mixed_again.state()


KINDS = [("fp16", "O1"), ("bf16", "O1"), ("fp16", "O2"), ("bf16", "O2")]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_checkpoint_is_exact(kind, gpu, tmp_path):
    check_resume(tmp_path / "iter_3", (*kind, "gpu:0"))


def test_half_precision_weights_alone_would_not_do(gpu):
    """Else the tests above couldn't fail: a step is lost in the rounding of the weights, and kept in the masters."""
    model, optimizer, mixed = build_and_go_on(None, ("bf16", "O2", "gpu:0"))
    one_step(model, optimizer, mixed, 0)
    weights = float32_weights(model, optimizer)
    assert any((rounded(value, "bfloat16") != value).any() for value in weights.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_exactly(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    kwargs = {"precision": kind[0], "amp_level": kind[1], "accum_iters": 2, "do_eval": True, "use_ema": True}
    with pretend_gpu():
        _, best = run(tmp_path / "whole", val_dataset=Colors("val", 4), **kwargs)
        _, again = run(tmp_path / "parts", resume_model=tmp_path / "whole" / "iter_3", model_seed=5,
                       val_dataset=Colors("val", 4), **kwargs)
    assert best == again
    for name in ("model.pdparams", "ema_model.pdparams", "model.pdopt"):
        one, other = (read_weights(str(tmp_path / part / "iter_6" / name)) for part in ("whole", "parts"))
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
        assert {value.dtype.name for value in one.values()} == {"float32"}
    one, other = (json.loads((tmp_path / part / "iter_6" / "train_state.json").read_text())["loss_scaling"]
                  for part in ("whole", "parts"))
    assert one == other and bool(one) == (kind[0] == "fp16")


@pytest.mark.parametrize("before, after", [("O2", None), (None, "O2"), ("O2", "O1")])
def test_a_checkpoint_serves_every_precision(before, after, gpu, tmp_path):
    def options(level):
        return ("fp16", level, "gpu:0") if level else ()

    model, optimizer, mixed = build_and_go_on(None, options(before))
    one_step(model, optimizer, mixed, 0)
    save(tmp_path / "iter_1", model, optimizer, mixed)
    again, optimizer_again, mixed_again = build_and_go_on(tmp_path / "iter_1", options(after), seed=2)
    assert_equal(float32_weights(model, optimizer), float32_weights(again, optimizer_again))
    one_step(again, optimizer_again, mixed_again, 1)
    one_step(model, optimizer, mixed, 1)
    one, two = everything(model, optimizer), everything(again, optimizer_again)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], atol=2e-3, err_msg=name)


@pytest.mark.parametrize("options, level", [((), OFF), (("fp16", "O1", "gpu:0"), OFF), (("bf16", "O1", "gpu:0"), OFF),
                                            (("fp16", "O2", "gpu:0"), paddle.base.core.AmpLevel.O2)])
def test_an_evaluation_computes_in_what_the_weights_are(options, level, gpu):
    model, optimizer, mixed = build_and_go_on(None, options)
    model.eval()
    with mixed.evaluation():
        assert gpu._amp_level == level
        assert np.isfinite(model(batch(0)[0])[0].astype("float32").numpy()).all()


# What is computed in float32.

@pytest.mark.parametrize("half", HALVES.values())
def test_encoding_computes_in_float32_whatever_it_gets(half, gpu):
    layer, exact = Encoding(6, 4), Encoding(6, 4)
    layer.to(dtype=half)
    exact.set_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    x = paddle.to_tensor(np.random.default_rng(0).normal(0, 30, (2, 6, 20, 20)).astype("float32")).astype(half)
    x.stop_gradient = False
    levels, encode = [], sys.modules["paddleseg.models.layers.encoding"].encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["paddleseg.models.layers.encoding"], "encode",
                      lambda *tensors: levels.append((gpu._amp_level, {t.dtype for t in tensors})) or encode(*tensors))
        with MixedPrecision("fp16", "O2", "gpu:0").autocast():
            codes = layer(x)
    assert levels == [(OFF, {paddle.float32})] and codes.dtype == paddle.float32
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


@pytest.mark.parametrize("kind", KINDS)
def test_encnet_in_half_precision_stays_near_fp32(kind, gpu):
    """Convolutions and linear layers round here as on a GPU; what is between them doesn't."""
    losses, dtypes, finite = {}, set(), True
    for options in (), (*kind, "gpu:0"):
        model, mixed = encnet(), MixedPrecision(*options)
        optimizer = SGD(model, momentum=0.9)
        mixed.prepare(model, optimizer)
        for layer in model.sublayers():
            if isinstance(layer, (nn.BatchNorm1D, nn.BatchNorm2D)):
                layer.register_forward_post_hook(lambda layer, inputs, output: dtypes.update(
                    {layer._mean.dtype, layer._variance.dtype, layer.weight.dtype}))
        start_low(mixed)
        losses[options] = updated_losses(model, optimizer, mixed, 8)
        weights = float32_weights(model, optimizer)
        finite = finite and all(np.isfinite(value).all() for value in weights.values())
    assert finite and dtypes == {paddle.float32}
    exact, half = (np.array(losses[options]) for options in losses)
    assert (exact != half).any()
    np.testing.assert_allclose(half, exact, rtol=TOLERANCES[kind[0]])


# A real GPU.

needs_gpu = pytest.mark.skipif(not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()),
                               reason="Paddle's mixed precision needs a GPU, and there is none here")


@pytest.fixture
def on_gpu():
    before = paddle.get_device()
    paddle.set_device("gpu:0")
    paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    yield
    paddle.set_flags({"FLAGS_cudnn_deterministic": False})
    paddle.set_device(before)


def skip_what_the_gpu_lacks(kind):
    if kind[0] == "bf16" and paddle.device.cuda.get_device_capability() < (8, 0):
        pytest.skip("bf16 needs compute capability 8.0")


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_training_on_a_gpu_stays_near_fp32(kind, on_gpu):
    skip_what_the_gpu_lacks(kind)
    losses = []
    for options in (), (*kind, paddle.get_device()):
        model, mixed = encnet(), MixedPrecision(*options)
        optimizer = SGD(model, momentum=0.9)
        mixed.prepare(model, optimizer)
        start_low(mixed)
        losses.append(updated_losses(model, optimizer, mixed, 20))
        model.eval()
        with mixed.evaluation():
            assert np.isfinite(model(batch(0)[0])[0].astype("float32").numpy()).all()
    assert losses[0] != losses[1] and losses[1][-1] < losses[1][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=TOLERANCES[kind[0]])


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_gpu_computes_in(kind, on_gpu):
    skip_what_the_gpu_lacks(kind)
    model, mixed = encnet(), MixedPrecision(*kind, paddle.get_device())
    optimizer, seen = SGD(model), {}
    mixed.prepare(model, optimizer)
    watched = {"conv": model.backbone.conv1_1._conv, "encoding": model.enc_module.encoding[0],
               "code norm": model.enc_module.encoding[1]}
    for name, layer in watched.items():
        layer.register_forward_post_hook(
            lambda layer, inputs, output, name=name: seen.update({name: (inputs[0].dtype, output.dtype)}))
    with mixed.autocast():
        logits = model(batch(0)[0])
    half = paddle.float16 if kind[0] == "fp16" else paddle.bfloat16
    assert seen["conv"][1] == half and seen["encoding"][1] == paddle.float32
    assert seen["code norm"] == (paddle.float32, paddle.float32)
    assert logits[0].dtype == logits[1].dtype == paddle.float32  # resized


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_checkpoint_is_exact_on_a_gpu(kind, on_gpu, tmp_path):
    skip_what_the_gpu_lacks(kind)
    check_resume(tmp_path / "iter_3", (*kind, paddle.get_device()))


@needs_gpu
def test_a_gpu_skips_what_overflows(on_gpu):
    model, optimizer, mixed = build_and_go_on(None, ("fp16", "O2", paddle.get_device()))
    one_step(model, optimizer, mixed, 0)
    before = everything(model, optimizer)["head.weight"]
    assert not one_step(model, optimizer, mixed, 1, spoil=float("inf"))[1] and mixed.loss_scale == 32768
    np.testing.assert_array_equal(everything(model, optimizer)["head.weight"], before)
