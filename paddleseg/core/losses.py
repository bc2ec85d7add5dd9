"""The losses of a model's outputs, in training and over a validation set while it is scored.

Letters: N images of a batch, C classes, H and W of the network's input.
"""

from contextlib import contextmanager, nullcontext
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core.infer import InferOptions, window_boxes
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.transforms import Normalize
from paddleseg.utils import distributed

Criteria = Sequence[Tuple[nn.Layer, float]]  # (loss, coefficient) along a model's outputs


def loss_names(model: nn.Layer, count: int) -> List[str]:
    """loss_seg, loss_aux, …, as the model names its outputs; loss_0, loss_1, … where it doesn't."""
    names = getattr(getattr(model, "_layers", model), "loss_names", range(count))
    return [f"loss_{name}" for name in names]


def weighted_losses(model: nn.Layer, criteria: Criteria, outputs: Sequence[paddle.Tensor],
                    label: paddle.Tensor) -> Dict[str, paddle.Tensor]:
    """Return each loss by its name and their weighted sum as "loss"; each loss gets a label that it may change.

    Args:
        outputs: of the model in training: logits at the size of the label, and (N, C) of an SE layer.
        label: (N, H, W).

    Raises:
        ConfigError: there isn't a loss for each output.
    """
    names = loss_names(model, len(outputs))
    if len(outputs) != len(criteria):
        raise ConfigError(f"loss.coef has {len(criteria)} values, but the model has {len(outputs)} outputs "
                          f"({', '.join(names)}); give one for each")
    losses = [criterion(output, label.clone()) for (criterion, _), output in zip(criteria, outputs)]
    total = sum(loss * coef for loss, (_, coef) in zip(losses, criteria))
    return {"loss": total, **dict(zip(names, losses))}


class ValidationLosses:
    """The mean over images of each loss, from the forward passes that the scores need anyway.

        losses.start_batch(labels)
        outputs = losses.forward(images)  # and more windows or scales of them
        losses.means()  # {"loss": …, "loss_seg": …, "loss_aux": …}

    An image's loss is that of a batch of this image alone, so that it depends neither on the size of batches nor on
    the number of processes. Of sliding windows it is the mean over the windows; of several scales that of the image's
    own size counts; of others, and of windows over several scales, there is none.

    A model with `loss_names` is asked for what it gives in training, with its layers in evaluation mode, unless its
    first output would be another one then. Of one that gives fewer outputs than there are losses the first counts.

    Args:
        criteria: (loss, coefficient) along the model's outputs in training.
        transforms: of the data set, whose labels go through them if they change sizes; None for none.
    """

    def __init__(self, model: nn.Layer, criteria: Criteria, transforms, options: InferOptions):
        self._model, self._criteria, self._transforms, self._options = model, criteria, transforms, options
        self._names = ["loss", *loss_names(model, len(criteria))]
        self._totals: Dict[str, np.ndarray] = {name: np.zeros(2) for name in self._names}  # sum, and of how many
        self._asks_for_all: Optional[bool] = None if hasattr(model, "loss_names") else False
        self._labels: List[np.ndarray] = []
        self._boxes: List[Tuple[slice, slice]] = []
        self._share = 1.0

    def start_batch(self, labels: Sequence[np.ndarray]) -> None:
        """Name the labels of the images whose forward passes come next."""
        self._labels = [self._at_input_size(label) for label in labels]
        self._boxes = [(slice(None), slice(None))]
        if self._options.is_slide:
            self._boxes = [] if self._options.aug_eval else window_boxes(self._labels[0].shape, self._options)
            self._share = 1 / max(len(self._boxes), 1)

    def forward(self, images: paddle.Tensor) -> List[paddle.Tensor]:
        """Return the model's outputs, of which the first one is that of its evaluation."""
        if self._asks_for_all is None:  # the scores must be those that val.py would find
            with _outputs_of_training(self._model):
                seg = self._model(images)[0]
            expected = self._model(images)[0]
            self._asks_for_all = seg.shape == expected.shape and bool(paddle.allclose(seg, expected, 1e-3, 1e-4))
        with _outputs_of_training(self._model) if self._asks_for_all else nullcontext():
            outputs = list(self._model(images))
        for first in range(0, len(images), len(self._labels)):  # a window of all images comes before the next window
            if self._boxes and self._labels[0][self._boxes[0]].shape == tuple(images.shape[2:]):
                box = self._boxes.pop(0)
                for place, label in enumerate(self._labels, start=first):
                    self._add([output[place:place + 1] for output in outputs], label[box])
        return outputs

    def means(self) -> Dict[str, float]:
        """Return each loss and their weighted sum, over the images of all processes, each of which must call this."""
        totals = distributed.sum_over_ranks(np.stack(list(self._totals.values())))
        return {name: float(total / count) for name, (total, count) in zip(self._totals, totals) if count}

    def _at_input_size(self, label: np.ndarray) -> np.ndarray:
        """Return the label (H, W) as the network's input is, resized and padded."""
        if all(type(each) is Normalize for each in getattr(self._transforms, "transforms", ())):
            return label
        blank = np.zeros([*label.shape, 3], np.uint8)
        return self._transforms({"img": blank, "label": label, "gt_fields": ["label"]})["label"]

    def _add(self, outputs: List[paddle.Tensor], label: np.ndarray) -> None:
        """Add the losses of one image or window."""
        target = paddle.to_tensor(label.astype("int64")).unsqueeze(0)
        with paddle.amp.auto_cast(enable=False):  # as in training
            if len(outputs) == len(self._criteria):
                losses = weighted_losses(self._model, self._criteria, outputs, target)
            else:
                losses = {self._names[1]: self._criteria[0][0](outputs[0], target)}
        for name, loss in losses.items():
            self._totals[name] += float(loss) * self._share, self._share


@contextmanager
def _outputs_of_training(model: nn.Layer) -> Iterator[None]:
    """Set model.training without touching sublayers, so that the model returns its training outputs."""
    model.training = True
    try:
        yield
    finally:
        model.training = False
