"""Checks of what a loss is given."""

from typing import Tuple

import numpy as np
import paddle

from paddleseg.cvlibs.errors import ConfigError, LabelValueError


def check_map(loss: str, logit: paddle.Tensor, label: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Return logits (N, C, H, W) in float32 at least, and the label (N, H, W) in int64.

    Raises:
        ConfigError: they have other shapes.
    """
    if logit.ndim != 4:
        shape = "(N, C) of the SE layer" if logit.ndim == 2 else f"shape {tuple(logit.shape)}"
        raise ConfigError(f"{loss} takes the (N, C, H, W) logits of seg or aux, got {shape}: check the order of "
                          f"loss.types against the model's outputs seg, aux, se")
    if (logit.shape[0], *logit.shape[2:]) != tuple(label.shape):
        raise ConfigError(f"{loss}: logits of shape {tuple(logit.shape)} and a label of shape {tuple(label.shape)} "
                          f"don't cover the same pixels; a label is (N, H, W)")
    return at_least_float32(logit), label.astype("int64")


def at_least_float32(logit: paddle.Tensor) -> paddle.Tensor:
    return logit if logit.dtype == paddle.float64 else logit.astype("float32")


def is_on_cpu(tensor: paddle.Tensor) -> bool:
    """Return True if the values are at hand; those of a graph that is being captured aren't."""
    return paddle.in_dynamic_mode() and tensor.place.is_cpu_place()


def check_label_values(loss: str, label: paddle.Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise LabelValueError if a label holds what is no class; one on a GPU isn't read, as that would wait for it."""
    if not is_on_cpu(label):
        return
    values = label.numpy()
    illegal = values[(values != ignore_index) & ((values < 0) | (values >= num_classes))]
    if illegal.size:
        raise LabelValueError(f"{loss}: a label holds {set(np.unique(illegal).tolist())}; legal are "
                              f"0..{num_classes - 1} and {ignore_index} (ignored)")
