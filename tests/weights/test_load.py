"""Loading is strict: everything fits, or nothing is loaded and everything that doesn't is named."""

import numpy as np
import paddle
import pytest

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import files
from paddleseg.weights.load import load_into, load_pretrained, load_weights
from paddleseg.weights.write import write_weights


@pytest.fixture
def layer():
    return paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 1), paddle.nn.BatchNorm2D(3))


@pytest.fixture
def fitting(layer):
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=value.shape).astype("float32") for key, value in layer.state_dict().items()}


def expect_state(layer, expected):
    assert layer.state_dict().keys() == expected.keys()
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[key].astype("float32"))


def state_of(layer):
    return {key: value.numpy() for key, value in layer.state_dict().items()}


@pytest.mark.parametrize("change", [
    lambda value: value, lambda value: value.astype("float16"), lambda value: value.astype("float64"),
    np.asfortranarray, lambda value: np.repeat(value, 2, axis=0)[::2]])
def test_sets_parameters_and_buffers_and_casts_floats(layer, fitting, change):
    weights = {key: change(value) for key, value in fitting.items()}
    assert load_into(layer, weights, "x") == 6
    expect_state(layer, weights)


def test_reports_everything_and_loads_nothing(layer, fitting):
    before = state_of(layer)
    del fitting["0.bias"], fitting["1._mean"]
    fitting["0.weight"] = np.zeros([3, 2, 3, 3], "float32")
    fitting["1.bias"] = np.zeros([3], "int64")
    fitting.update({f"extra{i}\x1b": np.zeros(1) for i in range(7)})
    with pytest.raises(WeightsError) as caught:
        load_into(layer, fitting, "output/x.pdparams")
    message = str(caught.value)
    assert message.isprintable()
    for part in ("output/x.pdparams", "2 of 6", "0.bias, 1._mean;", "extra4?, … (+2 more)", "3x2x3x3", "int64"):
        assert part in message
    expect_state(layer, before)


@pytest.mark.parametrize("nothing", [None, "None", ""])
def test_from_scratch(layer, nothing):
    before = state_of(layer)
    assert load_pretrained(layer, nothing) is None
    expect_state(layer, before)


def test_a_path_with_a_classifier(layer, fitting, tmp_path):
    path = str(tmp_path / "x.pdparams")
    write_weights(path, {**fitting, "fc.weight": np.zeros([3, 4])})
    assert load_pretrained(layer, path) == path
    expect_state(layer, fitting)
    with pytest.raises(WeightsError, match="unexpected: fc.weight"):
        load_weights(layer, path)
    write_weights(path, {**fitting, "head.weight": np.zeros([3, 4])})
    with pytest.raises(WeightsError, match="unexpected: head.weight"):
        load_pretrained(layer, path)


def test_checksums_beside_the_file_are_verified(layer, fitting, tmp_path):
    path = str(tmp_path / "x.pdparams")
    write_weights(path, fitting)
    files.write_sums(str(tmp_path))
    load_weights(layer, path)
    write_weights(path, {key: value + 1 for key, value in fitting.items()})
    with pytest.raises(WeightsError, match="SHA256SUMS"):
        load_weights(layer, path)
    expect_state(layer, fitting)


@pytest.mark.parametrize("pretrained, word", [
    ("absent/x.pdparams", "doesn't exist"), ("ftp://host/x", "https"), ("file:///etc/passwd", "https"),
    (".", "folder")])
def test_pretrained_that_cannot_be_found(layer, pretrained, word):
    with pytest.raises(WeightsError, match=word):
        load_pretrained(layer, pretrained)
