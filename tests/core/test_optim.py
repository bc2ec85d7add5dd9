import numpy as np
import paddle
import pytest

from paddleseg.core.optim import SGD, Adam, AdamW, ConstantLR, Momentum, PolynomialDecay
from paddleseg.cvlibs.errors import ConfigError


def linear(weight):
    layer = paddle.nn.Linear(2, 1, bias_attr=False)
    layer.weight.set_value(np.array(weight).reshape(2, 1))
    return layer


def run(optimizer, layer, lrs):
    gradient = np.array([[0.5], [-1.0]])
    for lr in lrs:
        optimizer.set_lr(lr)
        (layer.weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return layer.weight.numpy().ravel()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_sgd_with_coupled_decay(float64, nesterov):
    layer, lrs = linear([1.0, 2.0]), [0.1, 0.05, 0.025]
    ours = run(SGD(layer, momentum=0.9, weight_decay=0.01, use_nesterov=nesterov), layer, lrs)
    p, v, grad = np.array([1.0, 2.0]), np.zeros(2), np.array([0.5, -1.0])
    for lr in lrs:
        g = grad + 0.01 * p
        v = 0.9 * v + g
        p = p - lr * (g + 0.9 * v if nesterov else v)
    np.testing.assert_allclose(ours, p, rtol=1e-7)


def test_adamw_decouples_the_decay(float64):
    layer, lrs = linear([1.0, 2.0]), [0.1, 0.1]
    ours = run(AdamW(layer, weight_decay=0.1), layer, lrs)
    p, m, v, grad = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.array([0.5, -1.0])
    for t, lr in enumerate(lrs, 1):
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad ** 2
        p = p - lr * 0.1 * p
        p = p - lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(ours, p, rtol=1e-6)


def test_adam_couples_the_decay(float64):
    layer, lrs = linear([1.0, 2.0]), [0.1, 0.1]
    ours = run(Adam(layer, weight_decay=0.1), layer, lrs)
    p, m, v, grad = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.array([0.5, -1.0])
    for t, lr in enumerate(lrs, 1):
        g = grad + 0.1 * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        p = p - lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(ours, p, rtol=1e-6)


def test_polynomial_over_iters_as_paddleseg():
    ours = PolynomialDecay(0.01, iters=20, end_lr=0.0, power=0.9)
    theirs = paddle.optimizer.lr.PolynomialDecay(0.01, decay_steps=20, end_lr=0.0, power=0.9)
    for step in range(20):
        assert ours(step) == pytest.approx(theirs.get_lr(), rel=1e-14)
        theirs.step()
    assert ours(19) > 0


def test_polynomial_that_ends_at_the_last_iteration_as_mmengine():
    schedule = PolynomialDecay(0.01, iters=20, end_lr=1e-4, power=0.9, ends_at_last_iter=True)
    assert schedule(0) == 0.01 and schedule(19) == 1e-4
    # mmengine's recurrence: lr = (lr - end) * (1 - 1 / (total - t + 1)) ** power + end, total = iters - 1
    lr = 0.01
    for step in range(1, 20):
        lr = (lr - 1e-4) * (1 - 1 / (19 - step + 1)) ** 0.9 + 1e-4
        assert schedule(step) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("kind", [PolynomialDecay, ConstantLR])
def test_warmup_is_linear_and_then_the_schedule_starts(kind):
    schedule = kind(0.1, iters=100, warmup_iters=10, warmup_start_lr=0.01)
    assert schedule(0) == 0.01 and schedule(5) == pytest.approx(0.055)
    assert schedule(10) == pytest.approx(0.1)


def test_warmup_equals_paddles():
    ours = PolynomialDecay(0.1, iters=30, end_lr=0.0, power=0.9, warmup_iters=10, warmup_start_lr=0.01)
    theirs = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.PolynomialDecay(0.1, decay_steps=20, end_lr=0.0, power=0.9), 10, 0.01, 0.1)
    for step in range(30):
        assert ours(step) == pytest.approx(theirs.get_lr(), rel=1e-12), step
        theirs.step()


def test_decay_steps_may_end_early():
    schedule = PolynomialDecay(0.1, iters=100, end_lr=0.001, decay_steps=50)
    assert schedule(50) == schedule(99) == 0.001


@pytest.mark.parametrize("warmup_iters", [-1, 10, 11])
def test_warmup_must_leave_iterations(warmup_iters):
    with pytest.raises(ConfigError, match="warmup_iters"):
        PolynomialDecay(0.1, iters=10, warmup_iters=warmup_iters)


@pytest.mark.parametrize("iters", [1, 2])
def test_shortest_runs_have_a_rate(iters):
    schedule = PolynomialDecay(0.1, iters=iters, ends_at_last_iter=True)
    assert schedule(0) == 0.1


@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam, AdamW])
def test_a_weight_decay_that_lets_weights_grow_is_refused(float64, optimizer):
    with pytest.raises(ConfigError, match="weight_decay -0.1 must be at least 0"):
        optimizer(linear([1.0, 2.0]), weight_decay=-0.1)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_a_model_with_nothing_to_train_is_refused(float64, optimizer):
    layer = linear([1.0, 2.0])
    layer.weight.stop_gradient = True
    with pytest.raises(ConfigError, match="Linear: every parameter is frozen"):
        optimizer(layer)
