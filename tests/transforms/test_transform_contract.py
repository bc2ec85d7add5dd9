"""Contract of every registered transform."""

import json
import pickle
import random

import numpy as np
import pytest

import paddleseg.transforms  # noqa: F401  (registers)
from paddleseg.cvlibs import manager
from paddleseg.transforms.base import RandomTransform

# The arguments that have no default, or whose default would hide the effect on a small image.
ARGUMENTS = {
    "Padding": {"target_size": [64, 64]},
    "PhotoMetricDistortion": {"hue_delta": 60},
    "RandomBlur": {"prob": 0.5, "blur_type": "random"},
    "RandomCrop": {"crop_size": [20, 24], "cat_max_ratio": 0.75},
    "RandomDistort": {"sharpness_prob": 0.5},
    "RandomPaddingCrop": {"crop_size": [64, 24], "category_max_ratio": 0.75},
    "RandomResize": {"scale": [50, 40], "ratio_range": [0.5, 2.0]},
    "RandomVerticalFlip": {"prob": 0.5},
    "Resize": {"target_size": [33, 21], "interp": "RANDOM"},
    "ResizeByLong": {"long_size": 31},
    "ResizeByShort": {"short_size": [16, 31, 50]},
}
# These move pixels without mixing them, so an image that equals its label still does afterwards.
MOVES = ["Padding", "RandomCrop", "RandomFlip", "RandomHorizontalFlip", "RandomPaddingCrop",
         "RandomVerticalFlip"]
RESIZES = ["RandomResize", "Resize", "ResizeByLong", "ResizeByShort", "ResizeStepScaling"]

every_transform = pytest.mark.parametrize("name", sorted(manager.TRANSFORMS))
every_random_transform = pytest.mark.parametrize("name", [
    name for name in sorted(manager.TRANSFORMS) if issubclass(manager.TRANSFORMS[name], RandomTransform)])


def build(name):
    return manager.TRANSFORMS[name](**ARGUMENTS.get(name, {}))


def sample(seed=0, size=(37, 53), dtype=np.uint8):
    """A random sample whose arrays refuse to be written to."""
    rng = np.random.default_rng(seed)
    data = {"img": rng.integers(0, 256, (*size, 3)).astype(dtype),
            "label": rng.choice(np.array([1, 2, 5, 18, 255], np.uint8), size),
            "gt_fields": ["label"], "trans_info": [], "path": "a.png", "rng": np.random.default_rng(seed)}
    data["img"].setflags(write=False)
    data["label"].setflags(write=False)
    return data


def assert_same(one, other):
    assert one["trans_info"] == other["trans_info"]
    np.testing.assert_array_equal(one["img"], other["img"])
    np.testing.assert_array_equal(one["label"], other["label"])


@every_transform
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(37, 53), (64, 24), (5, 7)])
def test_shapes_dtypes_and_labels(name, dtype, size):
    for seed in range(5):
        data = build(name)(sample(seed, size, dtype))
        assert data["img"].dtype in (np.uint8, np.float32)
        assert data["img"].shape == (*data["label"].shape, 3)
        assert data["label"].dtype == np.uint8
        assert set(np.unique(data["label"])) <= {1, 2, 5, 18, 255}
        if name != "Normalize":
            assert data["img"].min() >= -80 and data["img"].max() <= 335  # cubic and Lanczos overshoot


@every_transform
def test_the_given_sample_is_left_alone(name):
    data, fresh = sample(), sample()
    build(name)(data)
    assert data.keys() == fresh.keys() and data["gt_fields"] == ["label"]
    assert_same(data, fresh)


@every_transform
def test_no_global_randomness_and_no_memory(name):
    transform = build(name)
    before = pickle.dumps(transform), random.getstate(), pickle.dumps(np.random.get_state())
    for seed in range(10):
        transform(sample(seed, size=(10 + 6 * seed, 60)))
    assert (pickle.dumps(transform), random.getstate(), pickle.dumps(np.random.get_state())) == before
    assert_same(transform(sample(4)), build(name)(sample(4)))


@every_transform
def test_label_may_be_absent(name):
    data = sample()
    del data["label"]
    data["gt_fields"] = []
    assert "label" not in build(name)(data)


@every_transform
def test_trans_info_grows_with_resizing_and_padding(name):
    info = build(name)({**sample(), "trans_info": [("resize", (1, 2))]})["trans_info"]
    added = {"Padding": [("padding", (37, 53))], **{each: [("resize", (37, 53))] for each in RESIZES}}
    assert info == [("resize", (1, 2)), *added.get(name, [])]


@pytest.mark.parametrize("name", MOVES)
def test_image_and_label_move_together(name):
    for seed in range(20):
        data = sample(seed)
        data["img"] = np.repeat(data["label"][..., None], 3, axis=2)
        data = build(name)(data)
        height, width = data["label"].shape
        covered = slice(0, min(height, 37)), slice(0, min(width, 53))
        np.testing.assert_array_equal(data["img"][covered][..., 1], data["label"][covered])


@pytest.mark.parametrize("name", RESIZES)
def test_image_and_label_are_resized_together(name):
    label = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 16, axis=0), 16, axis=1)
    data = build(name)({**sample(), "img": np.repeat(20 * label[..., None], 3, axis=2), "label": label})
    rows, columns = ((np.arange(count) * 2 + 1) * length // (2 * count)
                     for count, length in zip((3, 4), data["label"].shape))
    centres = np.ix_(rows, columns)
    np.testing.assert_array_equal(data["label"][centres], np.arange(12).reshape(3, 4))
    np.testing.assert_allclose(data["img"][centres][..., 0], 20 * np.arange(12).reshape(3, 4), atol=20)


@every_random_transform
def test_a_recorded_decision_can_be_replayed(name):
    transform = build(name)
    decisions = set()
    for seed in range(30):
        recorded = json.dumps(transform.decide(sample(seed)))
        decisions.add(recorded)
        assert_same(transform.apply(sample(seed), json.loads(recorded)), transform(sample(seed)))
    assert len(decisions) > 1
