import numpy as np
import pytest

from paddleseg import transforms as T
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.transforms.image_io import write_png


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def label():
    return np.random.default_rng(1).integers(0, 19, (6, 8), dtype=np.uint8)


def test_files_become_what_a_model_takes(tmp_path, image, label):
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "label.png", label)
    given = {"img": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    data = T.Compose([])(given)
    assert data["img"].dtype == np.float32 and data["img"].flags.c_contiguous
    assert data["label"].dtype == np.uint8 and data["label"].flags.c_contiguous
    np.testing.assert_array_equal(data["img"], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(data["label"], label)
    assert data["path"] == given["img"] and data["trans_info"] == [] and "rng" not in data
    bgr = T.Compose([], to_rgb=False)  # which concerns files only
    np.testing.assert_array_equal(bgr(given)["img"], data["img"][::-1])
    np.testing.assert_array_equal(bgr({"img": image})["img"], data["img"])


def test_validation_keeps_the_labels_size(image, label):
    compose = T.Compose([T.Resize([16, 12]), T.Padding([20, 20]), T.Normalize()])
    data = compose({"img": image, "label": label, "gt_fields": []})
    assert data["img"].shape == (3, 20, 20)
    np.testing.assert_array_equal(data["label"], label)
    assert data["trans_info"] == [("resize", (6, 8)), ("padding", (12, 16))]


@pytest.mark.parametrize("transforms, message", [
    (T.Normalize(), "must be a list; got Normalize"),
    ([T.Normalize(), "Resize"], r"transforms\[1\] is not callable: 'Resize'"),
    ([T.Normalize(), T.RandomDistort()], r"transforms\[1\], RandomDistort, .*before Normalize"),
    ([T.Normalize(), T.Padding([9, 9]), T.PhotoMetricDistortion()], r"transforms\[2\], PhotoMetric"),
    ([T.Normalize(), T.Normalize()], r"transforms\[1\], Normalize"),
])
def test_lists_that_cannot_work(transforms, message):
    with pytest.raises(ConfigError, match=message):
        T.Compose(transforms)


@pytest.mark.parametrize("data, message", [
    ({}, "no 'img'"),
    ({"img": None}, "no 'img'"),
    ({"img": np.zeros((4, 4), np.uint8)}, r"\(H, W, 3\) .*got uint8 \(4, 4\)"),
    ({"img": np.zeros((4, 4, 4), np.uint8), "path": "b.png"}, "b.png: an image must be"),
    ({"img": np.zeros((4, 4, 3), np.int64)}, "got int64"),
    ({"img": [1, 2]}, "got list"),
    ({"img": np.zeros((4, 4, 3), np.uint8), "label": np.zeros((4, 4), np.int64), "path": "b.png"},
     "label of b.png: .*got int64"),
    ({"img": np.zeros((4, 4, 3), np.uint8), "gt_fields": ["label"], "path": "b.png"}, "b.png has no 'label'"),
])
def test_samples_that_cannot_work(data, message):
    with pytest.raises(DataError, match=message):
        T.Compose([])(data)


class Forgets:
    def __call__(self, data):
        data["img"] = data["img"] + 1


def test_a_transform_that_returns_none_is_named(image):
    with pytest.raises(ConfigError, match=r"transforms\[1\], Forgets, returned NoneType"):
        T.Compose([T.RandomFlip(), Forgets(), T.Normalize()])({"img": image})
