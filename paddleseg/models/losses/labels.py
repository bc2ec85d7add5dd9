"""What labels may hold."""

from typing import NoReturn

import numpy as np
import paddle

from paddleseg.cvlibs.errors import LabelValueError


def can_be_read(tensor: paddle.Tensor) -> bool:
    """Whether its values are at hand: those on a GPU would have to be waited for."""
    return tensor.place.is_cpu_place()


def refuse_labels(loss: str, label: np.ndarray, num_classes: int, ignore_index: int) -> NoReturn:
    """Raise LabelValueError with the values in a label that are no class."""
    values = set(np.unique(label).tolist()) - {*range(num_classes), ignore_index}
    raise LabelValueError(f"{loss}: a label holds {values}; legal are 0..{num_classes - 1} and {ignore_index} "
                          f"(ignored)")
