"""A narrow EncNet in float64 and what its training leaves, in one process or in one of several."""

from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn
from tiny import arrays, options, train_in

from paddleseg.core.optim import SGD, ConstantLR
from paddleseg.core.precision import MixedPrecision
from paddleseg.core.state import TrainState, run_fingerprint
from paddleseg.core.train import backward
from paddleseg.cvlibs import manager
from paddleseg.datasets.loader import train_batches
from paddleseg.models import EncNet
from paddleseg.models.losses import CrossEntropyLoss, SELoss
from paddleseg.utils import distributed

CLASSES, ITERS = 3, 20
CRITERIA = [(CrossEntropyLoss(), 1.0), (CrossEntropyLoss(), 0.4), (SELoss(), 0.2)]


class Stripes(paddle.io.Dataset):
    """Images of 32x48 in three stripes of any class; no pixel is ignored, so each image weighs the same in a mean."""

    num_classes, ignore_index, mode = CLASSES, 255, "val"

    def __init__(self, count: int = 16):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.sample(index, None)

    def sample(self, index, rng):
        noise = np.random.default_rng(index)
        label = np.tile(noise.integers(0, CLASSES, 3).repeat(16), (32, 1)).astype("uint8")
        image = noise.normal(label, 0.5, (3, 32, 48)).astype("float32")
        return {"img": image, "label": label, "path": f"image_{index}.png", "trans_info": []}


class Float64(nn.Layer):
    """A model in float64 for data in float32."""

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.model, self.loss_names = model, model.loss_names

    def forward(self, x):
        return self.model(x.astype("float64"))


def build(unbiased_variance: bool) -> nn.Layer:
    """Build in the default dtype; the same weights in every process and at every call."""
    paddle.seed(7)
    backbone = manager.BACKBONES["ResNet18_v1c"](output_stride=8, contract_dilation=True, base_channels=4)
    return EncNet(CLASSES, backbone, num_codes=4, mid_channels=8, aux_channels=6, aux_dropout=0.0,
                  unbiased_variance=unbiased_variance)


def after_one_backward(unbiased_variance: bool, batch_size: int) -> dict:
    """The gradients of the first batch, and the running statistics."""
    model = Float64(build(unbiased_variance))
    model.train()
    rank, world = distributed.rank(), distributed.world_size()
    _, batch = next(train_batches(Stripes(), batch_size, seed=1, rank=rank, world=world, num_batches=1))
    backward(paddle.DataParallel(model) if world > 1 else model, CRITERIA, batch, MixedPrecision())
    return {name: parameter.numpy() if parameter.stop_gradient else parameter.grad.numpy()
            for name, parameter in model.named_parameters()}


def after_training(save_dir: Path, unbiased_variance: bool, **changes) -> dict:
    """Parameters and running statistics."""
    model = Float64(build(unbiased_variance))
    settings = options(**{"iters": ITERS, "save_interval": ITERS, **changes})
    state = TrainState(model, CRITERIA, SGD(model, momentum=0.9, weight_decay=1e-4), ConstantLR(0.02, ITERS), settings,
                       run_fingerprint(settings, len(Stripes())))
    train_in(save_dir, state, Stripes(), settings)
    return arrays(model)


def run_all(folder: Path, batch_size: int, accum_iters: int = 1) -> dict:
    """All of this with the biased and with the unbiased running variance."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    state = {}
    for name in ("biased", "unbiased"):
        backward_pass = after_one_backward(name == "unbiased", batch_size)
        training = after_training(folder / name, name == "unbiased", batch_size=batch_size, accum_iters=accum_iters)
        state.update({f"{name}, one backward: {key}": value for key, value in backward_pass.items()},
                     **{f"{name}, trained: {key}": value for key, value in training.items()})
    paddle.set_default_dtype(before)
    return state
