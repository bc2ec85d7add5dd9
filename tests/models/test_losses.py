import numpy as np
import paddle
import pytest

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, LabelValueError
from paddleseg.models.losses import CrossEntropyLoss, SELoss, checks

NUM_CLASSES = 5
WEIGHT = [0.5, 2.0, 1.0, 0.0, 3.0]


def random_label(shape, ignore_index=255, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, NUM_CLASSES, shape)
    label[rng.random(shape) < 0.3] = ignore_index
    return label


def direct_cross_entropy(logit, label, weight, ignore_index, avg_non_ignore):
    """Pixel by pixel; returns the loss and its gradient."""
    loss, divisor, grad = 0.0, 0.0, np.zeros_like(logit)
    for n, y, x in np.ndindex(*label.shape):
        target = label[n, y, x]
        if target != ignore_index:
            p = np.exp(logit[n, :, y, x])
            p /= p.sum()
            factor = 1.0 if weight is None else weight[target]
            loss -= factor * np.log(p[target])
            divisor += factor
            grad[n, :, y, x] = factor * (p - np.eye(len(p))[target])
    divisor = divisor if avg_non_ignore else label.size
    return loss / divisor, grad / divisor


@pytest.mark.parametrize("ignore_index", [255, -100, 0])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("avg_non_ignore", [True, False])
def test_cross_entropy_equals_the_definition(float64, ignore_index, weight, avg_non_ignore):
    logit = paddle.randn([2, NUM_CLASSES, 4, 3])
    logit.stop_gradient = False
    label = random_label((2, 4, 3), ignore_index)
    loss = CrossEntropyLoss(weight, ignore_index, avg_non_ignore)(logit, paddle.to_tensor(label))
    loss.backward()
    expected, grad = direct_cross_entropy(logit.numpy(), label, weight, ignore_index, avg_non_ignore)
    assert loss.ndim == 0
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(logit.grad.numpy(), grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("make_loss, shape", [
    (CrossEntropyLoss, (2, NUM_CLASSES, 4, 3)), (SELoss, (2, NUM_CLASSES))])
def test_small_integer_labels(dtype, make_loss, shape):
    logit, label = paddle.randn(shape), random_label((2, 4, 3))
    of_dtype = make_loss()(logit, paddle.to_tensor(label.astype(dtype)))
    assert of_dtype.item() == make_loss()(logit, paddle.to_tensor(label)).item()


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("avg_non_ignore", [True, False])
def test_cross_entropy_of_ignored_pixels_alone_is_zero(weight, avg_non_ignore):
    logit = paddle.randn([2, NUM_CLASSES, 4, 3])
    logit.stop_gradient = False
    label = paddle.full([2, 4, 3], 255, "int64")
    loss = CrossEntropyLoss(weight, avg_non_ignore=avg_non_ignore)(logit, label)
    loss.backward()
    assert loss.item() == 0
    assert (logit.grad.numpy() == 0).all()


def test_half_precision_logits_are_summed_in_float32():
    logit = paddle.randn([1, NUM_CLASSES, 8, 8])
    label = paddle.to_tensor(random_label((1, 8, 8)))
    loss = CrossEntropyLoss()(logit.astype("float16"), label)
    assert loss.dtype == paddle.float32
    assert loss.item() == pytest.approx(CrossEntropyLoss()(logit, label).item(), rel=1e-2)


@pytest.mark.parametrize("size", [(4, 3), (1, 1), (33, 17)])
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_se_loss_equals_the_definition(float64, size, ignore_index):
    logit = paddle.randn([3, NUM_CLASSES])
    logit.stop_gradient = False
    label = random_label((3, *size), ignore_index)
    label[0] = ignore_index  # an image without any class
    label[1][label[1] == 2] = 4  # an image without class 2
    loss = manager.LOSSES["SECrossEntropyLoss"](ignore_index)(logit, paddle.to_tensor(label))
    loss.backward()
    present = np.zeros([3, NUM_CLASSES])
    for image, classes in zip(present, label):
        image[[value for value in np.unique(classes) if value != ignore_index]] = 1
    p = 1 / (1 + np.exp(-logit.numpy()))
    expected = -(present * np.log(p) + (1 - present) * np.log(1 - p)).mean()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(logit.grad.numpy(), (p - present) / present.size, rtol=1e-9)


def test_se_loss_that_cannot_read_an_illegal_label_is_nan(monkeypatch):
    monkeypatch.setattr(checks, "is_on_cpu", lambda tensor: False)
    logit, label = paddle.randn([2, NUM_CLASSES]), random_label((2, 4, 3))
    legal = SELoss()(logit, paddle.to_tensor(label)).item()
    label[1, 1, 2] = NUM_CLASSES
    assert np.isfinite(legal) and np.isnan(SELoss()(logit, paddle.to_tensor(label)).item())


@pytest.mark.parametrize("value", [NUM_CLASSES, 254, -1])
@pytest.mark.parametrize("loss, shape", [(SELoss(), (2, NUM_CLASSES)), (CrossEntropyLoss(), (2, NUM_CLASSES, 4, 3)),
                                         (CrossEntropyLoss(WEIGHT), (2, NUM_CLASSES, 4, 3))])
def test_illegal_label_values_are_named(loss, shape, value):
    label = random_label((2, 4, 3))
    label[0, 1, 2] = value
    with pytest.raises(LabelValueError, match=rf"holds \{{{value}\}}; legal are 0..4 and 255"):
        loss(paddle.randn(shape), paddle.to_tensor(label))


@pytest.mark.parametrize("loss, shape, message", [
    (SELoss(), (2, NUM_CLASSES, 4, 3),
     r"SELoss takes the \(N, C\) output of the SE layer, got \(N, C, H, W\): "),
    (CrossEntropyLoss(), (2, NUM_CLASSES),
     r"takes the \(N, C, H, W\) logits of seg or aux, got \(N, C\) of the SE layer: "),
])
def test_a_loss_that_got_the_wrong_output_says_so(loss, shape, message):
    with pytest.raises(ConfigError, match=message + "check the order of loss.types"):
        loss(paddle.randn(shape), paddle.zeros([2, 4, 3], "int64"))


def test_cross_entropy_counts_its_weights():
    with pytest.raises(ConfigError, match="weight has 2 values, the model has 5 classes"):
        CrossEntropyLoss([1.0, 2.0])(paddle.randn([1, NUM_CLASSES, 2, 2]), paddle.zeros([1, 2, 2], "int64"))
