import numpy as np
import paddle
import pytest
import yaml

from paddleseg import builder
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError, LabelValueError
from paddleseg.models.losses import CrossEntropyLoss, LovaszSoftmaxLoss, MixedLoss, OhemCrossEntropyLoss, SELoss, checks

NUM_CLASSES = 5
WEIGHT = [0.5, 2.0, 1.0, 0.0, 3.0]
MAP = (2, NUM_CLASSES, 4, 3)


def random_label(shape, ignore_index=255, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, NUM_CLASSES, shape)
    label[rng.random(shape) < 0.3] = ignore_index
    return label


def small_case(dtype="float32"):
    """Logits and a label in which class 4 doesn't occur."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, (2, NUM_CLASSES, 6, 7)).astype(dtype)
    label = rng.integers(0, NUM_CLASSES - 1, (2, 6, 7))
    label[rng.random(label.shape) < 0.3] = 255
    return logit, label


def loss_and_grad(loss, logit, label):
    logit = paddle.to_tensor(logit, stop_gradient=False)
    value = loss(logit, paddle.to_tensor(label))
    value.backward()
    assert value.ndim == 0
    return value.item(), logit.grad.numpy()


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
    logit, label = paddle.randn(MAP).numpy(), random_label((2, 4, 3), ignore_index)
    loss = CrossEntropyLoss(weight, ignore_index, avg_non_ignore)
    value, grad = loss_and_grad(loss, logit, label)
    expected, expected_grad = direct_cross_entropy(logit, label, weight, ignore_index, avg_non_ignore)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-9, atol=1e-12)
    value, grad = loss_and_grad(loss, logit, np.full_like(label, ignore_index))
    assert value == 0 and not grad.any()


@pytest.mark.parametrize("size", [(4, 3), (1, 1), (33, 17)])
@pytest.mark.parametrize("ignore_index", [255, -1, 0])
def test_se_loss_equals_the_definition(float64, size, ignore_index):
    logit, label = paddle.randn([3, NUM_CLASSES]).numpy(), random_label((3, *size), ignore_index)
    label[0] = ignore_index  # an image without any class
    label[1][label[1] == 2] = 4  # an image without class 2
    value, grad = loss_and_grad(manager.LOSSES["SECrossEntropyLoss"](ignore_index), logit, label)
    present = np.zeros([3, NUM_CLASSES])
    for image, classes in zip(present, label):
        image[[value for value in np.unique(classes) if value != ignore_index]] = 1
    p = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(value, -(present * np.log(p) + (1 - present) * np.log(1 - p)).mean(), rtol=1e-12)
    np.testing.assert_allclose(grad, (p - present) / present.size, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("make_loss, shape", [(CrossEntropyLoss, MAP), (SELoss, MAP[:2])])
def test_small_integer_labels_and_half_precision_logits(dtype, make_loss, shape):
    logit, label = paddle.randn(shape), random_label((2, 4, 3))
    expected = make_loss()(logit, paddle.to_tensor(label)).item()
    assert make_loss()(logit, paddle.to_tensor(label.astype(dtype))).item() == expected
    half = make_loss()(logit.astype("float16"), paddle.to_tensor(label))
    assert half.dtype == paddle.float32 and half.item() == pytest.approx(expected, rel=1e-2)


# The loss, the sum of its absolute gradients and the sum of gradient times logit, by PaddleSeg 2.8.0 on Paddle 2.6.2.
PADDLESEG = [
    (OhemCrossEntropyLoss, {"thresh": 0.7, "min_kept": 1}, (2.960986852645874, 1.6812968254089355, 1.9848891496658325)),
    (OhemCrossEntropyLoss, {"thresh": 0.1, "min_kept": 20}, (4.070051193237305, 1.9353218078613281, 3.173584461212158)),
    (OhemCrossEntropyLoss, {"thresh": 0.2, "min_kept": 30}, (3.711158514022827, 1.899634599685669, 2.7840933799743652)),
    (OhemCrossEntropyLoss, {"min_kept": 0}, (2.6033856868743896, 1.5082656145095825, 1.6772273778915405)),
    (OhemCrossEntropyLoss, {}, (2.6033856868743896, 1.5082656145095825, 1.6772273778915405)),
    (LovaszSoftmaxLoss, {}, (0.7986235022544861, 0.1753755807876587, 0.03013872727751732)),
    (LovaszSoftmaxLoss, {"classes": "all"}, (0.8264539837837219, 0.16363409161567688, 0.06536807864904404)),
    (LovaszSoftmaxLoss, {"classes": [1, 4]}, (0.8544155955314636, 0.16117185354232788, 0.12068388611078262)),
]


@pytest.mark.parametrize("kind, arguments, expected", PADDLESEG)
def test_as_paddleseg(kind, arguments, expected):
    logit, label = small_case()
    value, grad = loss_and_grad(kind(**arguments), logit, label)
    np.testing.assert_allclose((value, np.abs(grad).sum(), (grad * logit).sum()), expected, rtol=2e-5)


def direct_ohem(logit, label, thresh, min_kept):
    probability = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    own = [probability[n, label[n, y, x], y, x] for n, y, x in np.ndindex(*label.shape) if label[n, y, x] != 255]
    if 0 < min_kept < len(own):
        thresh = max(thresh, sorted(own)[min_kept - 1])
        own = [value for value in own if value < thresh]
    return -np.log(own).sum() / label.size / (len(own) / label.size + 1e-5)


@pytest.mark.parametrize("min_kept", [0, 1, 25, 58, 84, 10000])
@pytest.mark.parametrize("thresh", [0.05, 0.7])
def test_ohem_equals_the_definition(float64, thresh, min_kept):
    logit, label = small_case("float64")
    value, _ = loss_and_grad(OhemCrossEntropyLoss(thresh, min_kept), logit, label)
    assert value == pytest.approx(direct_ohem(logit, label, thresh, min_kept), rel=1e-9)


def direct_lovasz(logit, label, classes):
    """Equation 9 of the paper: each pixel's error times the growth of the Jaccard loss of the set of wrong pixels."""
    probability = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    probability = probability.transpose(0, 2, 3, 1)[label != 255]
    label, losses = label[label != 255], []
    for number in classes:
        own = label == number
        errors = np.abs(own - probability[:, number])
        wrong, before, loss = np.zeros(len(label), bool), 0.0, 0.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            jaccard = wrong.sum() / (own | wrong).sum()
            loss, before = loss + errors[pixel] * (jaccard - before), jaccard
        losses.append(loss)
    return np.mean(losses)


@pytest.mark.parametrize("classes, meant", [("present", [0, 1, 2, 3]), ("all", range(NUM_CLASSES)), ([2], [2]),
                                            ([1, 4], [1, 4])])
def test_lovasz_equals_the_definition(float64, classes, meant):
    logit, label = small_case("float64")
    value, _ = loss_and_grad(LovaszSoftmaxLoss(classes=classes), logit, label)
    assert value == pytest.approx(direct_lovasz(logit, label, meant), rel=1e-9)


@pytest.mark.parametrize("kind", [OhemCrossEntropyLoss, LovaszSoftmaxLoss])
@pytest.mark.parametrize("ignore_index", [255, 0])
def test_ignored_pixels_have_no_gradient(kind, ignore_index):
    logit, label = small_case()
    label[label == 255] = ignore_index
    _, grad = loss_and_grad(kind(ignore_index=ignore_index), logit, label)
    ignored = np.broadcast_to((label == ignore_index)[:, None], grad.shape)
    assert ignored.any() and not grad[ignored].any() and grad[~ignored].any()
    value, grad = loss_and_grad(kind(ignore_index=ignore_index), logit, np.full_like(label, ignore_index))
    assert value == 0 and not grad.any()


def test_mixed_is_the_weighted_sum():
    logit, label = small_case()
    parts = [CrossEntropyLoss(), LovaszSoftmaxLoss()]
    value, grad = loss_and_grad(MixedLoss(parts, [0.8, 0.2]), logit, label)
    (first, first_grad), (second, second_grad) = (loss_and_grad(part, logit, label) for part in parts)
    assert value == pytest.approx(0.8 * first + 0.2 * second, rel=1e-6)
    np.testing.assert_allclose(grad, 0.8 * first_grad + 0.2 * second_grad, atol=1e-7)


@pytest.mark.parametrize("value", [NUM_CLASSES, 254, -1])
@pytest.mark.parametrize("loss, shape", [(SELoss(), MAP[:2]), (CrossEntropyLoss(), MAP),
                                         (CrossEntropyLoss(WEIGHT), MAP)])
def test_illegal_label_values_are_named(loss, shape, value):
    label = random_label((2, 4, 3))
    label[0, 1, 2] = value
    with pytest.raises(LabelValueError, match=rf"\{{{value}\}}.* 0..4 and 255"):
        loss(paddle.randn(shape), paddle.to_tensor(label))


def test_se_loss_that_cannot_read_an_illegal_label_is_nan(monkeypatch):
    monkeypatch.setattr(checks, "is_on_cpu", lambda tensor: False)
    logit, label = paddle.randn([2, NUM_CLASSES]), random_label((2, 4, 3))
    legal = SELoss()(logit, paddle.to_tensor(label)).item()
    label[1, 1, 2] = NUM_CLASSES
    assert np.isfinite(legal) and np.isnan(SELoss()(logit, paddle.to_tensor(label)).item())


def call(loss, *shape):
    return loss(paddle.zeros(shape), paddle.zeros([1, 3, 3], "int64"))


@pytest.mark.parametrize("make, message", [
    (lambda: call(SELoss(), 1, 5, 3, 3), r"SELoss .*loss.types"),
    (lambda: call(CrossEntropyLoss(), 1, 5), r"CrossEntropyLoss .*loss.types"),
    (lambda: call(LovaszSoftmaxLoss(), 1, 5), r"LovaszSoftmaxLoss .*loss.types"),
    (lambda: call(CrossEntropyLoss([1.0, 2.0]), 1, 5, 3, 3), "2 values, the model has 5 classes"),
    (lambda: call(OhemCrossEntropyLoss(), 1, 5, 3, 4), r"\(1, 5, 3, 4\) .*\(1, 3, 3\)"),
    (lambda: call(LovaszSoftmaxLoss(classes=[9]), 1, 2, 3, 3), r"\[9\] .*0\.\.1"),
    (lambda: CrossEntropyLoss(weight=[1.0, -0.5]), r"\[1.0, -0.5\]"),
    (lambda: CrossEntropyLoss(weight=[1.0, float("nan")]), "nan"),
    (lambda: CrossEntropyLoss(weight=[0.0, 0.0]), r"\[0.0, 0.0\]"),
    (lambda: OhemCrossEntropyLoss(thresh=1.5), "thresh 1.5"),
    (lambda: OhemCrossEntropyLoss(min_kept=-1), "min_kept -1"),
    (lambda: LovaszSoftmaxLoss(classes="some"), "'some'"),
    (lambda: MixedLoss([CrossEntropyLoss()], [0.5, 0.5]), "1 losses and 2 coef"),
])
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_in_a_config_as_paddleseg_writes_them(tmp_path, monkeypatch):
    mixed = {"type": "MixedLoss", "coef": [0.8, 0.2], "losses": [
        {"type": "CrossEntropyLoss", "weight": list(range(19))}, {"type": "LovaszSoftmaxLoss"}]}
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({
        "batch_size": 1, "iters": 1, "train_dataset": {"type": "Cityscapes", "dataset_root": "none", "transforms": []},
        "model": {"type": "FCN", "backbone": {"type": "ResNet18_v1c", "base_channels": 4}},
        "optimizer": {"type": "SGD"}, "lr_scheduler": {"type": "ConstantLR", "learning_rate": 0.1},
        "loss": {"types": [mixed, {"type": "OhemCrossEntropyLoss", "thresh": 0.9}], "coef": [1, 0.4]}}))
    config = builder.resolve(load_config(str(path)))
    (mixed, one), (ohem, other) = builder.build_criteria(config, builder.build_model(config))
    assert [type(loss) for loss in mixed.losses] == [CrossEntropyLoss, LovaszSoftmaxLoss] and mixed.coef == [0.8, 0.2]
    assert (one, other, ohem.min_kept, ohem.thresh) == (1, 0.4, 10000, 0.9)
    assert {loss.ignore_index for loss in (*mixed.losses, ohem)} == {255}
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.info", lines.append)
    builder.log_class_weights(config, [f"class_{number}" for number in range(19)])
    assert [row.split() for row in lines[0].splitlines()[1:]] == [[f"class_{i}", f"{i}.000"] for i in range(19)]
