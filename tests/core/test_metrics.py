import numpy as np
import pytest

from paddleseg.core.metrics import Scores, confusion_matrix


def test_equals_the_definition_on_noise():
    rng = np.random.default_rng(0)
    label, pred = rng.integers(0, 6, (37, 41)), rng.integers(0, 5, (37, 41))
    label[label == 5] = 255
    scores = Scores(confusion_matrix(pred, label, 5, 255))
    valid = label != 255
    for c in range(5):
        p, t = (pred == c) & valid, label == c
        assert scores.iou[c] == pytest.approx((p & t).sum() / (p | t).sum(), abs=1e-15)
        assert scores.precision[c] == pytest.approx((p & t).sum() / p.sum(), abs=1e-15)
        assert scores.recall[c] == pytest.approx((p & t).sum() / t.sum(), abs=1e-15)
        assert scores.dice[c] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-15)
    assert scores.accuracy == pytest.approx((pred == label)[valid].mean(), abs=1e-15)
    assert scores.miou == pytest.approx(scores.iou.mean(), abs=1e-15)


def test_perfect_and_constant_predictions():
    label = np.array([0, 0, 0, 1, 2])
    perfect = Scores(confusion_matrix(label, label, 3, 255))
    assert (perfect.miou, perfect.accuracy, perfect.kappa, perfect.mdice) == (1.0, 1.0, 1.0, 1.0)
    constant = Scores(confusion_matrix(np.zeros(5, int), label, 3, 255))
    assert constant.miou == pytest.approx(constant.commonest_class_miou) == pytest.approx(0.6 / 3)
    assert constant.kappa == pytest.approx(0.0)


def test_kappa_by_hand():
    # 20 and 15 of 50 agree, chance is 0.5 * 0.6 + 0.5 * 0.4 (the textbook's example).
    assert Scores(np.array([[20, 5], [10, 15]])).kappa == pytest.approx(0.4)


def test_an_absent_class_is_undefined_and_leaves_the_mean():
    scores = Scores(confusion_matrix(np.array([0, 1]), np.array([0, 1]), 4, 255))
    assert np.isnan(scores.iou[2:]).all() and scores.miou == 1.0


def test_nothing_labelled_is_nan_not_an_exception():
    scores = Scores(confusion_matrix(np.zeros(3, int), np.full(3, 255), 2, 255))
    assert np.isnan([scores.miou, scores.accuracy, scores.kappa, scores.commonest_class_miou]).all()


def test_large_counts_stay_exact():
    big = np.array([[2 ** 40, 1], [1, 2 ** 40]], np.int64)
    assert Scores(big).iou[0] == 2 ** 40 / (2 ** 40 + 2)


@pytest.mark.parametrize("num_classes, ignore_index", [(19, 255), (19, 0), (19, -1), (256, 7), (300, 255)])
@pytest.mark.parametrize("pred_type, label_type", [("uint8", "uint8"), ("int32", "int64")])
def test_equals_counting_pixel_by_pixel(num_classes, ignore_index, pred_type, label_type):
    rng = np.random.default_rng(0)
    below = [min(num_classes, np.iinfo(dtype).max + 1) for dtype in (pred_type, label_type)]
    pred, label = rng.integers(0, below[0], (37, 41)), rng.integers(0, below[1], (37, 41))
    label[rng.uniform(size=label.shape) < 0.2] = max(ignore_index, 0)
    expected, valid = np.zeros((num_classes, num_classes), np.int64), label != ignore_index
    np.add.at(expected, (label[valid], pred[valid]), 1)
    matrix = confusion_matrix(pred.astype(pred_type), label.astype(label_type), num_classes, ignore_index)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("pred, label, message", [
    ([0, 1], [0, 1, 1], "differ in shape"), ([0, 3], [0, 1], "prediction of 3"), ([0, -1], [0, 1], "prediction of -1"),
    ([0, 1], [0, 7], "label of 7"), ([0, 1], [0, 256], "label of 256"), ([0, 1], [0, -2], "label of -2")])
def test_refuses_what_it_can_not_count(pred, label, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(pred), np.array(label), 3, 255)
