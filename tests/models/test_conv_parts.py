"""A convolution by groups of input channels."""

import numpy as np
import paddle
import pytest

from paddleseg.models import layers
from paddleseg.models.layers import conv_parts


def results(layer, x, bound, monkeypatch):
    """Output and gradients of a layer, and how many convolutions it took."""
    calls = []
    monkeypatch.setattr(conv_parts, "MATRIX_BYTES", bound)
    real = conv_parts.F.conv2d
    monkeypatch.setattr(conv_parts.F, "conv2d", lambda *args: calls.append(args) or real(*args))
    layer.clear_gradients()
    x = x.detach()
    x.stop_gradient = False
    out = layer(x)
    (out * paddle.linspace(-1, 1, out.size, out.dtype).reshape(out.shape)).sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in layer.parameters() if not parameter.stop_gradient)]
    return [value.numpy() for value in [out, *gradients]], len(calls)


@pytest.mark.parametrize("kernel, stride, padding, dilation, bias_attr", [
    (3, 1, "same", 1, None), (3, 1, 2, 2, False), (3, 2, 1, 1, None), ((1, 3), 1, (0, 1), 1, None)])
def test_groups_add_up_to_the_whole(float64, monkeypatch, kernel, stride, padding, dilation, bias_attr):
    paddle.seed(0)
    layer = layers.ConvBNReLU(7, 4, kernel, padding, stride=stride, dilation=dilation, bias_attr=bias_attr)
    x = paddle.randn([2, 7, 9, 11])
    whole, calls = results(layer, x, 2 ** 30, monkeypatch)
    assert calls == 0
    kernel_pixels = layer._conv.weight[0, 0].size
    in_groups, calls = results(layer, x, 3 * kernel_pixels * 8 * (99 // stride ** 2), monkeypatch)
    assert calls == 3  # of 3, 3 and 1 channels
    for ours, expected in zip(in_groups, whole):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


def test_no_groups_in_evaluation_nor_for_a_kernel_of_one_pixel(monkeypatch):
    x = paddle.randn([1, 8, 5, 5])
    assert results(layers.ConvBNReLU(8, 3, 1, padding=0), x, 1, monkeypatch)[1] == 0
    layer = layers.ConvBNReLU(8, 3, 3, padding=1)
    assert results(layer, x, 1, monkeypatch)[1] == 8
    monkeypatch.setattr(conv_parts.F, "conv2d", None)
    layer.eval()
    assert layer(x).shape == [1, 3, 5, 5]


def test_a_map_smaller_than_the_stride_is_convolved():
    layer = layers.ConvBNReLU(4, 3, 3, stride=2, padding=1)
    assert layer(paddle.randn([1, 4, 1, 5])).shape == [1, 3, 1, 3]
