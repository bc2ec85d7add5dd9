"""The fast paths of the transforms against the step-by-step ones, Pillow and cv2."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance

from paddleseg import transforms as T
from paddleseg.cvlibs import manager
from paddleseg.transforms import ops
from paddleseg.transforms.base import Replay
from paddleseg.transforms.deferred import Deferred
from paddleseg.transforms.hue import shift_hue

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = [path for path in sorted(CONFIGS.glob("**/*.yml"))
           if "train_dataset" in yaml.safe_load(path.read_text(encoding="utf-8"))]
COLOURS = {"RandomDistort", "PhotoMetricDistortion", "RandomBlur"}
SIZES = [(64, 128), (61, 117), (20, 50), (33, 200), (150, 40), (1, 1), (3, 2)]
EXTRA = {
    "flip first": [{"type": "ResizeStepScaling", "min_scale_factor": 0.5, "max_scale_factor": 2, "scale_step_size": 0},
                   {"type": "RandomHorizontalFlip"}, {"type": "RandomVerticalFlip", "prob": 0.5},
                   {"type": "RandomPaddingCrop", "crop_size": [640, 320], "category_max_ratio": 0.6}],
    "diagonal": [{"type": "RandomResize", "scale": [1100, 700], "ratio_range": [0.3, 3.0], "keep_ratio": False},
                 {"type": "RandomFlip", "direction": "diagonal"}, {"type": "RandomCrop", "crop_size": [320, 500]}],
    "interpolations": [{"type": "Resize", "target_size": [999, 555], "interp": "RANDOM"},
                       {"type": "RandomCrop", "crop_size": [320, 500]}],
    "by side": [{"type": "ResizeByShort", "short_size": [400, 720]}, {"type": "RandomCrop", "crop_size": [320, 500]},
                {"type": "ResizeByLong", "long_size": 777}, {"type": "RandomPaddingCrop", "crop_size": [320, 500]}],
}


def scaled_down(section):
    """A section of a recipe with its sizes divided by 16, and the transform that it describes."""
    sizes = ("crop_size", "target_size", "scale", "short_size")
    arguments = {key: [max(1, side // 16) for side in value] if key in sizes else value
                 for key, value in section.items()}
    return manager.TRANSFORMS[arguments.pop("type")](**arguments)


def recipe_sections(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["train_dataset"]["transforms"]


LISTS = {**{path.stem: recipe_sections(path) for path in RECIPES}, **EXTRA}


def sample(seed, size, smooth=False):
    """A random image, a label of a few large patches, and a generator."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if smooth:
        image = cv2.GaussianBlur(image, (0, 0), 2)
    label = cv2.resize(rng.choice(np.array([0, 1, 255], np.uint8), (3, 4)), size[::-1], interpolation=cv2.INTER_NEAREST)
    for array in (image, label):
        array.setflags(write=False)
    return {"img": image, "label": label, "gt_fields": ["label"], "rng": np.random.default_rng(seed)}


def run_both(transforms, data):
    """The samples of the plain and of the fused path, which must agree in all but the image."""
    outcomes = []
    for fuse in (False, True):
        given = {**data, "rng": np.random.default_rng(7)}
        given["rng"].bit_generator.state = data["rng"].bit_generator.state
        outcomes.append((T.Compose(transforms, fuse=fuse)(given), given["rng"].bit_generator.state))
    (plain, plain_state), (fused, fused_state) = outcomes
    assert plain_state == fused_state
    assert plain["trans_info"] == fused["trans_info"]
    assert fused["img"].dtype == np.float32 and fused["img"].flags.c_contiguous and fused["label"].flags.c_contiguous
    np.testing.assert_array_equal(plain["label"], fused["label"])
    return plain["img"], fused["img"]


def works_on_uint8(sections):
    return sections[0]["type"] == "RandomResize"


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", SIZES)
def test_geometry_is_that_of_the_plain_path(name, size):
    sections = [section for section in LISTS[name] if section["type"] not in COLOURS | {"Normalize", "Padding"}]
    transforms = [scaled_down(section) for section in sections]
    for seed in range(25):
        plain, fused = run_both(transforms, sample(seed, size))
        # float32 holds positions up to 300 here to 2e-5 of a pixel, of which a step of 255 makes 0.005.
        np.testing.assert_allclose(plain, fused, rtol=0, atol=0 if works_on_uint8(sections) else 5e-3)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", SIZES[:5])
def test_whole_lists(name, size):
    """Rare differences are allowed: the plain path may cut off 99.9999 where the fused one has 100."""
    transforms = [scaled_down(section) for section in LISTS[name]]
    for seed in range(25):
        plain, fused = run_both(transforms, sample(seed, size, smooth=True))
        if works_on_uint8(LISTS[name]):
            np.testing.assert_array_equal(plain, fused)
        else:
            assert np.mean(np.abs(plain - fused) > 5e-3) < 2e-3


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_at_full_size(name):
    transforms = [manager.TRANSFORMS[section["type"]](**{key: section[key] for key in section if key != "type"})
                  for section in LISTS[name]]
    for seed in range(4):
        plain, fused = run_both(transforms, sample(seed, (1024, 2048), smooth=True))
        changed = np.mean(np.abs(plain - fused) > 1e-4)
        assert changed == 0 if works_on_uint8(LISTS[name]) else changed < 5e-4


class Watches:
    """A transform from elsewhere, which writes into what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, data):
        self.seen.append((type(data["img"]), data["img"].shape, data["img"].flags.c_contiguous, data["label"].shape))
        return data


class OwnCrop(T.RandomCrop):
    def apply(self, data, decision):
        assert isinstance(data["img"], np.ndarray)
        return super().apply(data, decision)


def test_transforms_from_elsewhere_get_whole_arrays():
    first, second, third = Watches(), Watches(), Watches()
    transforms = [T.Resize([90, 70]), first, T.RandomCrop([30, 40]), second, T.Normalize(), third]
    data = sample(0, (64, 128))
    plain, fused = run_both(transforms, data)
    np.testing.assert_array_equal(plain, fused)
    assert first.seen[1] == (np.ndarray, (70, 90, 3), True, (70, 90))
    assert second.seen[1][:2] == (np.ndarray, (30, 40, 3))
    assert third.seen[1] == (np.ndarray, (30, 40, 3), True, (30, 40))
    run_both([T.Resize([90, 70]), OwnCrop([30, 40])], data)


def test_only_the_crop_is_resized(monkeypatch):
    """The fused path is taken, by replayed decisions too."""
    made, resize, data = [], cv2.resize, sample(0, (100, 200))
    monkeypatch.setattr(cv2, "resize", lambda *args, **kwargs: made.append(resize(*args, **kwargs)) or made[-1])
    transforms = [T.ResizeStepScaling(2, 2), T.RandomPaddingCrop([32, 16])]
    T.Compose(transforms)(data)
    T.Compose([Replay(transforms[0], 2.0), Replay(transforms[1], [20, 30])])(data)
    assert len(made) == 2 and max(array.shape[0] for array in made) < 30
    made.clear()
    T.Compose(transforms, fuse=False)(data)
    assert [array.shape[:2] for array in made] == [(200, 400)] * 2


@pytest.mark.parametrize("dtype, tolerance", [(np.uint8, 0), (np.float32, 5e-3)])
def test_a_window_of_a_resized_image(dtype, tolerance):
    rng = np.random.default_rng(0)
    for _ in range(400):
        source = rng.integers(0, 256, (*rng.integers(1, 150, 2), 3)).astype(dtype)
        ratios = rng.choice([0.5, 0.75, 1.25, 2.0, 1.01, 0.99, rng.uniform(0.1, 4), rng.uniform(0.1, 4)], 2)
        size = tuple(int(max(1, round(side * ratio))) for side, ratio in zip(source.shape, ratios))
        (top, bottom), (left, right) = (sorted(rng.choice(side + 1, 2, replace=False)) for side in size)
        for interp in ("LINEAR", "NEAREST"):
            window = Deferred(source).resize(size, interp)[top:bottom, left:right]
            whole = ops.resize(source, size, interp)
            assert window.dtype == dtype
            np.testing.assert_allclose(window, whole[top:bottom, left:right], rtol=0,
                                       atol=0 if interp == "NEAREST" else tolerance)


def test_nearest_positions_are_cv2s():
    """Compare all sizes, as a rounding error would show in a few."""
    rng = np.random.default_rng(0)
    for length, target in rng.integers(1, 4097, (500, 2)):
        row = np.arange(length, dtype=np.int32).view(np.uint8).reshape(1, length, 4)
        window = Deferred(row).resize((1, int(target)), "NEAREST")[0:1, 0:int(target)]
        np.testing.assert_array_equal(window, ops.resize(row, (1, int(target)), "NEAREST"))


def pillow_hue(image, shift):
    table = (np.arange(256) + float(shift)).astype(np.int64) % 256
    hue, saturation, value = Image.fromarray(image).convert("HSV").split()
    return np.array(Image.merge("HSV", (hue.point(table.tolist()), saturation, value)).convert("RGB"))


def test_hue_is_pillows_for_every_colour():
    codes = np.arange(1 << 20, dtype=np.uint32)
    for part in range(16):
        code = codes + (part << 20)
        image = np.stack((code >> 16, code >> 8 & 255, code & 255), axis=-1).astype(np.uint8).reshape(1024, 1024, 3)
        shift = (0, 7.6, -13.2, 101)[part % 4]
        np.testing.assert_array_equal(shift_hue(image, shift), pillow_hue(image, shift))


@pytest.mark.parametrize("name, enhancer", [
    ("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
    ("saturation", ImageEnhance.Color), ("sharpness", ImageEnhance.Sharpness)])
@pytest.mark.parametrize("factor", [0.0, 0.37, 1.0, 1.63, 2.5])
def test_enhancers_are_pillows(name, enhancer, factor):
    image = sample(1, (40, 50))["img"]
    np.testing.assert_array_equal(ops.enhance(image, [(name, factor)]),
                                  np.array(enhancer(Image.fromarray(image)).enhance(factor)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mean, std", [((0.5,), (0.5,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_normalize_is_its_formula_and_lies_as_a_model_takes_it(dtype, mean, std):
    image = sample(2, (31, 47))["img"].astype(dtype)[:, 1:]
    means, stds = ((np.asarray(values) * 255).astype(np.float32) for values in (mean, std))
    normalized = ops.normalize(image, mean, std)
    np.testing.assert_array_equal(normalized, (image.astype(np.float32) - means) / stds)
    assert normalized.transpose(2, 0, 1).flags.c_contiguous


@pytest.mark.parametrize("values", [[0, 0.99, 254.2, 255.99], [-0.1, 3.5], [1, 256.0, 300], [-7, 300]])
def test_as_uint8_cuts_off_and_clips(values):
    image = np.array(values, np.float32)
    np.testing.assert_array_equal(ops.as_uint8(image), np.clip(np.floor(image), 0, 255))
