import itertools

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg.core import upsample
from paddleseg.core.upsample import Resize, make_sheet, probabilities_argmax, upsampled_argmax, windows_argmax


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

    def spy(sheets, which, down, across):
        pixels.append(len(which) * len(down) * len(across))
        return compute(sheets, which, down, across)

    monkeypatch.setattr(upsample, "_fast_argmax", spy)
    monkeypatch.setattr(upsample, "_interpolate", None)  # nor does rounding decide anywhere
    classes = upsampled_argmax(paddle.to_tensor(logits), (128, 256), False, (128, 256))
    np.testing.assert_array_equal(classes.numpy(), by_definition(logits, (128, 256), False, (128, 256)))
    assert 2 * 32 * 32 <= sum(pixels) < classes.size * 4 // 10  # classes 2 and 3, where the one pixel reaches


def stepwise(logits, steps):
    """The logits after each resize and mirroring, by Paddle and NumPy."""
    for step in steps:
        if list(step.size) != list(logits.shape[2:]):
            logits = F.interpolate(paddle.to_tensor(logits), list(step.size), mode="bilinear",
                                   align_corners=step.align_corners).numpy()
        logits = np.ascontiguousarray(np.flip(logits, [axis + 2 for axis in step.mirrored]))
    return logits


def remote_ties(classes, height, width, seed=0):
    """Large logits, whose rounding moves probabilities by a percent."""
    return np.float32(3e4) + np.float32(1e-2) * noise(classes, height, width, seed)


def faint_ties(classes, height, width, seed=0):
    """Logits that differ by less than probabilities are rounded by."""
    return np.float32(1e-7) * noise(classes, height, width, seed)


KINDS = [noise, regions, ties, near_ties, remote_ties, faint_ties]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size, window, starts", [
    ((96, 160), (64, 80), ((0, 16, 32), (0, 40, 80))), ((97, 131), (50, 61), ((0, 13, 31, 47), (0, 29, 70))),
    ((40, 50), (40, 50), ((0,), (0,))), ((40, 50), (40, 20), ((0,), (0, 7, 14, 21, 30)))])
@pytest.mark.parametrize("coarse", [(8, 10), (13, 17)])
def test_the_mean_of_windows_equals_that_of_whole_tensors(kind, size, window, starts, coarse):
    boxes = [(slice(top, top + window[0]), slice(left, left + window[1])) for top in starts[0] for left in starts[1]]
    logits = [kind(5, *coarse, seed) for seed in range(len(boxes))]
    total, count = np.zeros((5, *size), np.float32), np.zeros(size, np.float32)
    for box, values in zip(boxes, logits):
        total[:, box[0], box[1]] += stepwise(values, [Resize(window)])[0]
        count[box] += 1.0
    sheets = [make_sheet(paddle.to_tensor(values), [Resize(window)]) for values in logits]
    for crop in (size, (size[0] - 13, size[1] - 29)):
        classes = windows_argmax(sheets, boxes, crop)
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(classes, (total / count).argmax(axis=0)[:crop[0], :crop[1]])


def test_a_lead_that_the_division_by_three_levels_is_a_tie():
    """Of sums a unit apart between 3 and 4, one third have the same third as the next."""
    boxes, levelled = [(slice(0, 32), slice(0, 32))] * 3, 0
    for lower, lead in itertools.product(range(4), range(3)):
        logits = np.ones((3, 1, 2, 4, 4), np.float32)
        logits[2] += np.float32(lower * 2 ** -22)
        logits[2, 0, 1] += np.float32(lead * 2 ** -22)
        whole = [stepwise(values, [Resize((32, 32))])[0] for values in logits]
        total = whole[0] + whole[1] + whole[2]
        expected = (total / np.float32(3)).argmax(axis=0)
        levelled += (total.argmax(axis=0) != expected).sum()
        sheets = [make_sheet(paddle.to_tensor(values), [Resize((32, 32))]) for values in logits]
        np.testing.assert_array_equal(windows_argmax(sheets, boxes, (32, 32)), expected)
    assert levelled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_sum_of_probabilities_equals_that_of_whole_tensors(kind, align_corners):
    size = (96, 160)
    ways = [((9, 15), (72, 120), ()), ((12, 20), size, ()), ((12, 20), size, (1,)), ((15, 25), (120, 200), (0, 1)),
            ((72, 120), (72, 120), (0,))]
    logits = [kind(19, *coarse, seed) for seed, (coarse, _, _) in enumerate(ways)]
    steps = [[Resize(scaled, align_corners, mirrored), Resize(size)] for _, scaled, mirrored in ways]
    total = sum(F.softmax(paddle.to_tensor(stepwise(values, way)), axis=1) for values, way in zip(logits, steps))
    sheets = [make_sheet(paddle.to_tensor(values), way) for values, way in zip(logits, steps)]
    for crop in (size, (81, 133)):
        np.testing.assert_array_equal(probabilities_argmax(sheets, crop),
                                      total[0].numpy().argmax(axis=0)[:crop[0], :crop[1]])


@pytest.mark.parametrize("kind", [noise, regions])
@pytest.mark.parametrize("mirrored", [(0,), (1,), (0, 1)])
def test_a_mirror_image_is_bounded_where_it_lies(kind, mirrored):
    for seed, steps in enumerate(([Resize((96, 160), False, mirrored)],
                                  [Resize((64, 112), False, mirrored), Resize((96, 160))]) * 5):
        logits = kind(3, 12, 20, seed)
        expected = F.softmax(paddle.to_tensor(stepwise(logits, steps)), axis=1)[0].numpy().argmax(axis=0)
        sheet = make_sheet(paddle.to_tensor(logits), steps)
        np.testing.assert_array_equal(probabilities_argmax([sheet], (96, 160)), expected)


@pytest.mark.parametrize("count", [1, 5, 63, 64, 429])
def test_the_softmax_of_some_pixels_is_that_of_the_picture(count):
    logits = 4 * noise(19, 64, 200)
    whole = F.softmax(paddle.to_tensor(logits), axis=1).numpy().reshape(19, -1)
    for start in range(7):
        which = np.arange(start, 12800, 7)[:count]
        np.testing.assert_array_equal(upsample._softmax(logits.reshape(19, -1)[:, which]), whole[:, which])


def test_bounds_of_probabilities_hold():
    rng = np.random.default_rng(0)
    for scale in (0.1, 3.0, 50.0, 1e4):
        smallest = (scale * rng.normal(size=(7, 40, 50))).astype(np.float32)
        largest = smallest + (scale * rng.uniform(0, 0.5, smallest.shape)).astype(np.float32)
        upper, lower = upsample._bounds_of_probabilities(largest, smallest)
        assert np.isfinite(upper).all() and np.isfinite(lower).all()
        for weight in rng.uniform(size=(20, *smallest.shape)) if scale < 1e4 else [np.ones(smallest.shape)]:
            x = smallest + weight.round() * (largest - smallest)
            p = np.exp(x - x.max(axis=0)) / np.exp(x - x.max(axis=0)).sum(axis=0)
            assert (p <= upper + 1e-6).all() and (p >= lower - 1e-6).all()


def test_most_tiles_need_no_probabilities(monkeypatch):
    logits = noise(4, 8, 16)
    logits[0, 2] += 20.0
    logits[0, 3, 5, 9] += 40.0
    pixels = []
    compute = upsample._fast_probabilities_argmax
    monkeypatch.setattr(upsample, "_fast_probabilities_argmax", lambda sheets, which, down, across: (
        pixels.append(len(down) * len(across)) or compute(sheets, which, down, across)))
    sheets = [make_sheet(paddle.to_tensor(values), [Resize((128, 256), False, mirrored)])
              for values, mirrored in ((logits, ()), (np.ascontiguousarray(logits[..., ::-1]), (1,)))]
    classes = probabilities_argmax(sheets, (128, 256))
    assert set(np.unique(classes)) == {2, 3} and sum(pixels) < classes.size // 5


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
    monkeypatch.setattr(upsample, "_interpolate", lambda coarse, rows, columns, down, across:
                        coarse[:, down % 9, across % 11])
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
