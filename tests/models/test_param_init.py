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
