"""Frozen stages, activations computed again, and operations in the memory of others."""

import functools

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleseg.models import backbones, layers
from paddleseg.models.backbones import resnet
from paddleseg.models.backbones.resnet import Block


def make_net(**arguments):
    """A small ResNet in training, always with the same weights."""
    paddle.seed(3)
    net = backbones.ResNet18_vd(base_channels=4, **arguments)
    net.train()
    return net


def take_step(net, x, used=(3,)):
    """The maps, the gradients of a loss of those `used`, and the state, after one backward pass."""
    net.clear_gradients()
    feats = net(x)
    sum((feats[index] * feats[index].detach().cos()).sum() for index in used).backward()
    gradients = {name: param.grad.numpy() for name, param in net.named_parameters() if param.grad is not None}
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    return {**{f"map {index}": feat.numpy() for index, feat in enumerate(feats)},
            **{f"gradient of {name}": value for name, value in gradients.items()}, **state}


def assert_same(mine, theirs, tolerance=0):
    assert mine.keys() == theirs.keys()
    for name in mine:
        scale = tolerance * np.abs(theirs[name]).max()
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0, atol=scale, err_msg=name)


def count_gradients(step):
    return sum(name.startswith("gradient") for name in step)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("stages, frozen", [([3], 0), ([1, 2, 3, 4], 0), ([3], 2)])
def test_recomputed_stages_change_nothing(stages, frozen, unbiased):
    results, calls = [], []
    for recomputed in ((), stages):
        net = make_net(recompute_stages=recomputed, frozen_stages=frozen)
        if unbiased:
            layers.use_unbiased_variance(net)
        calls.clear()
        for name, layer in net.named_sublayers():
            if isinstance(layer, Block):
                layer.register_forward_pre_hook(lambda layer, inputs, name=name: calls.append(name))
        results.append(take_step(net, paddle.ones([2, 3, 32, 32]).cumsum(axis=3).sin()))
    assert sorted(calls) == sorted(f"bb_{stage}_{block}" for stage in range(4) for block in range(2)
                                   for _ in range(1 + (stage + 1 in stages)))
    assert_same(*results)
    assert count_gradients(results[0]) == len([param for param in net.parameters() if not param.stop_gradient])


def test_recomputed_stages_whose_maps_are_used_agree_to_rounding(float64):
    # At a map with two uses the gradients are added in another order.
    x = paddle.randn([2, 3, 33, 47])
    nets = make_net(), make_net(recompute_stages=[1, 2, 3, 4])
    for _ in range(2):
        assert_same(*(take_step(net, x, used=(0, 1, 2, 3)) for net in nets), tolerance=1e-12)


def test_nothing_is_recomputed_without_gradients_or_in_evaluation(monkeypatch):
    monkeypatch.setattr(resnet, "recompute_block", lambda block, x: pytest.fail("recomputes"))
    net = make_net(recompute_stages=[1, 2, 3, 4])
    with paddle.no_grad():
        net(paddle.randn([1, 3, 32, 32]))
    net.eval()
    net(paddle.randn([1, 3, 32, 32]))


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("unbiased", [False, True])
def test_frozen_stages_stay_in_training(stages, unbiased):
    model = nn.Sequential(make_net(frozen_stages=stages))  # whose train() doesn't call the ResNet's
    net = model[0]
    if unbiased:
        layers.use_unbiased_variance(net)
    frozen = {name for name in net.state_dict() if name.startswith("conv1_") or
              name.startswith("bb_") and int(name[3]) < stages}
    before = {name: value.numpy() for name, value in net.state_dict().items()}
    rng = np.random.default_rng(0)
    for name in frozen:
        if name.endswith(("_mean", "_variance")):
            low, high = (-0.1, 0.1) if name.endswith("_mean") else (0.5, 1.5)
            before[name] = rng.uniform(low, high, before[name].shape).astype("float32")
            net.state_dict()[name].set_value(before[name])
    optimizer = paddle.optimizer.Momentum(0.1, parameters=net.parameters(), weight_decay=0.1)
    x = paddle.randn([2, 3, 32, 32])
    net.eval()
    evaluated = model(x)
    model.train()
    feats = model(x)
    for stage, (mine, evaluations) in enumerate(zip(feats, evaluated)):
        assert np.array_equal(mine.numpy(), evaluations.numpy()) == (stage < stages)
    if stages < 4:
        feats[-1].square().sum().backward()
        optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not np.array_equal(value.numpy(), before[name])}
    assert changed == set(before) - frozen
    assert all(feat.stop_gradient == (stage < stages) for stage, feat in enumerate(feats))


def plain_block(block, x):
    """Compute `Block` with nothing in place."""
    def conv_bn(layer, x):
        pool = getattr(layer, "pool", None)
        return layer._batch_norm(layer._conv(x if pool is None else pool(x)))

    *inner, last = [conv for conv in (block.conv0, block.conv1, block.conv2) if conv is not None]
    branch = x
    for conv in inner:
        branch = F.relu(conv_bn(conv, branch))
    return F.relu(conv_bn(last, branch) + (x if block.short is None else conv_bn(block.short, x)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["bb_1_0", "bb_1_1"])
@pytest.mark.parametrize("constructor", [backbones.ResNet18_vd, backbones.ResNet50_v1c])
def test_operations_in_place_change_nothing(constructor, name, training):
    net = constructor(base_channels=4)
    net.train() if training else net.eval()
    block = getattr(net, name)
    image = paddle.randn([2, block.conv0._conv.weight.shape[1], 7, 9])
    results = []
    for forward in block, functools.partial(plain_block, block):
        block.clear_gradients()
        x = image.clone()
        x.stop_gradient = False
        out = forward(x)
        (out * out.detach().cos()).sum().backward()
        np.testing.assert_array_equal(x.numpy(), image.numpy())
        trained = [param for param in block.parameters() if not param.stop_gradient]
        results.append([out.numpy(), x.grad.numpy(), *(param.grad.numpy() for param in trained)])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)
