import logging

import numpy as np
import paddle
import pytest
from tiny import Colors, TinyNet

from paddleseg.core.infer import InferOptions
from paddleseg.core.metrics import Scores
from paddleseg.core.val import evaluate, evaluation_mode, score_table
from paddleseg.cvlibs.errors import ConfigError, DataError


class Oracle(paddle.nn.Layer):
    """The brightest channel, which is the label of Colors."""

    def forward(self, x):
        return [x]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_counts_every_labelled_pixel_once(num_workers):
    scores = evaluate(Oracle(), Colors("val", 5), num_workers=num_workers)
    assert scores.matrix.sum() == 5 * (8 * 12 - 1)
    assert scores.miou == scores.accuracy == 1.0


@pytest.mark.parametrize("batch_size", [1, 2])
def test_two_processes_together_count_what_one_counts(monkeypatch, batch_size):
    parts = []
    monkeypatch.setattr("paddleseg.utils.distributed.share_buffers", lambda model: None)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr("paddleseg.utils.distributed.sum_over_ranks", lambda matrix: parts.append(matrix) or matrix)
    model = TinyNet()
    for rank in "01":
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        evaluate(model, Colors("val", 5), InferOptions(eval_batch_size=batch_size))
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    evaluate(model, Colors("val", 5))
    np.testing.assert_array_equal(parts[0] + parts[1], parts[2])


class MixedSizes(Colors):
    """Images of two sizes, and labels of the size before a padding of their own."""

    def sample(self, index, rng):
        height, width = ((8, 12), (16, 10))[index % 3 == 1]
        image = np.random.default_rng(index).normal(size=(3, height, width)).astype("float32")
        label = np.random.default_rng([index]).integers(0, 3, (height - index % 2, width)).astype("uint8")
        label[0, :index] = 255
        return {"img": image, "label": label, "path": f"image_{index}.png",
                "trans_info": [("padding", label.shape)] if index % 2 else []}


WAYS = {"whole": {}, "slide": {"is_slide": True, "crop_size": (8, 6), "stride": (4, 4)},
        "scales": {"aug_eval": True, "scales": [0.5, 1.0], "flip_horizontal": True}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size, num_workers", [(2, 0), (3, 2), (100, 0)])
def test_images_together_count_what_they_count_one_by_one(way, batch_size, num_workers):
    paddle.seed(0)
    model, dataset = TinyNet(), MixedSizes("val", 11)
    one_by_one = evaluate(model, dataset, InferOptions(**WAYS[way])).matrix
    batches = []
    model.register_forward_pre_hook(lambda layer, inputs: batches.append(len(inputs[0])))
    together = evaluate(model, dataset, InferOptions(**WAYS[way], eval_batch_size=batch_size), num_workers).matrix
    np.testing.assert_array_equal(together, one_by_one)
    assert together.sum() == sum((dataset.sample(index, None)["label"] != 255).sum() for index in range(11))
    assert max(batches) >= {2: 2, 3: 2, 100: 7}[batch_size]


def test_a_batch_of_no_image_is_refused():
    with pytest.raises(ConfigError, match="eval_batch_size: 0 is below 1"):
        InferOptions(eval_batch_size=0)


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


@pytest.mark.parametrize("limit, options, warned", [
    (95, {}, 1), (96, {}, 0), (0, {"is_slide": True, "crop_size": (8, 8), "stride": (8, 8)}, 0)])
def test_an_image_larger_than_any_before_is_warned_of_once(monkeypatch, caplog, limit, options, warned):
    monkeypatch.setattr("paddleseg.core.val.LARGE_PX", limit)
    monkeypatch.setattr(logging.getLogger("paddleseg"), "propagate", True)
    with caplog.at_level(logging.WARNING, "paddleseg"):
        evaluate(Oracle(), Colors("val", 3), InferOptions(**options))
    assert caplog.text.count("goes through the model whole, 8x12 (height x width)") == warned


def test_the_table_names_classes_and_marks_absent_ones():
    rows = score_table(Scores(np.array([[3, 1], [0, 0]])), ["road", "sky"]).splitlines()
    assert rows[3].split("|")[1:-1] == [" road  ", " 0.7500 ", "    1.0000 ", " 0.7500 ", " 0.8571 ", "      4 "]
    assert "0.0000 |    0.0000 |      - | 0.0000 |      0" in rows[4]
