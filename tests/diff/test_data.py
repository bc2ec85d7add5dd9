"""The data step: decisions are understood, replayed, and, where the references are there, give the same arrays."""

import json
from argparse import Namespace

import numpy as np
import pytest

from diff import data, inputs, paddleseg_reference
from paddleseg import transforms as T
from paddleseg.cvlibs.errors import RunError


@pytest.mark.parametrize("drawn, expected", [
    ((1, 7.5, 1, 1, 1.25, 0, 1, -6), [("brightness", 7.5), ("contrast", 1.25), ("hue", -6.0)]),  # contrast second
    ((0, 0, 1, 0.5, 0, 1, 0.75), [("saturation", 0.5), ("contrast", 0.75)]),  # contrast last
])
def test_photometric_draws(drawn, expected):
    left = iter(drawn)
    assert data._photometric_decision(None, left) == expected and not list(left)


def test_the_last_crop_drawn_counts():
    assert data._crop_decision(None, iter([3, 4, 5, 6])) == (5, 6)


def sample(size=(12, 16)):
    rng = np.random.default_rng(0)
    return {"img": rng.integers(0, 256, (*size, 3), dtype=np.uint8), "label": rng.integers(0, 19, size, dtype=np.uint8),
            "gt_fields": ["label"], "trans_info": [], "rng": None}  # nothing may be drawn


def test_transforms_replay_decisions():
    transforms = [T.RandomCrop([8, 8]), T.RandomFlip(), T.PhotoMetricDistortion(), T.Normalize()]
    decisions = {"RandomCrop": [2, 5], "RandomFlip": True, "PhotoMetricDistortion": [["brightness", 9.0]]}
    replayed = sample()
    for transform in data.replay_with(transforms, json.loads(json.dumps(decisions))):
        replayed = transform(replayed)
    window = sample()["img"][2:10, 5:13][:, ::-1].astype(np.int64)
    np.testing.assert_allclose(replayed["img"], (np.clip(window + 9, 0, 255) / 255 - 0.5) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(replayed["label"], sample()["label"][2:10, 5:13][:, ::-1])


@pytest.mark.parametrize("decisions", [{}, {"RandomFlip": True, "RandomCrop": [0, 0]}, {"RandomResize": [4, 4]}])
def test_decisions_for_other_transforms_are_refused(decisions):
    with pytest.raises(RunError, match="RandomFlip"):
        data.replay_with([T.RandomFlip(), T.Normalize()], decisions)


def test_our_side_needs_the_recorded_decisions(tmp_path):
    with pytest.raises(RunError, match="run --side torch first"):
        next(data.replay(tmp_path, Namespace(reference="mmseg", output=tmp_path)))


def compare_with(reference, recorder, output):
    """Record on three scenes, replay, and return the largest difference of the images."""
    pytest.importorskip("cityscapesscripts")
    args = Namespace(reference=reference, output=output, num_scenes=3, paddleseg=None)
    inputs.draw_scenes(output / "scenes", (128, 256), 3)
    theirs = list(recorder(output / "scenes", args))
    names = [scene["path"].rpartition("/")[2] for scene in theirs]
    (output / data.DECISIONS).write_text(json.dumps(
        [{"name": name, "decisions": scene["decisions"]} for name, scene in zip(names, theirs)]))
    differences = []
    for their, our in zip(theirs, data.replay(output / "scenes", args)):
        np.testing.assert_array_equal(our["label"], their["label"])
        assert our["image"].dtype == their["image"].dtype == np.float32
        differences.append(np.abs(our["image"] - their["image"]).max())
    assert len(differences) == 3
    return max(differences)


def test_mmsegmentations_pipeline_gives_the_same(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("mmseg")
    assert compare_with("mmseg", data.record_mmseg, tmp_path) == 0


def test_paddlesegs_pipeline_gives_the_same(tmp_path):
    pytest.importorskip("torch")  # the environment of the alignment, which has what PaddleSeg imports
    try:
        paddleseg_reference.find_folder()
    except RunError:
        pytest.skip("PaddleSeg isn't installed")
    assert compare_with("paddleseg", data.record_paddleseg, tmp_path) < 1e-6
