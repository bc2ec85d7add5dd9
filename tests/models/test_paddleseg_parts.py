"""Parts of PaddleSeg's models that its own package can't be compared with: random ones, initialisers, errors."""

import math

import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddleseg.cvlibs import param_init
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models import layers
from paddleseg.models.backbones.transformer_utils import DropPath, Identity, init_weights, to_2tuple


def factorize(x, bases, steps):
    """x (D, P) by multiplicative updates from bases (D, R)."""
    coef = np.exp(x.T @ bases)
    coef /= coef.sum(1, keepdims=True)
    for _ in range(steps):
        coef = coef * (x.T @ bases) / (coef @ (bases.T @ bases) + 1e-6)
        bases = bases * (x @ coef) / (bases @ (coef.T @ coef) + 1e-6)
    coef = coef * (x.T @ bases) / (coef @ (bases.T @ bases) + 1e-6)
    return bases @ coef.T


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_nmf_equals_the_definition(float64, spatial, training):
    layer = layers.NMF2D({"SPATIAL": spatial, "MD_S": 2, "MD_R": 3, "RAND_INIT": False, "EVAL_STEPS": 2})
    layer.train() if training else layer.eval()
    x = paddle.rand([2, 8, 4, 5])
    found = layer(x).numpy()
    bases = layer.bases.numpy()
    np.testing.assert_allclose(np.linalg.norm(bases, axis=1), 1.0, rtol=1e-12)
    for image in range(2):
        for group in range(2):
            vectors = x.numpy()[image, 4 * group:4 * group + 4].reshape(4, 20)
            vectors = vectors if spatial else vectors.T
            expected = factorize(vectors, bases[group], 6 if training else 2)
            expected = expected if spatial else expected.T
            np.testing.assert_allclose(found[image, 4 * group:4 * group + 4].reshape(4, 20), expected, rtol=1e-9)


def test_nonlocal_gaussian_equals_the_definition(float64):
    layer = layers.NonLocal2D(4, mode="gaussian")
    layer.eval()
    x = paddle.randn([2, 4, 3, 5])
    pixels, values = x.flatten(2).numpy(), layer.g(x).flatten(2).numpy()
    weights = np.exp(np.einsum("ncp,ncq->npq", pixels, pixels))
    weights /= weights.sum(2, keepdims=True)
    y = np.einsum("npq,nkq->nkp", weights, values).reshape(2, 2, 3, 5)
    np.testing.assert_allclose(layer(x).numpy(), (x + layer.conv_out(paddle.to_tensor(y))).numpy(), rtol=1e-10)


@pytest.mark.parametrize("build, message", [
    (lambda: layers.Activation("rellu"), "rellu is no activation; known are .*relu"),
    (lambda: layers.NonLocal2D(4, mode="dot"), "mode is dot; choose one of gaussian"),
    (lambda: layers.NMF2D({"MD_Q": 1}), "MD_Q in args is unknown"),
    (lambda: layers.UAFM(2, 2, 2)(paddle.rand([1, 2, 3, 9]), paddle.rand([1, 2, 4, 4])), "takes the finer map first"),
    (lambda: layers.AttentionBlock(4, 6, 2, 4, True, None, None, 1, 1, True, True, True, False),
     r"share_key_query needs as many channels of keys \(4\) as of queries \(6\)"),
])
def test_wrong_arguments(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_drop_path_drops_samples_and_keeps_the_mean():
    paddle.seed(1)
    layer, x = DropPath(0.25), paddle.ones([4000, 2, 1])
    found = layer(x).numpy()
    assert set(np.unique(found).round(5)) == {0.0, np.float32(1 / 0.75).round(5)} and abs(found.mean() - 1) < 0.05
    assert np.array_equal(found[:, 0], found[:, 1])
    layer.eval()
    assert np.array_equal(layer(x).numpy(), x.numpy())
    assert np.array_equal(DropPath()(x).numpy(), x.numpy()) and np.array_equal(Identity()(x).numpy(), x.numpy())


def test_initialisers_of_transformers():
    paddle.seed(2)
    linear, norm, attention = nn.Linear(64, 48), nn.LayerNorm(8), nn.MultiHeadAttention(32, 4)
    init_weights(linear)
    init_weights(norm)
    assert 0.015 < linear.weight.numpy().std() < 0.02 and not linear.bias.numpy().any() and norm.weight.numpy().all()
    param_init.th_linear_fill(linear)
    for values in (linear.weight.numpy(), linear.bias.numpy()):
        assert 0.9 / 8 < np.abs(values).max() <= 1 / 8
    param_init.multihead_fill(attention)
    bound = (6 / (4 * 32)) ** 0.5
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert 0.95 * bound < np.abs(projection.weight.numpy()).max() <= bound
    param_init.multihead_fill(attention, qkv_same_embed_dim=False)
    assert bound < np.abs(attention.q_proj.weight.numpy()).max() <= (6 / 64) ** 0.5
    param_init.trunc_normal_init(linear.weight, std=0.5)
    assert 0.4 < linear.weight.numpy().std() < 0.55 and np.abs(linear.weight.numpy()).max() <= 2
    assert to_2tuple(3) == (3, 3)


@pytest.fixture
def weight():
    return paddle.nn.Linear(400, 100).weight


def test_constant(weight):
    param_init.constant_init(weight, value=2.5)
    assert weight.min().item() == weight.max().item() == 2.5


@pytest.mark.parametrize("init, kwargs, std, bound", [
    (param_init.normal_init, dict(std=0.01), 0.01, None),
    (param_init.kaiming_normal_init, {}, math.sqrt(2 / 400), None),
    (param_init.kaiming_uniform, {}, math.sqrt(2 / 400), math.sqrt(6 / 400)),
    (param_init.xavier_uniform, {}, math.sqrt(2 / 500), math.sqrt(6 / 500)),
    (param_init.uniform_init, dict(low=-3.0, high=3.0), math.sqrt(3), 3.0),
])
def test_spread_and_bound(weight, init, kwargs, std, bound):
    init(weight, **kwargs)
    assert weight.std().item() == pytest.approx(std, rel=0.03) and abs(weight.mean().item()) < 0.03 * std
    assert bound is None or 0.98 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
