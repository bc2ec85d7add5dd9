import numpy as np
import paddle
import pytest
from tiny import Colors, TinyNet

from paddleseg.core.metrics import Scores
from paddleseg.core.val import evaluate, evaluation_mode, score_table
from paddleseg.cvlibs.errors import DataError


class Oracle(paddle.nn.Layer):
    """The brightest channel, which is the label of Colors."""

    def forward(self, x):
        return [x]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_counts_every_labelled_pixel_once(num_workers):
    scores = evaluate(Oracle(), Colors("val", 5), num_workers=num_workers)
    assert scores.matrix.sum() == 5 * (8 * 12 - 1)
    assert scores.miou == scores.accuracy == 1.0


class Coarse(paddle.nn.Layer):
    """Half as many logits as pixels along each axis, resized here or by the caller."""

    align_corners = False

    def forward(self, x, at_input_size: bool = True):
        self.resizes = at_input_size
        logits = paddle.nn.functional.avg_pool2d(x, 2)
        return [paddle.nn.functional.interpolate(logits, x.shape[2:], mode="bilinear") if at_input_size else logits]


class Resizing(Coarse):
    def forward(self, x):
        return super().forward(x)


def test_logits_resized_by_the_model_or_by_the_evaluation_score_the_same():
    models = Coarse(), Resizing()
    matrices = [evaluate(model, Colors("val", 5)).matrix for model in models]
    assert [model.resizes for model in models] == [False, True]
    np.testing.assert_array_equal(*matrices)
    assert 0 < np.diag(matrices[0]).sum() < matrices[0].sum() == 5 * (8 * 12 - 1)


def test_two_processes_together_count_what_one_counts(monkeypatch):
    parts = []
    monkeypatch.setattr("paddleseg.utils.distributed.share_buffers", lambda model: None)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr("paddleseg.utils.distributed.sum_over_ranks", lambda matrix: parts.append(matrix) or matrix)
    model = TinyNet()
    for rank in "01":
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        evaluate(model, Colors("val", 5))
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    evaluate(model, Colors("val", 5))
    np.testing.assert_array_equal(parts[0] + parts[1], parts[2])


def test_the_mode_is_restored_even_after_an_error():
    model = TinyNet()
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training
    model.eval()
    with evaluation_mode(model):
        pass
    assert not model.training


def test_the_test_split_has_no_labels():
    with pytest.raises(DataError, match="labels of the test split are withheld"):
        evaluate(Oracle(), Colors("test", 2))


def test_the_table_names_classes_and_marks_absent_ones():
    rows = score_table(Scores(np.array([[3, 1], [0, 0]])), ["road", "sky"]).splitlines()
    assert rows[3].split("|")[1:-1] == [" road  ", " 0.7500 ", "    1.0000 ", " 0.7500 ", " 0.8571 ", "      4 "]
    assert "0.0000 |    0.0000 |      - | 0.0000 |      0" in rows[4]
