"""PaddleSeg's family against direct formulations, pixel by pixel."""

from collections import Counter

import cv2
import numpy as np
import pytest

from paddleseg import transforms as T
from paddleseg.cvlibs.errors import DataError


def sample(size=(6, 8), seed=0):
    rng = np.random.default_rng(seed)
    return {"img": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            "label": rng.integers(0, 19, size, dtype=np.uint8),
            "gt_fields": ["label"], "trans_info": [], "path": "a.png", "rng": np.random.default_rng(seed)}


def bilinear(image, size):
    """Bilinear interpolation at the pixels' centres, the border repeated."""
    def weights(new, old):
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(old)))

    rows, columns = (weights(new, old) for new, old in zip(size, image.shape))
    return np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(np.float64))


def nearest(label, size):
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape))
    return label[np.ix_(rows, columns)]


@pytest.mark.parametrize("width, height", [(16, 12), (5, 9), (8, 6), (3, 2), (1, 1)])
def test_resize(width, height):
    data = sample()
    resized = T.Resize([width, height])(data)
    np.testing.assert_allclose(resized["img"], bilinear(data["img"], (height, width)), atol=0.01)
    np.testing.assert_array_equal(resized["label"], nearest(data["label"], (height, width)))


def test_resize_keeps_fractions():
    data = {**sample(), "img": np.array([[[0] * 3, [1] * 3]], np.uint8), "gt_fields": []}
    np.testing.assert_allclose(T.Resize([4, 1])(data)["img"][0, :, 0], [0, 0.25, 0.75, 1])


@pytest.mark.parametrize("arguments, size, expected", [
    ({"target_size": [100, 50]}, (10, 20), (50, 100)),
    ({"target_size": [100, 50], "keep_ratio": True}, (10, 30), (33, 100)),
    ({"target_size": [100, 50], "keep_ratio": True}, (30, 10), (100, 33)),
    ({"target_size": [100, 50], "keep_ratio": True}, (10, 10), (50, 50)),
    ({"target_size": [100, 50], "keep_ratio": True, "size_divisor": 32}, (10, 30), (64, 128)),
    ({"target_size": [64, 32], "size_divisor": 32}, (10, 30), (32, 64)),
])
def test_resize_sizes(arguments, size, expected):
    data = T.Resize(**arguments)(sample(size))
    assert data["img"].shape[:2] == data["label"].shape == expected


def test_random_interpolation_uses_them_all():
    transform, rng = T.Resize([4, 4], interp="RANDOM"), np.random.default_rng(0)
    drawn = {transform.decide({"rng": rng}) for _ in range(100)}
    assert drawn == {"NEAREST", "LINEAR", "CUBIC", "AREA", "LANCZOS4"}


@pytest.mark.parametrize("transform, size, expected", [
    (T.ResizeByLong(20), (10, 40), (5, 20)),
    (T.ResizeByLong(20), (40, 10), (20, 5)),
    (T.ResizeByLong(3), (2, 100), (1, 3)),
    (T.ResizeByShort(20), (10, 40), (20, 80)),
    (T.ResizeByShort(20, max_size=50), (10, 40), (12, 48)),
    (T.ResizeByShort(20, max_size=80), (10, 40), (20, 80)),
    (T.ResizeStepScaling(0.5, 0.5), (5, 7), (2, 4)),
    (T.ResizeStepScaling(0.5, 0.5), (1, 11), (1, 6)),
])
def test_proportional_sizes(transform, size, expected):
    data = transform(sample(size))
    assert data["img"].shape[:2] == data["label"].shape == expected


def test_step_scaling_draws_every_step_alike():
    transform, rng = T.ResizeStepScaling(0.5, 2.0, 0.25), np.random.default_rng(0)
    counts = Counter(transform.decide({"rng": rng}) for _ in range(7000))
    assert sorted(counts) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert all(850 < count < 1150 for count in counts.values())


def test_step_scaling_without_steps_is_uniform():
    transform, rng = T.ResizeStepScaling(0.5, 2.0, 0), np.random.default_rng(0)
    factors = np.array([transform.decide({"rng": rng}) for _ in range(4000)])
    assert factors.min() >= 0.5 and factors.max() <= 2.0
    np.testing.assert_allclose(np.quantile(factors, [0.25, 0.5, 0.75]), [0.875, 1.25, 1.625], atol=0.05)


@pytest.mark.parametrize("size", [(6, 8), (3, 8), (6, 4), (3, 4), (4, 5)])
@pytest.mark.parametrize("value", [127.5, [1.0, 2.0, 3.0]])
def test_padding_crop(size, value):
    data = sample(size)
    transform = T.RandomPaddingCrop([5, 4], im_padding_value=value, label_padding_value=200)
    top, left = corner = transform.decide(data)
    cropped = transform.apply(data, corner)
    assert cropped["img"].shape == (4, 5, 3)
    for y in range(4):
        for x in range(5):
            inside = top + y < size[0] and left + x < size[1]
            source = top + y, left + x
            np.testing.assert_array_equal(cropped["img"][y, x], data["img"][source] if inside else value)
            assert cropped["label"][y, x] == (data["label"][source] if inside else 200)
    assert cropped["trans_info"] == []


@pytest.mark.parametrize("target", [[8, 6], [11, 9], [8, 7]])
def test_padding(target):
    data = sample((6, 8))
    padded = T.Padding(target, im_padding_value=[0, 127.5, 3], label_padding_value=254)(data)
    assert padded["img"].shape == (target[1], target[0], 3)
    np.testing.assert_array_equal(padded["img"][:6, :8], data["img"])
    np.testing.assert_array_equal(padded["label"][:6, :8], data["label"])
    outside = np.ones((target[1], target[0]), bool)
    outside[:6, :8] = False
    assert (padded["img"][outside] == [0, 127.5, 3]).all() and (padded["label"][outside] == 254).all()
    assert padded["trans_info"] == [("padding", (6, 8))]


@pytest.mark.parametrize("target", [[7, 6], [8, 5]])
def test_padding_a_larger_image(target):
    with pytest.raises(DataError, match=r"a.png .*\[8, 6\].*target_size"):
        T.Padding(target)(sample((6, 8)))


@pytest.mark.parametrize("kind, arguments, axes", [
    (T.RandomHorizontalFlip, {}, 1), (T.RandomVerticalFlip, {}, 0),
    *((T.RandomFlip, {"direction": direction}, axes)
      for direction, axes in (("horizontal", 1), ("vertical", 0), ("diagonal", (0, 1))))])
def test_flips(kind, arguments, axes):
    data = sample()
    flipped = kind(1, **arguments)(data)
    for key in ("img", "label"):
        np.testing.assert_array_equal(flipped[key], np.flip(data[key], axes))
    assert kind(0, **arguments)(data) is data
    assert 500 < sum(kind(0.3, **arguments).decide(data) for _ in range(2000)) < 700


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalize(dtype):
    image = np.arange(256, dtype=dtype).reshape(16, 16, 1).repeat(3, axis=2)
    data = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])({"img": image})
    assert data["img"].dtype == np.float32
    paddleseg = (image.astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    mmseg = (image.astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(data["img"], paddleseg, rtol=0, atol=1e-6)
    np.testing.assert_allclose(data["img"], mmseg, rtol=0, atol=1e-6)


def test_distort_cuts_fractions_and_clips():
    image = np.array([[[10.9, 0.0, 255.0], [-4.0, 260.0, 99.5]]], np.float32)
    for transform in (T.RandomDistort(), T.PhotoMetricDistortion()):
        distorted = transform.apply({"img": image}, [])["img"]
        np.testing.assert_array_equal(distorted, [[[10, 0, 255], [0, 255, 99]]])


def test_distort_decisions():
    rng = np.random.default_rng(0)
    transform = T.RandomDistort(brightness_range=0.4, brightness_prob=1, contrast_prob=0, hue_range=18)
    decisions = [transform.decide({"rng": rng}) for _ in range(2000)]
    amounts = {name: [amount for decision in decisions for each, amount in decision if each == name]
               for name in ("brightness", "contrast", "saturation", "sharpness", "hue")}
    assert len(amounts["brightness"]) == 2000 and not amounts["contrast"] and not amounts["sharpness"]
    assert 900 < len(amounts["saturation"]) < 1100 and 900 < len(amounts["hue"]) < 1100
    assert 0.6 <= min(amounts["brightness"]) < 0.62 and 1.38 < max(amounts["brightness"]) <= 1.4
    assert -18 <= min(amounts["hue"]) < -17 and 17 < max(amounts["hue"]) <= 18
    first = Counter(decision[0][0] for decision in decisions if len(decision) == 3)
    assert all(count > 100 for count in first.values()) and len(first) == 3


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
def test_blurs(kernel):
    image = sample((20, 24))["img"]
    half = kernel // 2
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(float), (kernel, kernel), axis=(0, 1))
    bell = cv2.getGaussianKernel(kernel, 0).ravel()
    expected = {
        "blur": windows.mean((-1, -2)),
        "median": np.median(windows, (-1, -2)),
        "gaussian": np.einsum("yxcij,i,j->yxc", windows, bell, bell),
    }
    inner = slice(half, -half), slice(half, -half)
    for blur_type, values in expected.items():
        blurred = T.RandomBlur().apply({"img": image}, (blur_type, kernel))["img"]
        np.testing.assert_allclose(blurred[inner], values, atol=0 if blur_type == "median" else 1)


def test_blur_decisions():
    rng = np.random.default_rng(0)
    decisions = [T.RandomBlur(prob=0.6, blur_type="random").decide({"rng": rng}) for _ in range(7000)]
    blurred = [decision for decision in decisions if decision]
    assert 4000 < len(blurred) < 4400
    kernels, types = Counter(kernel for _, kernel in blurred), Counter(name for name, _ in blurred)
    for kernel, share in {3: 1 / 7, 5: 2 / 7, 7: 2 / 7, 9: 2 / 7}.items():
        assert abs(kernels[kernel] / len(blurred) - share) < 0.03
    for name, share in {"gaussian": 0.3, "median": 0.3, "blur": 0.4}.items():
        assert abs(types[name] / len(blurred) - share) < 0.03
    assert T.RandomBlur(prob=1, blur_type="median").decide({"rng": rng})[0] == "median"
    assert T.RandomBlur(prob=0).decide({"rng": rng}) is None
