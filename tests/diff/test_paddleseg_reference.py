"""The process that runs PaddleSeg: recorded draws, and how it fails."""

import random

import numpy as np
import pytest

from diff import inputs, paddleseg_reference
from paddleseg.cvlibs.errors import ConfigError, RunError, WeightsError


def test_draws_are_recorded_in_order_and_unchanged():
    def draw():
        values = [np.random.uniform(2, 3), random.random(), list("abcde"), None]
        random.shuffle(values[2])
        values[3] = np.random.randint(9)
        return values

    np.random.seed(3)
    random.seed(3)
    with paddleseg_reference.recorded_draws() as drawn:
        watched = draw()
    assert [value for _, value in drawn] == watched
    assert [name for name, _ in drawn] == ["uniform", "random", "shuffle", "randint"]
    np.random.seed(3)
    random.seed(3)
    assert draw() == watched and len(drawn) == 4


class RandomHorizontalFlip:
    prob = 0.5

    def __init__(self, draws=1):
        self.draws = draws

    def __call__(self, sample):
        return {**sample, "flip": [random.random() for _ in range(self.draws)][0] < self.prob}


def test_a_decision_is_recorded_under_the_transforms_name():
    for seed in range(4):
        random.seed(seed)
        decisions = {}
        (transform,) = paddleseg_reference.recording([RandomHorizontalFlip()], paddleseg_reference.DECISIONS, decisions)
        assert decisions == {} and transform({})["flip"] is decisions["RandomHorizontalFlip"]
    transforms = paddleseg_reference.recording([RandomHorizontalFlip(draws=2)], paddleseg_reference.DECISIONS, {})
    with pytest.raises(ValueError, match="drew more"):
        transforms[0]({})


class Distort:
    brightness_prob, hue_prob = 0.5, 0.5


def test_decisions_of_paddlesegs_transforms():
    def brightness():
        pass

    def hue():
        pass
    decide = paddleseg_reference.DECISIONS["RandomDistort"]
    assert decide(Distort, iter([[hue, brightness], 0.2, -3.5, 0.9])) == [("hue", -3.5)]
    assert decide(Distort, iter([[hue, brightness], 0.7, 0.1, 1.25])) == [("brightness", 1.25)]
    decide = paddleseg_reference.DECISIONS["RandomPaddingCrop"]
    assert decide(None, iter([])) == (0, 0) and decide(None, iter([4, 9])) == (4, 9)


def test_a_folder_without_paddleseg_is_an_error(tmp_path):
    with pytest.raises(RunError, match="make align-env"):
        paddleseg_reference.Worker(str(tmp_path))


def test_what_paddleseg_says_last_is_in_the_error(tmp_path):
    package = tmp_path / "paddleseg"
    (package / "models").mkdir(parents=True)
    (package / "models" / "encnet.py").touch()
    (package / "__init__.py").write_text("print('a word')\nraise RuntimeError('broken wheel')\n")
    with pytest.raises(RunError, match="failed at metric: RuntimeError: broken wheel"):
        paddleseg_reference.Worker(str(tmp_path)).ask("metric")


# With PaddleSeg itself.


@pytest.fixture(scope="module")
def folder():
    pytest.importorskip("torch")  # the environment of the alignment, which has what PaddleSeg imports
    try:
        return paddleseg_reference.find_folder()
    except RunError:
        pytest.skip("PaddleSeg isn't installed")


@pytest.fixture
def sides(folder, float64):
    from diff import ours
    setup = inputs.Setup(depth=18)
    config = inputs.recipe("paddleseg", setup)
    weights = ours.random_weights(config)
    return (ours.PaddleSide(config, weights, "float64"),
            paddleseg_reference.Side(setup, weights, "float64", folder, threads=1))


def test_either_reads_the_others_weights_and_computes_the_same(sides):
    ours, theirs = sides
    images, label = inputs.images((64, 128), "float64"), inputs.label((64, 128))
    for train in (True, False):
        stages = ours.forward(images, train), theirs.forward(images, train)
        assert stages[0].keys() == stages[1].keys()
        for name, array in stages[1].items():
            assert np.abs(stages[0][name] - array).max() <= 1e-12 * np.abs(array).max(), name
    losses = ours.backward(images, label), theirs.backward(images, label)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert ours.gradients().keys() == theirs.gradients().keys()
    assert ours.update() == theirs.update() == 0.01
    state = ours.state(), theirs.state()
    assert state[0].keys() == state[1].keys()
    for name, array in state[1].items():
        assert np.abs(state[0][name] - array).max() <= 1e-12 * np.abs(array).max(), name


def test_the_losses_differ_by_paddlesegs_epsilon(folder):
    theirs = paddleseg_reference.Side(inputs.Setup(depth=18), {}, "float64", folder)
    logits = inputs.logits((64, 128), "float64")
    for _, label in inputs.loss_cases((64, 128)):
        valid = (label != inputs.IGNORE_INDEX)[:, None]
        maximum = logits["seg"].max(axis=1, keepdims=True)
        log_sum = maximum + np.log(np.exp(logits["seg"] - maximum).sum(axis=1, keepdims=True))
        classes = np.where(valid, label[:, None], 0)
        pixels = np.where(valid, log_sum - np.take_along_axis(logits["seg"], classes, axis=1), 0)
        expected = pixels.mean() / (valid.mean() + 1e-8)
        assert theirs.losses(logits, label)["seg"] == pytest.approx(expected, rel=1e-13, abs=0)


def test_learning_rates_are_the_recipes(folder):
    rates = paddleseg_reference.learning_rates(inputs.Setup(iters=50), folder)
    np.testing.assert_allclose(rates, 0.01 * (1 - np.arange(50) / 50) ** 0.9, rtol=1e-15)


def test_what_is_refused(folder):
    side = paddleseg_reference.Side(inputs.Setup(depth=18, base_channels=8), {}, "float64", folder)
    with pytest.raises(ConfigError, match="has 64"):
        side.state()
    side = paddleseg_reference.Side(inputs.Setup(depth=18), {"head.bias": np.zeros(19)}, "float64", folder)
    with pytest.raises(WeightsError, match="differs from ours"):
        side.state()
