"""mmsegmentation's family against direct formulations."""

from collections import Counter

import numpy as np
import pytest

from paddleseg import transforms as T


def sample(size=(6, 8), seed=0):
    rng = np.random.default_rng(seed)
    return {"img": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            "label": rng.integers(0, 19, size, dtype=np.uint8),
            "gt_fields": ["label"], "trans_info": [], "path": "a.png", "rng": np.random.default_rng(seed)}


@pytest.mark.parametrize("size, scale, expected", [
    ((10, 20), (40, 20), (20, 40)),
    ((10, 20), (20, 40), (20, 40)),
    ((20, 10), (40, 20), (40, 20)),
    ((10, 30), (40, 20), (13, 40)),
    ((5, 10), (5, 5), (3, 5)),  # 2.5 becomes 3: halves go up, where PaddleSeg's go to the even number
    ((1, 100), (40, 20), (1, 40)),
])
def test_resize_fits_into_the_drawn_size(size, scale, expected):
    data = T.RandomResize([40, 20], [0.5, 2.0]).apply(sample(size), scale)
    assert data["img"].shape[:2] == data["label"].shape == expected
    assert data["img"].dtype == np.uint8
    assert data["trans_info"] == [("resize", size)]


def test_resize_without_ratio_reaches_the_drawn_size():
    data = T.RandomResize([40, 20], [0.5, 2.0], keep_ratio=False).apply(sample((10, 10)), (31, 17))
    assert data["img"].shape == (17, 31, 3) and data["label"].shape == (17, 31)


def test_resize_rounds_to_uint8():
    data = {**sample(), "img": np.array([[[0] * 3, [3] * 3]], np.uint8), "gt_fields": []}
    image = T.RandomResize([4, 1], [1, 1], keep_ratio=False)(data)["img"]
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 2, 3])


def test_resize_draws_one_ratio_for_both_sides():
    transform, rng = T.RandomResize([2048, 1024], [0.5, 2.0]), np.random.default_rng(0)
    sizes = np.array([transform.decide({"rng": rng}) for _ in range(4000)])
    assert np.isin(sizes[:, 0] - 2 * sizes[:, 1], (0, 1)).all()
    assert sizes[:, 0].min() >= 1024 and sizes[:, 0].max() < 4096
    quartiles = np.quantile(sizes[:, 1] / 1024, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.875, 1.25, 1.625], atol=0.05)


@pytest.mark.parametrize("size, expected", [
    ((6, 8), (4, 5)), ((3, 8), (3, 5)), ((6, 2), (4, 2)), ((4, 5), (4, 5))])
def test_crop_takes_what_there_is(size, expected):
    data = sample(size)
    transform = T.RandomCrop([4, 5])
    top, left = corner = transform.decide(data)
    cropped = transform.apply(data, corner)
    window = slice(top, top + expected[0]), slice(left, left + expected[1])
    assert cropped["label"].shape == expected
    for key in ("img", "label"):
        np.testing.assert_array_equal(cropped[key], data[key][window])
    assert cropped["trans_info"] == []


def test_crop_draws_every_corner():
    transform, data = T.RandomCrop([4, 5]), sample((6, 8))
    counts = Counter(transform.decide(data) for _ in range(2400))
    assert sorted(counts) == [(top, left) for top in range(3) for left in range(4)]
    assert all(130 < count < 270 for count in counts.values())


def halves(width_of_zero):
    """A label of class 0 on the left and 1 on the right, its upper half ignored."""
    label = np.ones((16, 64), np.uint8)
    label[:, :width_of_zero] = 0
    label[:8] = 255
    return {**sample((16, 64)), "label": label}


def test_cat_max_ratio_prefers_varied_crops():
    transform, data = T.RandomCrop([16, 16], cat_max_ratio=0.75), halves(32)

    def varied(left):
        zeros = min(max(32 - left, 0), 16)
        return 0 < zeros < 16 and max(zeros, 16 - zeros) / 16 < 0.75

    share = np.mean([varied(transform.decide(data)[1]) for _ in range(1000)])
    one_draw = np.mean([varied(left) for left in range(49)])
    assert abs(share - (1 - (1 - one_draw) ** 11)) < 0.05  # ten tries, and one corner taken unseen
    assert one_draw < 0.2


def test_cat_max_ratio_is_a_strict_bound():
    """Two classes of exactly three quarters and one are drawn again, up to the eleventh corner."""
    label = np.zeros((1, 4), np.uint8)
    label[0, 3] = 1
    data = {**sample((1, 4)), "label": label}

    class CountingGenerator:
        draws = 0

        def integers(self, low, high):
            self.draws += 1
            return 0

    def draws(**arguments):
        rng = CountingGenerator()
        T.RandomCrop([1, 4], **arguments).decide({**data, "rng": rng})
        return rng.draws // 2

    assert draws(cat_max_ratio=0.75) == 11
    assert draws(cat_max_ratio=0.76) == 1
    assert draws(cat_max_ratio=0.76, ignore_index=1) == 11
    assert draws() == 1


def distort(image, *steps):
    return T.PhotoMetricDistortion().apply({"img": np.asarray(image, np.uint8)}, steps)["img"]


@pytest.mark.parametrize("name, shift, scale", [
    *(("brightness", shift, 1) for shift in (-31.7, 0.0, 12.3)),
    *(("contrast", 0, scale) for scale in (0.5, 0.999, 1.5))])
def test_brightness_shifts_and_contrast_scales(name, shift, scale):
    image = sample()["img"]
    expected = np.clip(image.astype(np.float32) * np.float32(scale) + np.float32(shift), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(distort(image, (name, shift if name == "brightness" else scale)), expected)


def test_saturation_moves_colours_from_and_to_grey():
    image = sample()["img"]
    brightest = image.max(axis=2, keepdims=True)
    none, half = (distort(image, ("saturation", scale)) for scale in (0.0, 0.5))
    np.testing.assert_array_equal(none, np.broadcast_to(brightest, image.shape))
    np.testing.assert_allclose(half, (brightest + image.astype(float)) / 2, atol=6)


@pytest.mark.parametrize("shift, expected", [
    (60, [0, 200, 0]), (-60, [0, 0, 200]), (30, [200, 200, 0]), (0, [200, 0, 0]), (180, [200, 0, 0])])
def test_hue_turns_red(shift, expected):
    np.testing.assert_array_equal(distort([[[200, 0, 0]]], ("hue", shift)), [[expected]])


def test_distortions_run_in_their_order():
    image = sample()["img"]
    steps = ("brightness", 30.0), ("contrast", 1.5), ("hue", 11)
    expected = image
    for step in steps:
        expected = distort(expected, step)
    np.testing.assert_array_equal(distort(image, *steps), expected)
    assert (distort(image, *steps) != distort(image, *steps[::-1])).any()


def test_distortion_decisions():
    transform, rng = T.PhotoMetricDistortion(), np.random.default_rng(0)
    decisions = [transform.decide({"rng": rng}) for _ in range(8000)]
    amounts = {name: np.array([amount for decision in decisions for each, amount in decision if each == name])
               for name in ("brightness", "contrast", "saturation", "hue")}
    assert all(3800 < len(values) < 4200 for values in amounts.values())
    assert sorted(set(amounts["hue"])) == list(range(-18, 18))
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5)):
        margin = (high - low) / 100
        assert low <= amounts[name].min() < low + margin and high - margin < amounts[name].max() <= high
    orders = Counter(tuple(name for name, _ in decision) for decision in decisions if len(decision) == 4)
    assert set(orders) == {("brightness", "contrast", "saturation", "hue"),
                           ("brightness", "saturation", "hue", "contrast")}
    assert min(orders.values()) / max(orders.values()) > 0.7


def test_the_recipe_pads_after_normalizing():
    """Pad as mmsegmentation's data preprocessor does: pad_val 0 on normalised values, seg_pad_val 255."""
    compose = T.Compose([
        T.RandomResize([32, 16], [0.5, 2.0]), T.RandomCrop([12, 24], cat_max_ratio=0.75), T.RandomFlip(),
        T.PhotoMetricDistortion(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        T.Padding([24, 12], im_padding_value=0, label_padding_value=255)])
    padded = 0
    for seed in range(20):
        data = compose(sample((16, 32), seed))
        assert data["img"].shape == (3, 12, 24) and data["label"].shape == (12, 24)
        outside = data["label"] == 255
        assert (data["img"][:, outside] == 0).all() and (data["img"][:, ~outside] != 0).any(axis=0).all()
        padded += outside.any()
    assert 0 < padded < 20
