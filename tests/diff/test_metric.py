"""The metric step: its images hold what they should, and our scores of them follow the definition."""

import numpy as np
import pytest

from diff import inputs, metric, paddleseg_reference
from paddleseg.cvlibs.errors import RunError

CLASSES = set(range(inputs.NUM_CLASSES))


def found_in(case):
    """(classes predicted on labelled pixels, classes labelled)"""
    predictions, labels = metric.cases()[case]
    valid = labels != inputs.IGNORE_INDEX
    return set(predictions[valid].tolist()), set(labels[valid].tolist())


def test_which_classes_are_there():
    assert found_in("all_classes") == (CLASSES, CLASSES)
    predicted, labelled = found_in("absent_classes")
    assert predicted == CLASSES - {*metric.NOWHERE, metric.ONLY_LABELLED}
    assert labelled == CLASSES - {*metric.NOWHERE, metric.ONLY_PREDICTED}


def test_our_scores_follow_the_definition():
    predictions, labels = metric.cases()["absent_classes"]
    found = metric.score_ours(predictions, labels, "mmseg")
    valid = labels != inputs.IGNORE_INDEX
    for position, index in enumerate(found["iou_classes"]):
        predicted, labelled = (predictions == index) & valid, labels == index
        assert found["intersection"][index] == (predicted & labelled).sum()
        assert found["iou"][position] == (predicted & labelled).sum() / (predicted | labelled).sum()
    assert sorted(CLASSES - set(found["iou_classes"].tolist())) == list(metric.NOWHERE)
    assert sorted(CLASSES - set(found["acc_classes"].tolist())) == sorted((*metric.NOWHERE, metric.ONLY_PREDICTED))
    assert found["aacc"] == (predictions == labels)[valid].mean()
    assert found["reported_mIoU"] == pytest.approx(100 * found["iou"].mean(), abs=0.005)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        assert ours[name].dtype == theirs[name].dtype, name


@pytest.mark.parametrize("case", ["all_classes", "absent_classes"])
def test_mmsegmentation_says_the_same(case):
    pytest.importorskip("torch")
    pytest.importorskip("mmseg")
    pair = metric.cases()[case]
    assert_same(metric.score_ours(*pair, "mmseg"), metric.score_mmseg(*pair))


def test_paddleseg_says_the_same():
    pytest.importorskip("torch")  # the environment of the alignment, which has what PaddleSeg imports
    try:
        folder = paddleseg_reference.find_folder()
    except RunError:
        pytest.skip("PaddleSeg isn't installed")
    images = metric.cases()
    theirs = metric.score_paddleseg(images, folder)["all_classes"]
    assert_same(metric.score_ours(*images["all_classes"], "paddleseg"), theirs)
