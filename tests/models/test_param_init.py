import math

import paddle
import pytest

from paddleseg.cvlibs import param_init


@pytest.fixture
def weight():
    return paddle.nn.Linear(400, 100).weight


def test_constant(weight):
    param_init.constant_init(weight, value=2.5)
    assert weight.min().item() == weight.max().item() == 2.5


@pytest.mark.parametrize("init, kwargs, std", [
    (param_init.normal_init, dict(std=0.01), 0.01),
    (param_init.kaiming_normal_init, {}, math.sqrt(2 / 400)),
    (param_init.kaiming_uniform, {}, math.sqrt(2 / 400)),
    (param_init.xavier_uniform, {}, math.sqrt(2 / 500)),
    (param_init.uniform_init, dict(low=-3.0, high=3.0), math.sqrt(3)),
])
def test_spread(weight, init, kwargs, std):
    init(weight, **kwargs)
    assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert abs(weight.mean().item()) < 0.03 * std


@pytest.mark.parametrize("init, kwargs, bound", [
    (param_init.kaiming_uniform, {}, math.sqrt(6 / 400)),
    (param_init.xavier_uniform, {}, math.sqrt(6 / 500)),
    (param_init.uniform_init, dict(low=-3.0, high=3.0), 3.0),
])
def test_bound(weight, init, kwargs, bound):
    init(weight, **kwargs)
    assert 0.98 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
