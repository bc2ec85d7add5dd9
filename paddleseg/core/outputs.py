"""A model's outputs in training, each of the size that its loss wants."""

import inspect
from typing import Dict, List, Sequence, Tuple

import paddle
import paddle.nn as nn

from paddleseg.core.upsample import resize
from paddleseg.cvlibs.errors import ConfigError


def training_outputs(model: nn.Layer, criteria: Sequence[nn.Layer],
                     images: paddle.Tensor) -> Tuple[List[paddle.Tensor], List[Dict]]:
    """A model's outputs in training, and further arguments of each loss.

    Where the model gives logits as its heads compute them, and a loss has a true attribute `takes_coarse_logits`, this
    loss gets them so, with the `size` and `align_corners` that they are to be resized with; others get resized ones.

    Raises:
        ConfigError: there isn't a loss for each output.
    """
    plain, size = getattr(model, "_layers", model), tuple(images.shape[2:])
    # towards a length of 1 our models don't resize as F.interpolate does
    coarse = 1 not in size and takes_at_input_size(plain) and any(map(_takes_coarse_logits, criteria))
    logits = model(images, at_input_size=False) if coarse else model(images)
    if len(logits) != len(criteria):
        raise ConfigError(f"loss.coef has {len(criteria)} values, but the model has {len(logits)} outputs "
                          f"({', '.join(loss_names(model, len(logits)))}); give one for each")
    resizing: List[Dict] = [{} for _ in logits]
    for index, (criterion, logit) in enumerate(zip(criteria, logits)):
        if coarse and logit.ndim == 4:
            if _takes_coarse_logits(criterion):
                resizing[index] = {"size": size, "align_corners": plain.align_corners}
            else:
                logits[index] = resize(logit, size, plain.align_corners)
    return logits, resizing


def _takes_coarse_logits(criterion: nn.Layer) -> bool:
    return getattr(criterion, "takes_coarse_logits", False)


def takes_at_input_size(model: nn.Layer) -> bool:
    """Whether model(images, at_input_size=False) gives logits as its heads compute them."""
    try:
        return "at_input_size" in inspect.signature(model.forward).parameters
    except ValueError:  # of a forward that paddle.jit.to_static has made, on Paddle 3
        return False


def loss_names(model, count: int) -> List[str]:
    """loss_seg, loss_aux, …, as the model names its outputs; loss_0, loss_1, … where it doesn't."""
    names = getattr(getattr(model, "_layers", model), "loss_names", range(count))
    return [f"loss_{name}" for name in names]
