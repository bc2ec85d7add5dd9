import json

import numpy as np
import paddle
import paddle.nn as nn
import pytest
from tiny import Colors, TinyNet, run

from paddleseg.core.infer import InferOptions
from paddleseg.core.val import evaluate
from paddleseg.cvlibs import manager
from paddleseg.models import EncNet
from paddleseg.models.losses import CrossEntropyLoss, LovaszSoftmaxLoss, SELoss
from paddleseg.transforms import Compose, Normalize, Padding, Resize, ResizeByLong


class Pictures(paddle.io.Dataset):
    """Noise of some sizes, with labels that keep them, as in a validation set."""

    num_classes, ignore_index, mode, class_names = 3, 255, "val", ["a", "b", "c"]

    def __init__(self, transforms=(), sizes=((24, 32), (24, 32), (40, 24))):
        self.transforms, self.sizes = Compose([*transforms, Normalize()]), sizes

    def __len__(self):
        return len(self.sizes)

    def pair(self, index):
        rng = np.random.default_rng(index)
        label = rng.integers(0, 3, self.sizes[index]).astype("uint8")
        label[:2] = 255
        return rng.integers(0, 256, (*self.sizes[index], 3)).astype("uint8"), label

    def sample(self, index, rng):
        image, label = self.pair(index)
        return self.transforms({"img": image, "label": label, "path": f"{index}.png"})


def encnet():
    paddle.seed(7)
    backbone = manager.BACKBONES["ResNet18_v1c"](output_stride=8, contract_dilation=True, base_channels=4)
    model = EncNet(3, backbone, num_codes=4, mid_channels=8, aux_channels=6)
    # At differences of 64 and more Paddle's softmax on a CPU cuts off.
    model.head.weight.set_value(model.head.weight * 0.05)
    return model


CRITERIA = [(CrossEntropyLoss(), 1.0), (LovaszSoftmaxLoss(), 0.4), (SELoss(), 0.2)]


def measured(model, dataset, criteria=None, **options):
    options = InferOptions(**options)
    scores = evaluate(model, dataset, options, criteria=criteria or CRITERIA)
    return scores.losses, scores


@paddle.no_grad()
def expected_losses(model, images, labels):
    """Losses of all outputs of training, image by image, with batch norms and dropout as in evaluation."""
    model.eval()
    model.training = True
    rows = [[float(loss(output, paddle.to_tensor(label[None].astype("int64"))))
             for output, (loss, _) in zip(model(paddle.to_tensor(image[None])), CRITERIA)]
            for image, label in zip(images, labels)]
    model.train()
    seg, aux, se = np.mean(rows, axis=0)
    return {"loss": seg + 0.4 * aux + 0.2 * se, "loss_seg": seg, "loss_aux": aux, "loss_se": se}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("transforms", [[], [Resize([48, 32])], [Padding([48, 48])],
                                        [ResizeByLong(24), Padding([40, 32])]], ids=["", "resize", "padding", "both"])
def test_equals_the_losses_of_training_on_each_image(transforms, batch_size):
    model, dataset = encnet(), Pictures(transforms)
    found, scores = measured(model, dataset, eval_batch_size=batch_size)
    whole = [dataset.transforms({"img": image, "label": label, "gt_fields": ["label"]})
             for image, label in map(dataset.pair, range(3))]
    expected = expected_losses(model, [each["img"] for each in whole], [each["label"] for each in whole])
    assert found == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(scores.matrix, evaluate(model, dataset).matrix)


def test_windows_are_images_of_their_own():
    model, dataset = encnet(), Pictures()
    windows = {"is_slide": True, "crop_size": (16, 24), "stride": (16, 16)}
    found, scores = measured(model, dataset, **windows, eval_batch_size=2)
    images, labels = [], []
    for index in range(3):
        label, image = dataset.pair(index)[1], dataset.sample(index, None)["img"]
        boxes = [(top, left) for top in ((0,) if len(label) == 24 else (0, 16)) for left in
                 ((0, 16) if label.shape[1] == 32 else (0, 8))]
        repeats = 2 if len(boxes) == 2 else 1  # so that each image weighs the same
        for top, left in boxes * repeats:
            images.append(image[:, top:top + 24, left:left + 16])
            labels.append(label[top:top + 24, left:left + 16])
    assert found == pytest.approx(expected_losses(model, images, labels), rel=1e-4)
    assert scores.miou == evaluate(model, dataset, InferOptions(**windows)).miou


def test_of_several_scales_the_images_own_counts():
    model, dataset = encnet(), Pictures()
    plain, _ = measured(model, dataset)
    scaled, scores = measured(model, dataset, aug_eval=True, scales=[0.5, 1.0, 1.5], flip_horizontal=True)
    assert scaled == pytest.approx(plain, rel=1e-5)
    assert scores.miou == evaluate(model, dataset, InferOptions(aug_eval=True, scales=[0.5, 1.0, 1.5],
                                                                flip_horizontal=True)).miou
    assert measured(model, dataset, aug_eval=True, scales=[0.5])[0] == {}
    assert measured(model, dataset, aug_eval=True, is_slide=True, crop_size=(16, 24), stride=(16, 16))[0] == {}


def test_no_pass_is_made_for_the_losses_alone(monkeypatch):
    model, calls = encnet(), []
    forward = type(model).forward

    def counting(self, x):
        calls.append(tuple(x.shape))
        return forward(self, x)
    monkeypatch.setattr(type(model), "forward", counting)
    measured(model, Pictures())
    assert len(calls) == 3 + 2  # one for each image, and two that ask what the model gives


class Changing(TinyNet):
    """Its first output depends on its own `training`, against the contract."""

    def forward(self, x):
        logits = self.head(self.conv(x))
        return [logits + 5.0 * x[:, :1], logits] if self.training else [logits]


class Nameless(nn.Layer):
    """Made for PaddleSeg: its outputs have no names."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2D(3, 3, 1)

    def forward(self, x):
        return [self.head(x), self.head(x)] if self.training else [self.head(x)]


@pytest.mark.parametrize("make, name", [(Changing, "loss_seg"), (Nameless, "loss_0")])
def test_scores_are_never_of_another_output_than_val_gives(make, name):
    paddle.seed(1)
    model, dataset = make(), Colors("val", 3)
    found, scores = measured(model, dataset, [(CrossEntropyLoss(), 1.0)] * 2)
    np.testing.assert_array_equal(scores.matrix, evaluate(model, dataset).matrix)
    model.eval()
    samples = [dataset[index] for index in range(3)]
    expected = [float(CrossEntropyLoss()(model(paddle.to_tensor(sample["img"][None]))[0],
                                         paddle.to_tensor(sample["label"][None]))) for sample in samples]
    assert found == pytest.approx({name: np.mean(expected)}, rel=1e-5)


def test_logged_at_each_evaluation(tmp_path):
    run(tmp_path, do_eval=True, val_dataset=Colors("val", 3))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    evals = [record for record in records if record["mode"] == "eval"]
    assert len(evals) == 2
    for record in evals:
        assert record["loss"] == pytest.approx(record["loss_seg"] + 0.4 * record["loss_aux"], rel=1e-6)
