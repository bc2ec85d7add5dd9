import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg.core import upsample
from paddleseg.core.upsample import upsampled_argmax


def by_definition(logits, size, align_corners, crop):
    up = F.interpolate(paddle.to_tensor(logits), list(size), mode="bilinear", align_corners=align_corners).numpy()
    return up[0, :, :crop[0], :crop[1]].argmax(axis=0)


def noise(classes, height, width, seed=0):
    return np.random.default_rng(seed).normal(size=(1, classes, height, width)).astype("float32")


def regions(classes, height, width, seed=0):
    """Like a trained network's: rectangles of one class each, some noise."""
    rng = np.random.default_rng(seed)
    logits = noise(classes, height, width, seed)
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        logits[0, rng.integers(classes), top:top + height // 2 + 1, left:left + width // 2 + 1] += rng.uniform(3, 20)
    return logits


def ties(classes, height, width, seed=0):
    return np.round(noise(classes, height, width, seed))


def near_ties(classes, height, width, seed=0):
    """A few units in the last place between all classes."""
    return np.float32(100) + np.float32(1e-5) * noise(classes, height, width, seed)


@pytest.fixture
def tiled(monkeypatch):
    """Fails the test if the plain path is taken."""
    calls = []
    compute = upsample._tiled_argmax
    monkeypatch.setattr(upsample, "_tiled_argmax", lambda *args: calls.append(args) or compute(*args))
    yield
    assert calls


@pytest.mark.parametrize("kind", [noise, regions, ties, near_ties])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("coarse, size", [
    ((8, 16), (128, 256)), ((16, 32), (128, 256)), ((13, 21), (97, 161)), ((33, 65), (257, 513)), ((7, 5), (50, 31)),
    ((40, 60), (23, 31)), ((20, 30), (20, 77)), ((20, 30), (45, 30)), ((2, 2), (90, 3)), ((60, 90), (100, 180))])
def test_equals_the_argmax_of_the_upsampled_logits(tiled, kind, align_corners, coarse, size):
    for crop in (size, (size[0] - size[0] // 3, size[1] - size[1] // 5), (1, 1)):
        logits = kind(19, *coarse)
        classes = upsampled_argmax(paddle.to_tensor(logits), size, align_corners, crop)
        assert classes.dtype == paddle.uint8 and tuple(classes.shape) == crop
        np.testing.assert_array_equal(classes.numpy(), by_definition(logits, size, align_corners, crop))


def test_equals_it_at_any_size(tiled):
    rng = np.random.default_rng(0)
    for seed in range(150):
        height, width, *size = (int(length) for length in rng.integers(2, 80, 4))
        logits = (noise, regions, near_ties)[seed % 3](5, height, width, seed)
        align_corners = bool(seed % 2)
        np.testing.assert_array_equal(
            upsampled_argmax(paddle.to_tensor(logits), size, align_corners, tuple(size)).numpy(),
            by_definition(logits, size, align_corners, size), err_msg=f"{(height, width)} to {size}, {align_corners}")


@pytest.mark.parametrize("lead", [1, 2, 4])  # units in the last place
@pytest.mark.parametrize("value", [0.3, 7.7, 100.0])
def test_a_lead_that_rounding_levels_is_a_tie(tiled, value, lead):
    logits = np.full((1, 2, 7, 9), value, np.float32)
    for _ in range(lead):
        logits[0, 1] = np.nextafter(logits[0, 1], np.float32(1e9))
    expected = by_definition(logits, (97, 131), False, (97, 131))
    assert lead > 2 or 0 < (expected == 0).sum() < expected.size
    np.testing.assert_array_equal(upsampled_argmax(paddle.to_tensor(logits), (97, 131), False, (97, 131)).numpy(),
                                  expected)


def test_more_than_256_classes_need_more_than_8_bits(tiled):
    logits = noise(300, 3, 4)
    logits[0, 280] += 2.0
    classes = upsampled_argmax(paddle.to_tensor(logits), (20, 30), False, (20, 30))
    assert classes.dtype == paddle.int32 and (classes.numpy() > 255).any()
    np.testing.assert_array_equal(classes.numpy(), by_definition(logits, (20, 30), False, (20, 30)))


def test_tiles_that_one_class_rules_are_not_interpolated(monkeypatch):
    logits = noise(4, 8, 16)
    logits[0, 2] += 20.0
    logits[0, 3, 5, 9] += 40.0
    pixels = []
    compute = upsample._fast_argmax

    def spy(part, rows, columns, dtype):
        pixels.append(len(part) * len(rows.lower) * len(columns.lower))
        return compute(part, rows, columns, dtype)

    monkeypatch.setattr(upsample, "_fast_argmax", spy)
    monkeypatch.setattr(upsample, "_interpolate", None)  # nor does rounding decide anywhere
    classes = upsampled_argmax(paddle.to_tensor(logits), (128, 256), False, (128, 256))
    np.testing.assert_array_equal(classes.numpy(), by_definition(logits, (128, 256), False, (128, 256)))
    assert 2 * 32 * 32 <= sum(pixels) < classes.size * 4 // 10  # classes 2 and 3, where the one pixel reaches


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_take_the_plain_path(value):
    logits = noise(3, 6, 7)
    logits[0, 1, 2, 3] = value
    x = paddle.to_tensor(logits)
    expected = F.interpolate(x, [40, 50], mode="bilinear").argmax(axis=1)[0].numpy()
    np.testing.assert_array_equal(upsampled_argmax(x, (40, 50), False, (40, 50)).numpy(), expected)


@pytest.mark.parametrize("shape, size, dtype", [((1, 3, 6, 7), (1, 50), "float32"), ((1, 3, 1, 7), (40, 50), "float32"),
                                                ((1, 3, 6, 7), (40, 50), "float64"), ((1, 3, 6, 7), (6, 7), "float32")])
def test_what_the_tiles_are_not_made_for_takes_the_plain_path(monkeypatch, shape, size, dtype):
    monkeypatch.setattr(upsample, "_tiled_argmax", None)
    logits = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.testing.assert_array_equal(upsampled_argmax(paddle.to_tensor(logits), size, False, size).numpy(),
                                  by_definition(logits, size, False, size))


def test_a_paddle_that_rounds_otherwise_takes_the_plain_path(monkeypatch):
    logits = noise(3, 6, 7)
    expected = by_definition(logits, (40, 50), False, (40, 50))
    upsample._rounds_as_paddle.cache_clear()
    monkeypatch.setattr(upsample, "_interpolate", lambda part, rows, columns: part)
    try:
        assert not upsample._rounds_as_paddle()
        np.testing.assert_array_equal(upsampled_argmax(paddle.to_tensor(logits), (40, 50), False, (40, 50)).numpy(),
                                      expected)
    finally:
        upsample._rounds_as_paddle.cache_clear()


def test_the_default_dtype_does_not_matter(float64, tiled):
    upsample._axis.cache_clear()
    logits = noise(3, 9, 8)
    np.testing.assert_array_equal(upsampled_argmax(paddle.to_tensor(logits), (31, 29), False, (31, 29)).numpy(),
                                  by_definition(logits, (31, 29), False, (31, 29)))
