"""Batches for a batch norm, and what it makes of them: whole in one process, or the share of one of two."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.models import layers
from paddleseg.utils import distributed

STEPS = 3


@dataclass
class Case:
    """A batch of which rank 0 of two gets the first `cut` images, and how it is used."""

    shape: Tuple[int, ...]
    cut: int
    dtype: str = "float64"
    mean: float = 0.0
    twice: bool = False  # in one graph
    frozen_input: bool = False
    unbiased: bool = False
    momentum: float = 0.9

    def batches(self):
        """(input, gradient of the output) of each step."""
        rng = np.random.default_rng(5)
        for _ in range(STEPS):
            yield rng.normal(self.mean, 1.5, self.shape).astype(self.dtype), rng.normal(size=self.shape).astype(
                self.dtype)

    def run(self) -> dict:
        """Outputs and gradients of the last step, and the running statistics; weights' gradients are summed."""
        before = paddle.get_default_dtype()
        paddle.set_default_dtype(self.dtype)
        layer = self.layer()
        for x, upstream in self.batches():
            layer.clear_gradients()
            x = paddle.to_tensor(self.share(x), stop_gradient=self.frozen_input)
            y = layer(layer(x).tanh()) + layer(x) if self.twice else layer(x)
            (y * paddle.to_tensor(self.share(upstream)) + y.square()).sum().backward()
        paddle.set_default_dtype(before)
        norm = layer[0]
        found = {"y": y.numpy(), "mean": norm._mean.numpy(), "variance": norm._variance.numpy(),
                 "weight": distributed.sum_over_ranks(norm.weight.grad.numpy()),
                 "bias": distributed.sum_over_ranks(norm.bias.grad.numpy())}
        layer.eval()
        found["y in evaluation"] = layer(x).detach().numpy()
        return found if self.frozen_input else {**found, "x": x.grad.numpy()}

    def layer(self) -> nn.Sequential:
        single = nn.BatchNorm2D if len(self.shape) == 4 else nn.BatchNorm1D
        channels = self.shape[1]
        layer = nn.Sequential(layers.SyncBatchNorm(channels, single_process=single, momentum=self.momentum))
        layer[0].weight.set_value(np.linspace(0.5, 1.5, channels).astype(self.dtype))
        layer[0].bias.set_value(np.linspace(-1, 1, channels).astype(self.dtype))
        if self.unbiased:
            layers.use_unbiased_variance(layer)
        return layer

    def share(self, array: np.ndarray) -> np.ndarray:
        if distributed.world_size() == 1:
            return array
        return array[:self.cut] if distributed.rank() == 0 else array[self.cut:]


CASES = {
    "4-D": Case((4, 3, 5, 7), 2),
    "4-D of unequal shares": Case((5, 3, 5, 7), 1),
    "codes": Case((4, 6, 8), 2),
    "codes of unequal shares": Case((3, 6, 8), 2, unbiased=True),
    "vectors": Case((5, 3), 2),
    "one value in each process": Case((2, 3, 1, 1), 1, unbiased=True),
    "a mean far from zero": Case((4, 3, 5, 7), 2, mean=1e3),
    "a mean far from zero in float32": Case((4, 3, 16, 16), 2, "float32", mean=1e3),
    "float32": Case((4, 3, 5, 7), 2, "float32"),
    "twice in one graph": Case((4, 3, 5, 7), 2, twice=True),
    "twice in one graph, unbiased": Case((4, 3, 5, 7), 1, twice=True, unbiased=True),
    "an input without gradient": Case((4, 3, 5, 7), 2, frozen_input=True),
    "another momentum": Case((4, 3, 5, 7), 2, momentum=0.37),
}


def run_all() -> dict:
    return {f"{name}: {key}": value for name, case in CASES.items() for key, value in case.run().items()}
