import numpy as np
import paddle
import pytest

from paddleseg.core.infer import InferOptions, augmented_logits, plain_logits, predict_classes, window_starts
from paddleseg.cvlibs.errors import ConfigError


class Pointwise(paddle.nn.Layer):
    """Logits that depend on their own pixel alone: (mean color, minus it)."""

    def forward(self, x):
        mean = x.mean(axis=1, keepdim=True)
        return [paddle.concat([mean, -mean], axis=1)]


def image(height, width, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=(1, 3, height, width)).astype("float32"))


@pytest.mark.parametrize("length, crop, stride, starts", [
    (10, 10, 5, [0]), (8, 10, 5, [0]), (10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (10, 5, 5, [0, 5]),
])
def test_windows_cover_everything_and_end_at_the_border(length, crop, stride, starts):
    assert window_starts(length, crop, stride) == starts


@pytest.mark.parametrize("size, crop, stride", [((20, 30), (12, 8), (7, 5)), ((5, 6), (12, 8), (12, 8)),
                                                ((16, 24), (12, 8), (12, 8))])
def test_sliding_a_pointwise_model_equals_the_whole_image(size, crop, stride):
    x = image(*size)
    slide = InferOptions(is_slide=True, crop_size=crop, stride=stride)
    np.testing.assert_allclose(plain_logits(Pointwise(), x, slide).numpy(), Pointwise()(x)[0].numpy(), atol=1e-6)


def test_overlapping_windows_are_averaged():
    class WindowMean(paddle.nn.Layer):
        def forward(self, x):
            return [paddle.ones([1, 1, *x.shape[2:]]) * x.mean()]

    x = paddle.to_tensor(np.arange(4, dtype="float32").reshape(1, 1, 1, 4))
    logits = plain_logits(WindowMean(), x, InferOptions(is_slide=True, crop_size=(2, 1), stride=(1, 1)))
    np.testing.assert_allclose(logits.numpy().ravel(), [0.5, 1.0, 2.0, 2.5])


def test_flips_are_undone():
    x = image(6, 8)
    plain = InferOptions(aug_eval=True)
    flipped = InferOptions(aug_eval=True, flip_horizontal=True, flip_vertical=True)
    np.testing.assert_allclose(augmented_logits(Pointwise(), x, flipped).numpy(),
                               4 * augmented_logits(Pointwise(), x, plain).numpy(), rtol=1e-5)


def test_probabilities_are_summed_over_scales():
    options = InferOptions(aug_eval=True, scales=[0.5, 1.0, 2.0], flip_horizontal=True)
    total = augmented_logits(Pointwise(), image(8, 12), options)
    np.testing.assert_allclose(total.sum(axis=1).numpy(), 6.0, rtol=1e-5)


def test_prediction_has_the_size_before_the_transforms():
    x = image(8, 12)
    pred = predict_classes(Pointwise(), x, [("resize", (10, 16)), ("padding", (6, 9))], InferOptions())
    assert pred.shape == [10, 16] and pred.dtype == paddle.int32
    assert predict_classes(Pointwise(), x, [("padding", (6, 9))], InferOptions()).tolist() == (
        Pointwise()(x)[0][0].argmax(axis=0)[:6, :9].tolist())


@pytest.mark.parametrize("options, message", [
    (dict(is_slide=True), "needs crop_size and stride"),
    (dict(crop_size=(4, 4), stride=(2, 2)), "only with is_slide"),
    (dict(is_slide=True, crop_size=(4, 4), stride=(5, 4)), "at most crop_size"),
    (dict(is_slide=True, crop_size=(4, 4), stride=(0, 4)), "at least 1"),
    (dict(scales=[0.5, 1.0]), "only with aug_eval"),
    (dict(flip_horizontal=True), "only with aug_eval"),
    (dict(aug_eval=True, scales=[]), "at least one scale"),
    (dict(aug_eval=True, scales=[-1.0]), "above 0"),
])
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        InferOptions(**options)


def test_one_scale_may_be_a_number():
    assert InferOptions(aug_eval=True, scales=0.5).scales == [0.5]
