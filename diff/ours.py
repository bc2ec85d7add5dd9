"""Our side of a comparison: the toolkit's own builder, model, losses, optimizer and schedule.

Every side has the methods of `PaddleSide`; arrays and names that go in and out are numpy's and ours.
"""

from typing import Dict, Mapping

import numpy as np
import paddle

from diff import inputs
from diff.stages import paddle_gradients, paddle_stages, paddle_state
from paddleseg import builder
from paddleseg.core.precision import MixedPrecision
from paddleseg.core.train import backward
from paddleseg.cvlibs.config import Config
from paddleseg.weights.load import load_into


def random_weights(config: Config, seed: int = 0) -> Dict[str, np.ndarray]:
    """Random values for every parameter and buffer of the model."""
    shapes = {name: value.shape for name, value in builder.build_model(config).state_dict().items()}
    return inputs.random_weights(shapes, seed)


def initial_weights(config: Config, seed: int) -> Dict[str, np.ndarray]:
    """Initial weights of a training run of ours, but residual branches start at 0, as mmsegmentation's do."""
    config.set("seed", seed, "comparison")
    weights = {name: value.numpy() for name, value in builder.build_model(config).state_dict().items()}
    return {name: np.zeros_like(value) if inputs.ends_branch(name, weights) else value
            for name, value in weights.items()}


class PaddleSide:
    """The model of a configuration with given weights, in one dtype.

    Args:
        config: the recipe.
        weights: every parameter and buffer, in our names.
        dtype: float32 or float64; becomes Paddle's default dtype.
    """

    def __init__(self, config: Config, weights: Mapping[str, np.ndarray], dtype: str):
        paddle.set_default_dtype(dtype)
        self.model = builder.build_model(config)
        load_into(self.model, weights, "the given weights")
        self.criteria = builder.build_criteria(config, self.model)
        self.optimizer = builder.build_optimizer(config, self.model)
        self.schedule = builder.build_schedule(config)
        self.iteration = 0

    def forward(self, images: np.ndarray, train: bool) -> Dict[str, np.ndarray]:
        """Return every stage by name, as `stages.paddle_stages` does."""
        return paddle_stages(self.model, images, train)

    def losses(self, logits: Mapping[str, np.ndarray], label: np.ndarray) -> Dict[str, float]:
        """The loss of each output times its coefficient, and their sum as "total"."""
        label = paddle.to_tensor(label)
        terms = {name: coef * loss(paddle.to_tensor(logits[name]), label)
                 for name, (loss, coef) in zip(self.model.loss_names, self.criteria)}
        return {**{name: term.item() for name, term in terms.items()}, "total": sum(terms.values()).item()}

    def backward(self, images: np.ndarray, label: np.ndarray) -> Dict[str, float]:
        """The losses of a training batch, as `losses` gives them; leaves the gradients."""
        self.model.train()
        found = backward(self.model, self.criteria, {"img": paddle.to_tensor(images),
                                                     "label": paddle.to_tensor(label)}, MixedPrecision())
        terms = {name: coef * found[f"loss_{name}"].item()
                 for name, (_, coef) in zip(self.model.loss_names, self.criteria)}
        return {**terms, "total": found["loss"].item()}

    def gradients(self) -> Dict[str, np.ndarray]:
        """Return the gradient of every parameter, after `backward`."""
        return paddle_gradients(self.model)

    def update(self) -> float:
        """One optimizer step with the gradients; returns its learning rate."""
        lr = self.schedule(self.iteration)
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.iteration += 1
        return lr

    def state(self) -> Dict[str, np.ndarray]:
        """Return every parameter and buffer."""
        return paddle_state(self.model)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classes in evaluation mode, int64 (N, H, W)."""
        return self.forward(images, train=False)["seg"].argmax(axis=1)
