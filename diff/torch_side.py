"""Common part of the two sides on PyTorch."""

from typing import Dict, Mapping

import numpy as np
import torch

from paddleseg.weights import dialects


class TorchSide:
    """A PyTorch model with given weights of ours; the methods are those of `ours.PaddleSide`.

    A subclass sets `model` before it calls `load`, and has `stages`, `losses`, `backward` and `update`.
    """

    dialect: str  # of weights/dialects.py
    model: torch.nn.Module

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Load weights of ours; PyTorch's counters of batches are all that may be missing.

        Raises:
            RuntimeError: names or shapes don't fit.
        """
        state = {name: torch.from_numpy(np.ascontiguousarray(value))
                 for name, value in dialects.convert_from_paddleseg(weights, self.dialect).items()}
        counters = {name: value for name, value in self.model.state_dict().items() if name.endswith("_tracked")}
        self.model.load_state_dict({**state, **counters}, strict=True)

    def stages(self, images: torch.Tensor, train: bool) -> Dict[str, torch.Tensor]:
        """Every stage of a forward pass by name."""
        raise NotImplementedError

    def forward(self, images: np.ndarray, train: bool) -> Dict[str, np.ndarray]:
        self.model.train(train)
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        with torch.no_grad():
            found = self.stages(torch.from_numpy(images), train)
        self.model.load_state_dict(kept)
        return {name: value.numpy() for name, value in found.items()}

    def gradients(self) -> Dict[str, np.ndarray]:
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        # Weights are renamed as a whole, so the buffers go along.
        renamed = self._in_our_names({**self.model.state_dict(), **gradients})
        return {name: value for name, value in renamed.items() if not name.endswith(("._mean", "._variance"))}

    def state(self) -> Dict[str, np.ndarray]:
        return self._in_our_names(self.model.state_dict())

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.forward(images, train=False)["seg"].argmax(axis=1)

    def _in_our_names(self, tensors: Mapping[str, torch.Tensor]) -> Dict[str, np.ndarray]:
        """Copies in our names and layout, without the counters."""
        arrays = {name: value.detach().numpy().copy() for name, value in tensors.items()}
        renamed, dialect = dialects.convert_to_paddleseg(arrays)
        if dialect != self.dialect:
            raise RuntimeError(f"weights of {self.dialect} were recognised as {dialect}")
        return {name: np.ascontiguousarray(value) for name, value in renamed.items()}
