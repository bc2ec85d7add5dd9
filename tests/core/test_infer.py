import itertools

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg.core import infer
from paddleseg.core.infer import InferOptions, augmented_probabilities, plain_logits, predict_classes, window_starts
from paddleseg.core.metrics import confusion_matrix
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models import EncNet
from paddleseg.models.backbones import ResNet18_vd


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
            return [paddle.ones_like(x) * x.mean(axis=[1, 2, 3], keepdim=True)]

    x = paddle.to_tensor(np.arange(4, dtype="float32").reshape(1, 1, 1, 4))
    logits = plain_logits(WindowMean(), x, InferOptions(is_slide=True, crop_size=(2, 1), stride=(1, 1)))
    np.testing.assert_allclose(logits.numpy().ravel(), [0.5, 1.0, 2.0, 2.5])


def test_flips_are_undone():
    x = image(6, 8)
    plain = InferOptions(aug_eval=True)
    flipped = InferOptions(aug_eval=True, flip_horizontal=True, flip_vertical=True)
    np.testing.assert_allclose(augmented_probabilities(Pointwise(), x, flipped).numpy(),
                               4 * augmented_probabilities(Pointwise(), x, plain).numpy(), rtol=1e-5)


def test_prediction_has_the_size_before_the_transforms():
    x = image(8, 12)
    pred = predict_classes(Pointwise(), x, [("resize", (10, 16)), ("padding", (6, 9))], InferOptions())
    assert pred.shape == [10, 16] and pred.dtype == paddle.uint8
    assert predict_classes(Pointwise(), x, [("padding", (6, 9))], InferOptions()).tolist() == (
        Pointwise()(x)[0][0].argmax(axis=0)[:6, :9].tolist())


def tiny_model():
    """A random network of 19 classes, with a bias by which it sees most of them."""
    paddle.seed(0)
    model = EncNet(19, ResNet18_vd(base_channels=8), num_codes=4, mid_channels=8)
    model.eval()
    with paddle.no_grad():
        model.head.bias.set_value(-model(image(97, 161))[0].mean(axis=[0, 2, 3]))
    return model


def plain_matrix(model, x, trans_info, options, label):
    """The confusion matrix by whole tensors at the size of the image, step by step."""

    def resized(tensor, size):
        return tensor if list(tensor.shape[2:]) == list(size) else F.interpolate(tensor, list(size), mode="bilinear")

    def windows(x):
        if not options.is_slide:
            return model(x)[0]
        (width, height), (across, down) = options.crop_size, options.stride
        total, count = 0.0, 0.0
        for top, left in itertools.product(window_starts(x.shape[2], height, down),
                                           window_starts(x.shape[3], width, across)):
            logits = model(x[:, :, top:top + height, left:left + width])[0].numpy()
            box = slice(top, top + height), slice(left, left + width)
            part, ones = (np.zeros((1, channels, *x.shape[2:]), np.float32) for channels in (logits.shape[1], 1))
            part[:, :, box[0], box[1]], ones[:, :, box[0], box[1]] = logits, 1.0
            total, count = total + part, count + ones
        return paddle.to_tensor(total / count)

    logits = windows(x) if not options.aug_eval else 0.0
    for scale in options.scales if options.aug_eval else []:
        for axes in ([], [3], [2], [2, 3])[:2 if options.flip_horizontal else 1]:
            scaled = resized(x, [int(length * scale + 0.5) for length in x.shape[2:]])
            scores = windows(scaled.flip(axes)).flip(axes) if axes else windows(scaled)
            logits = logits + F.softmax(resized(scores, x.shape[2:]), axis=1)
    for name, (height, width) in reversed(trans_info):
        logits = logits[:, :, :height, :width] if name == "padding" else resized(logits, (height, width))
    matrix = np.zeros((19, 19), np.int64)
    valid = label != 255
    np.add.at(matrix, (label[valid], logits.argmax(axis=1)[0].numpy()[valid]), 1)
    return matrix


SLIDE = {"is_slide": True, "crop_size": (64, 48), "stride": (40, 31)}


@pytest.mark.parametrize("size, trans_info", [
    ((97, 161), []),
    ((65, 131), [("resize", (130, 262))]),
    ((96, 160), [("resize", (77, 140)), ("padding", (93, 155))]),
    ((96, 160), [("padding", (90, 151)), ("resize", (80, 139)), ("padding", (95, 150))])])
@pytest.mark.parametrize("settings", [
    {}, SLIDE, {"aug_eval": True, "scales": [0.75, 1.0, 1.3], "flip_horizontal": True},
    {"aug_eval": True, "scales": [1.0, 1.5], **SLIDE}], ids=["whole", "slide", "scales", "slide_scales"])
@pytest.mark.parametrize("values", [10 ** 9, 10 ** 5])  # all classes at once, or a few
def test_the_confusion_matrix_is_that_of_whole_tensors(monkeypatch, size, trans_info, settings, values):
    monkeypatch.setattr(infer, "_RESIZED_VALUES", values)
    model, x, options = tiny_model(), image(*size), InferOptions(**settings)
    with paddle.no_grad():
        pred = predict_classes(model, x, trans_info, options).numpy()
        label = np.random.default_rng(1).integers(0, 20, pred.shape).astype(np.uint8)
        label[label == 19] = 255
        expected = plain_matrix(model, x, trans_info, options, label)
    np.testing.assert_array_equal(confusion_matrix(pred, label, 19, 255), expected)
    assert (expected.sum(axis=0) > 0).sum() > 2


def test_a_model_made_static_predicts_the_same():
    model, x = tiny_model(), image(64, 96)
    expected = predict_classes(model, x, [], InferOptions()).numpy()
    static = paddle.jit.to_static(model)
    with paddle.no_grad():
        np.testing.assert_array_equal(predict_classes(static, x, [], InferOptions()).numpy(), expected)


@pytest.mark.parametrize("batch_px", [1, 3 * 64 * 48, 10 ** 9])
def test_windows_give_the_same_one_by_one_and_together(monkeypatch, batch_px):
    model, x, options = tiny_model(), image(97, 161), InferOptions(**SLIDE)
    monkeypatch.setattr(infer, "_WINDOW_BATCH_PX", batch_px)
    seen = []
    model.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[0]))
    with paddle.no_grad():
        together = plain_logits(model, x, options)
        assert max(seen) == {1: 1, 3 * 64 * 48: 3}.get(batch_px, 12) and sum(seen) == 12
        del seen[:]
        one_by_one = plain_logits(model, x, InferOptions(slide_batch_size=1, **SLIDE))
    np.testing.assert_array_equal(one_by_one.numpy(), together.numpy())
    assert seen == [1] * 12


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
    assert InferOptions(aug_eval=True, scales=0.5).scales == [0.5]
