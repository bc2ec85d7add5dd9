import numpy as np
import paddle
import pytest

from paddleseg.models.layers import Encoding


def direct_encoding(x, codewords, scale):
    """The definition, residual by residual; x is (N, P, D)."""
    residual = x[:, :, None] - codewords
    logits = scale * (residual ** 2).sum(-1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights[..., None] * residual).sum(1)


def as_pixels(x):
    """(N, D, H, W) to (N, P, D)."""
    return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 32)])
def test_equals_the_definition(float64, size):
    layer = Encoding(channels=6, num_codes=4)
    x = paddle.randn([2, 6, *size])
    expected = direct_encoding(as_pixels(x.numpy()), layer.codewords.numpy(), layer.scale.numpy())
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_gradients_equal_central_differences_of_the_definition(float64):
    layer = Encoding(channels=3, num_codes=4)
    x = paddle.randn([2, 3, 3, 5])
    x.stop_gradient = False
    direction = paddle.randn([2, 4, 3])
    (layer(x) * direction).sum().backward()
    arrays = [x.numpy(), layer.codewords.numpy(), layer.scale.numpy()]

    def objective(x, codewords, scale):
        return (direct_encoding(as_pixels(x), codewords, scale) * direction.numpy()).sum()

    for which, tensor in enumerate([x, layer.codewords, layer.scale]):
        numeric = np.zeros_like(arrays[which])
        for index in np.ndindex(*numeric.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [array.copy() for array in arrays]
                moved[which][index] += step
                sides.append(objective(*moved))
            numeric[index] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(tensor.grad.numpy(), numeric, rtol=1e-6, atol=1e-7)


def test_start_values_lie_in_the_papers_ranges():
    layer = Encoding(channels=50, num_codes=32)
    bound = (50 * 32) ** -0.5
    assert 0.9 * bound < layer.codewords.abs().max().item() <= bound
    assert -1 <= layer.scale.min().item() < layer.scale.max().item() <= 0


def test_half_precision_input_is_computed_in_float32():
    layer = Encoding(channels=8, num_codes=4)
    x = (300 * paddle.randn([1, 8, 4, 4])).astype("float16")  # squares to values beyond float16
    out = layer(x)
    assert out.dtype == paddle.float32
    np.testing.assert_array_equal(out.numpy(), layer(x.astype("float32")).numpy())
    assert np.isfinite(out.numpy()).all()
