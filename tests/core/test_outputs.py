"""Which size of logits each loss gets, and that it makes no difference."""

import numpy as np
import paddle
import pytest
from tiny import TinyNet

from paddleseg.core.outputs import training_outputs
from paddleseg.core.precision import MixedPrecision
from paddleseg.core.train import backward
from paddleseg.models import FCN, EncNet
from paddleseg.models.backbones import ResNet18_vd
from paddleseg.models.losses import CrossEntropyLoss, SELoss

SIZE = (32, 48)


class OthersLoss(paddle.nn.Layer):
    """A loss as written for PaddleSeg."""

    def forward(self, logit, label):
        return CrossEntropyLoss()(logit, label)


def encnet(align_corners=False, kind=EncNet):
    paddle.seed(1)
    model = kind(3, ResNet18_vd(base_channels=4), align_corners=align_corners,
                 **({"mid_channels": 8, "num_codes": 4} if kind is EncNet else {"channels": 8}))
    model.train()
    return model


def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (2, *SIZE))
    label[0][label[0] == 1] = 255
    return {"img": paddle.to_tensor(rng.normal(size=(2, 3, *SIZE)).astype(paddle.get_default_dtype())),
            "label": paddle.to_tensor(label)}


@pytest.mark.parametrize("kind", [EncNet, FCN])
@pytest.mark.parametrize("align_corners", [False, True])
def test_losses_and_gradients_are_those_of_logits_at_input_size(float64, kind, align_corners):
    results = []
    for loss in CrossEntropyLoss(), OthersLoss():
        model = encnet(align_corners, kind)
        criteria = [(loss, 1.0), (loss, 0.4), (SELoss(), 0.2)][:len(model.loss_names)]
        paddle.seed(5)  # of the dropout
        losses = backward(model, criteria, batch(), MixedPrecision())
        results.append({**{name: loss.numpy() for name, loss in losses.items()},
                        **{name: parameter.grad.numpy() for name, parameter in model.named_parameters()
                           if not parameter.stop_gradient}})
    for name, expected in results[1].items():
        # with corners aligned the positions of both passes round to float32 on their own
        np.testing.assert_allclose(results[0][name], expected, rtol=0, err_msg=name,
                                   atol=(1e-5 if align_corners else 1e-11) * max(1.0, np.abs(expected).max()))


def test_each_loss_gets_the_size_that_it_takes():
    criteria = [OthersLoss(), CrossEntropyLoss(), SELoss()]
    (seg, aux, se), resizing = training_outputs(encnet(), criteria, batch()["img"])
    assert tuple(seg.shape[2:]) == SIZE and tuple(aux.shape[2:]) == (4, 6) and se.ndim == 2
    assert resizing == [{}, {"size": SIZE, "align_corners": False}, {}]


@pytest.mark.parametrize("model, size", [(TinyNet(), SIZE), (encnet(), (1, 48))])
def test_models_without_coarse_logits_and_images_of_one_row_give_logits_at_input_size(model, size):
    count = len(model.loss_names)
    logits, resizing = training_outputs(model, [CrossEntropyLoss(), CrossEntropyLoss(), SELoss()][:count],
                                        paddle.randn([2, 3, *size]))
    assert all(tuple(logit.shape[2:]) == size for logit in logits[:2]) and resizing == [{}] * count


def test_the_se_loss_is_given_the_present_classes_of_the_batch():
    found = []
    for more in {}, {"present": [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]}, {"present": [[0.0] * 3] * 2}:
        data = {**batch(), **{key: paddle.to_tensor(value) for key, value in more.items()}}
        criteria = [(CrossEntropyLoss(), 1.0), (CrossEntropyLoss(), 0.4), (SELoss(), 0.2)]
        found.append(backward(encnet(), criteria, data, MixedPrecision())["loss_se"].item())
    assert found[0] == found[1] != found[2]
