"""A network and a data set that train in milliseconds."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core.infer import InferOptions
from paddleseg.core.optim import SGD, ConstantLR, PolynomialDecay
from paddleseg.core.options import TrainOptions
from paddleseg.core.run_dir import RunDir
from paddleseg.core.state import TrainState, run_fingerprint
from paddleseg.core.train import Evaluator, train, training_batches
from paddleseg.models.losses import CrossEntropyLoss
from paddleseg.report.pictures import evaluation_pictures
from paddleseg.utils import distributed
from paddleseg.utils.signals import StopSignals


class TinyNet(nn.Layer):
    loss_names = ("seg", "aux")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Conv2D(8, 3, 1)

    def forward(self, x):
        feature = self.dropout(nn.functional.relu(self.norm(self.conv(x))))
        logits = self.head(feature)
        return [logits, logits * 0.5] if self.training else [logits]


class Colors(paddle.io.Dataset):
    """Class c is where channel c is brightest; the noise of a sample comes from its own generator."""

    num_classes, ignore_index, class_names = 3, 255, ["red", "green", "blue"]

    def __init__(self, mode="train", count=6):
        self.mode, self.count = mode, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.sample(index, np.random.default_rng())

    def sample(self, index, rng):
        image = np.random.default_rng(index).normal(size=(3, 8, 12)).astype("float32")
        label = image.argmax(axis=0).astype("uint8")
        label[0, 0] = 255
        if self.mode == "train":
            image = image + rng.normal(0, 0.1, image.shape).astype("float32")
        return {"img": image, "label": label, "path": f"image_{index}.png", "trans_info": []}


def build(seed=0):
    paddle.seed(seed)
    model = TinyNet()
    return model, SGD(model, momentum=0.9, weight_decay=1e-4)


def options(**changes):
    tiny = {"batch_size": 2, "iters": 6, "log_iters": 2, "save_interval": 3, "num_workers": 0}
    return TrainOptions(**{**tiny, **changes})


def train_in(save_dir, state, dataset, settings, evaluate=None, resumed=None):
    """Train as train.py does, but for its checks; returns the best mIoU."""
    run_dir = RunDir(str(save_dir))
    is_first = distributed.rank() == 0
    with run_dir.locked() if is_first else nullcontext(), StopSignals():
        if resumed is not None:
            state.resume(run_dir.checkpoint(str(resumed)), settings)
        if is_first:
            run_dir.open(state.resumed)
        distributed.barrier()
        return train(state, training_batches(dataset, settings, state.iteration), evaluate, run_dir, settings)


def run(save_dir, resume_model=None, dataset=None, val_dataset=None, criteria=None, model_seed=0, evaluate=None,
        **changes):
    """Train a fresh TinyNet; returns it and the best mIoU."""
    model, optimizer = build(model_seed)
    loss, dataset, settings = CrossEntropyLoss(), dataset or Colors(), options(**changes)
    state = TrainState(model, criteria or [(loss, 1.0), (loss, 0.4)], optimizer,
                       PolynomialDecay(0.1, iters=60, power=0.9), settings, run_fingerprint(settings, len(dataset)))
    if evaluate is None and settings.do_eval:
        draw = partial(evaluation_pictures, dataset=val_dataset, options=InferOptions()) if settings.use_vdl else None
        evaluate = Evaluator(val_dataset, None, settings.num_workers, draw)
    return model, train_in(save_dir, state, dataset, settings, evaluate, resume_model)


def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


class LabelledColors(Colors):
    """Colors without an ignored pixel, so that every image weighs the same in a mean."""

    def __init__(self):
        super().__init__("val", 8)

    def sample(self, index, rng):
        sample = super().sample(index, rng)
        return {**sample, "label": np.where(sample["label"] == 255, 0, sample["label"]).astype("uint8")}


class Pointwise(nn.Layer):
    """A 1x1 convolution in float64: no batch norm, no dropout."""

    loss_names = ("seg",)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 1)
        self.to(dtype="float64")

    def forward(self, x):
        return [self.conv(x.astype("float64"))]


def run_pointwise(save_dir, **changes):
    """Two steps over batches that don't depend on how they are put together; returns the parameters."""
    paddle.seed(3)
    model, settings = Pointwise(), options(iters=2, **changes)
    state = TrainState(model, [(CrossEntropyLoss(), 1.0)], SGD(model, momentum=0.9), ConstantLR(0.1, 2), settings,
                       run_fingerprint(settings, 8))
    train_in(save_dir, state, LabelledColors(), settings)
    return arrays(model)
