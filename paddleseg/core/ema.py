"""Moving averages of weights."""

from contextlib import contextmanager
from typing import Dict, Iterator, Mapping

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.cvlibs.errors import WeightsError

_DECAY = 0.999  # PaddleSeg's


class ModelEma:
    """Exponential moving averages of a model's parameters and running statistics.

    a = d a + (1 - d) w,   d = min(1 - 1 / (t + 1), 0.999),   after each iteration t = 1, 2, …

    The first iterations count little by this rule, as in PaddleSeg. Polyak and Juditsky, "Acceleration of Stochastic
    Approximation by Averaging", 1992, is where averaging weights comes from.

    They begin as the model's weights are, are kept in float32 at least, and take as much memory as those.
    """

    def __init__(self, model: nn.Layer):
        self._averages = {name: _to_float32(value.detach()).clone() for name, value in _averaged(model).items()}

    @paddle.no_grad()
    def update(self, model: nn.Layer, optimizer, iteration: int) -> None:
        """Take in the weights after an iteration; the optimizer's masters of those in half precision."""
        decay = min(1 - 1 / (iteration + 1), _DECAY)
        masters = getattr(optimizer, "_master_weights", {})
        for name, value in _averaged(model).items():
            average = self._averages[name]
            average.scale_(decay)
            average.add_(_to_float32(masters.get(value.name, value)) * (1.0 - decay))

    def state(self, model: nn.Layer) -> Dict[str, np.ndarray]:
        """Return the model's state_dict with the averages in it."""
        return {name: self._averages.get(name, value).numpy() for name, value in model.state_dict().items()}

    def restore(self, weights: Mapping[str, np.ndarray], source: str) -> None:
        """Go on from a `state`.

        Raises:
            WeightsError: it is of another model.
        """
        for name, average in self._averages.items():
            if name not in weights or list(weights[name].shape) != list(average.shape):
                raise WeightsError(f"{source}: the averaged weights belong to another model; {name} is missing or has "
                                   f"another shape")
            average.set_value(weights[name])

    @contextmanager
    def apply_to(self, model: nn.Layer) -> Iterator[None]:
        """Give the model the averages for weights inside the block; afterwards its own again."""
        own = {name: value.detach().clone() for name, value in _averaged(model).items()}
        _assign(model, self._averages)
        try:
            yield
        finally:
            _assign(model, own)


def _averaged(model: nn.Layer) -> Dict[str, paddle.Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _to_float32(value: paddle.Tensor) -> paddle.Tensor:
    return value if value.dtype in (paddle.float32, paddle.float64) else value.astype("float32")


@paddle.no_grad()
def _assign(model: nn.Layer, values: Mapping[str, paddle.Tensor]) -> None:
    for name, value in model.state_dict().items():
        if name in values:
            paddle.assign(values[name].astype(value.dtype), output=value)
