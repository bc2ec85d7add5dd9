import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddleseg.models import layers
from paddleseg.models.layers.conv_bn import make_dropout
from paddleseg.models.layers.sync_batch_norm import CPUSyncBatchNorm


@pytest.mark.parametrize("device, world, expected", [
    ("cpu", 1, nn.BatchNorm1D), ("cpu", 2, CPUSyncBatchNorm),
    ("gpu:0", 1, nn.BatchNorm1D), ("gpu:0", 2, nn.SyncBatchNorm)])
def test_batch_norms_are_synchronised_over_several_processes(monkeypatch, device, world, expected):
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: world)
    layer = layers.SyncBatchNorm(3, single_process=nn.BatchNorm1D)
    assert type(layer) is expected
    assert list(layer.state_dict()) == ["weight", "bias", "_mean", "_variance"]


def test_conv_bn_relu_is_made_of_its_parts():
    layer = layers.ConvBNReLU(3, 4, 3, stride=2, padding=1, dilation=1)
    x = paddle.randn([2, 3, 7, 9])
    expected = nn.functional.relu(layer._batch_norm(layer._conv(x)))
    np.testing.assert_array_equal(layer(x).numpy(), expected.numpy())
    assert tuple(expected.shape) == (2, 4, 4, 5)


def test_aux_layer_names_and_shape():
    layer = layers.AuxLayer(6, 4, 3)
    names = [name for name in layer.state_dict() if "_batch_norm" not in name]
    assert names == ["conv_bn_relu._conv.weight", "conv_bn_relu._conv.bias", "conv.weight", "conv.bias"]
    assert tuple(layer(paddle.randn([2, 6, 5, 7])).shape) == (2, 3, 5, 7)


def test_spatial_dropout_drops_whole_channels():
    ones = paddle.ones([8, 16, 4, 4])
    assert make_dropout(0.5, spatial=True)(ones).numpy().std(axis=(2, 3)).max() == 0
    assert make_dropout(0.5, spatial=False)(ones).numpy().std(axis=(2, 3)).max() > 0


def half_pixel_resize(x, size):
    """Bilinear by definition: output i reads at (i + 0.5) * in / out - 0.5, clamped to the map."""
    for axis, length in zip((2, 3), size):
        at = np.clip((np.arange(length) + 0.5) * x.shape[axis] / length - 0.5, 0, x.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low).reshape([-1, 1] if axis == 2 else [1, -1])
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (12, 14), (3, 2)])
@pytest.mark.parametrize("source", [(6, 7), (1, 1), (5, 1)])
def test_resize_follows_the_half_pixel_rule_down_to_one_pixel(source, size):
    x = paddle.randn([2, 3, *source])
    out = layers.resize(x, paddle.zeros([1, 1, *size]))
    np.testing.assert_allclose(out.numpy(), half_pixel_resize(x.numpy(), size), atol=1e-5)


def test_resize_with_aligned_corners_keeps_the_corners():
    x = paddle.randn([1, 2, 4, 5])
    out = layers.resize(x, paddle.zeros([1, 1, 9, 11]), align_corners=True)
    np.testing.assert_allclose(out.numpy()[:, :, ::8, ::10], x.numpy()[:, :, ::3, ::4], atol=1e-6)


@pytest.mark.parametrize("kind, shape", [(paddle.nn.BatchNorm2D, [2, 3, 4, 5]), (paddle.nn.BatchNorm1D, [2, 3, 7])])
def test_unbiased_running_variance_follows_the_definition(float64, kind, shape):
    model = paddle.nn.Sequential(kind(3))
    layers.use_unbiased_variance(model)
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = paddle.randn(shape)
        model(x)
        values = x.numpy().swapaxes(0, 1).reshape(3, -1)
        mean = 0.9 * mean + 0.1 * values.mean(axis=1)
        variance = 0.9 * variance + 0.1 * values.var(axis=1, ddof=1)
    np.testing.assert_allclose(model[0]._mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(model[0]._variance.numpy(), variance, rtol=1e-12)
    before = model[0]._variance.numpy()
    model.eval()
    model(paddle.randn(shape))
    np.testing.assert_array_equal(model[0]._variance.numpy(), before)
