"""The losses of training, measured on a validation set while it is scored.

Letters: N images of a batch, C classes, H and W of the network's input.
"""

from contextlib import contextmanager
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core.infer import InferOptions, window_starts
from paddleseg.core.outputs import loss_names
from paddleseg.core.upsample import resize
from paddleseg.transforms import Normalize
from paddleseg.utils import distributed


class _Pass(NamedTuple):
    """A forward pass: (height, width) of its images, and all that the model gave."""

    size: Tuple[int, int]
    outputs: List[paddle.Tensor]


class ValidationLosses:
    """The mean over images of each loss, from the forward passes that the scores need anyway.

        losses = ValidationLosses(model, criteria, dataset, options)
        scores = evaluate(losses.model, dataset, options, observer=losses)
        losses.means()  # {"loss": …, "loss_seg": …, "loss_aux": …}

    An image's loss is that of a batch of this image alone, so that it depends neither on the size of batches nor on
    the number of processes. Of sliding windows it is the mean over the windows; of several scales the one nearest to
    the image's size counts, not mirrored; of windows over several scales there is none. The label goes through the
    transforms of `dataset` if they change sizes.

    A model with `loss_names` is told to give what it gives in training, with its layers in evaluation mode, unless its
    first output would be another one then. Of one that gives fewer outputs than there are losses the first counts.

    Args:
        criteria: (loss, coefficient) along the model's outputs in training.
        dataset: what will be evaluated.

    Attributes:
        model: to be evaluated in the model's place.
    """

    def __init__(self, model: nn.Layer, criteria: Sequence[Tuple[nn.Layer, float]], dataset,
                 options: Optional[InferOptions] = None):
        self.model = _Watched(model, self._passes_of_next_batch)
        self._criteria, self._dataset, self._options = criteria, dataset, options or InferOptions()
        self._names = ["loss", *loss_names(model, len(criteria))]
        self._align_corners = getattr(model, "align_corners", False)
        self._sums, self._counts = np.zeros([2, len(self._names)])
        self._passes: List[_Pass] = []
        self._place = 0  # in the batch, of the image that `see` is told of next

    def _passes_of_next_batch(self) -> List[_Pass]:
        """Where a pass is noted; those of a batch whose images were seen are forgotten."""
        if self._place:
            self._passes, self._place = [], 0
        return self._passes

    def see(self, path: str, pred: np.ndarray, label: np.ndarray, matrix: np.ndarray) -> None:
        """Take the losses of the next image; `evaluate` calls this."""
        has_loss = not (self._options.is_slide and self._options.aug_eval)
        parts = list(self._parts(self._at_input_size(label))) if has_loss else []
        self._place += 1  # so that the next batch's passes take the place of these
        if not has_loss:
            return
        values = np.mean([self._losses(outputs, part) for outputs, part in parts], axis=0)
        if len(values) == len(self._criteria):
            values = np.array([np.dot(values, [coef for _, coef in self._criteria]), *values])
            self._sums += values
            self._counts += 1
        else:
            self._sums[1] += values[0]
            self._counts[1] += 1

    def means(self) -> Dict[str, float]:
        """Each loss and their weighted sum, over the images of all processes, each of which must call this."""
        sums, counts = distributed.sum_over_ranks(np.stack([self._sums, self._counts]))
        return {name: float(total / count) for name, total, count in zip(self._names, sums, counts) if count}

    def _at_input_size(self, label: np.ndarray) -> np.ndarray:
        """The label (H, W) as the network's input is, resized and padded."""
        transforms = getattr(self._dataset, "transforms", None)
        if transforms is None or all(type(each) is Normalize for each in getattr(transforms, "transforms", [None])):
            return label
        blank = np.zeros([*label.shape, 3], np.uint8)
        return transforms({"img": blank, "label": label, "gt_fields": ["label"]})["label"]

    def _parts(self, label: np.ndarray) -> Iterator[Tuple[List[paddle.Tensor], np.ndarray]]:
        """The outputs of the image, or of each of its windows, and the label that belongs to them."""
        if not self._options.is_slide:
            nearest = min(self._passes, key=lambda each: abs(each.size[0] - label.shape[0]))  # the first is unmirrored
            yield [output[self._place:self._place + 1] for output in nearest.outputs], label
            return
        (width, height), (right, down) = self._options.crop_size, self._options.stride
        boxes = [(slice(top, top + height), slice(left, left + width))
                 for top in window_starts(label.shape[0], height, down)
                 for left in window_starts(label.shape[1], width, right)]
        outputs = [paddle.concat(several) for several in zip(*(each.outputs for each in self._passes))]
        count = len(outputs[0]) // len(boxes)  # images of the batch; a window of all comes before the next window
        for number, box in enumerate(boxes):
            first = number * count + self._place
            yield [output[first:first + 1] for output in outputs], label[box]

    def _losses(self, outputs: List[paddle.Tensor], label: np.ndarray) -> List[float]:
        target, several = paddle.to_tensor(label.astype("int64")).unsqueeze(0), len(outputs) == len(self._criteria)
        with paddle.amp.auto_cast(enable=False):  # as in training
            return [float(self._loss(criterion, output, target)) for (criterion, _), output in
                    zip(self._criteria, outputs if several else outputs[:1])]

    def _loss(self, criterion: nn.Layer, output: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        size = tuple(label.shape[1:])
        if output.ndim == 4 and tuple(output.shape[2:]) != size:
            if getattr(criterion, "takes_coarse_logits", False):
                return criterion(output, label, size=size, align_corners=self._align_corners)
            output = resize(output, size, self._align_corners)
        return criterion(output, label)


class _Watched:
    """A model whose passes are noted; in all else it is the model."""

    def __init__(self, model: nn.Layer, passes):
        self._model, self._passes = model, passes
        self._gives_all: Optional[bool] = None if hasattr(model, "loss_names") else False

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def __call__(self, images: paddle.Tensor, **arguments) -> List[paddle.Tensor]:
        looks = self._gives_all is None
        outputs = self._model(images, **arguments) if looks or not self._gives_all else []
        if looks or self._gives_all:
            with _outputs_of_training(self._model):
                all_outputs = self._model(images, **arguments)
            if looks:  # the scores must be those that val.py would find
                self._gives_all = _is_same(outputs[0], all_outputs[0])
            outputs = all_outputs if self._gives_all else outputs
        self._passes().append(_Pass(tuple(images.shape[2:]), list(outputs)))
        return outputs[:1]


def _is_same(one: paddle.Tensor, other: paddle.Tensor) -> bool:
    return list(one.shape) == list(other.shape) and bool(paddle.allclose(one, other, rtol=1e-3, atol=1e-4))


@contextmanager
def _outputs_of_training(model: nn.Layer) -> Iterator[None]:
    """Inside, the model itself believes that it is trained; its layers, such as batch norms, don't."""
    model.training = True
    try:
        yield
    finally:
        model.training = False
