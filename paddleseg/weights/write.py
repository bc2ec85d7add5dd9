"""Write weights as a `.pdparams` that paddle.load and PaddleSeg read."""

import pickle
from typing import Any, Mapping

import numpy as np

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils.files import atomic_path

NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds it: name in the model -> name of the tensor


def write_weights(path: str, mapping: Mapping[str, Any]) -> None:
    """Write arrays (or tensors) by name as a `.pdparams` that paddle.load and PaddleSeg read.

    Raises:
        WeightsError: a value isn't numeric, or the file can't be written; an older file stays then.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in mapping.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise WeightsError(f"{path}: {name} is of dtype {array.dtype}; only numbers can be written")
    # With the table, paddle.load returns tensors; without it, arrays.
    content = {**arrays, NAME_TABLE: {name: name for name in arrays}}
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            pickle.dump(content, stream, protocol=4)
    except OSError as error:
        raise WeightsError(f"{path} can't be written: {error.strerror or error}") from error
