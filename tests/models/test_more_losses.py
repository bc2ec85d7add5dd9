import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.losses import CrossEntropyLoss, LovaszSoftmaxLoss, MixedLoss, OhemCrossEntropyLoss

CLASSES = 5


def small_case(dtype="float32", ignored=0.3):
    """Logits and a label in which class 4 doesn't occur."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, (2, CLASSES, 6, 7)).astype(dtype)
    label = rng.integers(0, CLASSES - 1, (2, 6, 7))
    label[rng.random(label.shape) < ignored] = 255
    return logit, label


def loss_and_grad(loss, logit, label):
    logit = paddle.to_tensor(logit, stop_gradient=False)
    value = loss(logit, paddle.to_tensor(label))
    value.backward()
    assert value.ndim == 0
    return value.item(), logit.grad.numpy()


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


@pytest.mark.parametrize("classes, meant", [("present", [0, 1, 2, 3]), ("all", range(CLASSES)), ([2], [2]),
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


@pytest.mark.parametrize("make, message", [
    (lambda: CrossEntropyLoss(weight=[1.0, -0.5]), r"weight \[1.0, -0.5\]: each must be at least 0"),
    (lambda: CrossEntropyLoss(weight=[1.0, float("nan")]), "at least 0 and finite"),
    (lambda: CrossEntropyLoss(weight=[0.0, 0.0]), "one above 0"),
    (lambda: OhemCrossEntropyLoss(thresh=1.5), "thresh 1.5 must be within 0..1"),
    (lambda: OhemCrossEntropyLoss(min_kept=-1), "min_kept -1 at least 0"),
    (lambda: LovaszSoftmaxLoss(classes="some"), "classes 'some' must be present, all"),
    (lambda: MixedLoss([CrossEntropyLoss()], [0.5, 0.5]), "MixedLoss has 1 losses and 2 coef"),
    (lambda: LovaszSoftmaxLoss(classes=[9])(paddle.zeros([1, 2, 3, 3]), paddle.zeros([1, 3, 3])), "not all within 0"),
    (lambda: LovaszSoftmaxLoss()(paddle.zeros([1, 2]), paddle.zeros([1, 3, 3])), r"\(N, C\) of the SE layer"),
    (lambda: OhemCrossEntropyLoss()(paddle.zeros([1, 2, 3, 4]), paddle.zeros([1, 3, 3])), "the same pixels"),
])
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


RECIPE = """
batch_size: 1
iters: 1
train_dataset: {type: Cityscapes, dataset_root: nowhere, transforms: []}
model: {type: FCN, backbone: {type: ResNet18_v1c, base_channels: 4}}
optimizer: {type: SGD}
lr_scheduler: {type: ConstantLR, learning_rate: 0.1}
loss:
  types:
    - type: MixedLoss
      losses:
        - type: CrossEntropyLoss
          weight: [%s]
        - type: LovaszSoftmaxLoss
      coef: [0.8, 0.2]
    - {type: OhemCrossEntropyLoss, min_kept: 100000, thresh: 0.9}
  coef: [1, 0.4]
"""


def check(tmp_path, recipe):
    from paddleseg import builder
    from paddleseg.cvlibs.config import load_config

    (tmp_path / "recipe.yml").write_text(recipe)
    config = builder.resolve(load_config(str(tmp_path / "recipe.yml")))
    return builder, config


def test_in_a_recipe_as_paddleseg_writes_them(tmp_path):
    builder, config = check(tmp_path, RECIPE % ", ".join(["0.5"] * 19))
    (mixed, one), (ohem, other) = builder.build_criteria(config, builder.build_model(config))
    assert [type(loss) for loss in mixed.losses] == [CrossEntropyLoss, LovaszSoftmaxLoss] and mixed.coef == [0.8, 0.2]
    assert (one, other, ohem.min_kept, ohem.thresh) == (1, 0.4, 100000, 0.9)
    assert {loss.ignore_index for loss in (*mixed.losses, ohem)} == {255}
    logit, label = paddle.randn([1, 19, 4, 4]), paddle.zeros([1, 4, 4], "int64")
    expected = 0.8 * F.cross_entropy(logit, label.unsqueeze(1), axis=1) + 0.2 * LovaszSoftmaxLoss()(logit, label)
    assert mixed(logit, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_are_said_by_name(tmp_path, monkeypatch):
    builder, config = check(tmp_path, RECIPE % ", ".join(str(number) for number in range(19)))
    lines = []
    monkeypatch.setattr("paddleseg.utils.logger.info", lines.append)
    builder.log_class_weights(config, [f"class_{number}" for number in range(19)])
    head, *rows = lines[0].splitlines()
    assert head == "class weights of CrossEntropyLoss:" and rows[:2] == ["  class_0     0.000", "  class_1     1.000"]
    assert len(rows) == 19 and rows[18].split() == ["class_18", "18.000"]
