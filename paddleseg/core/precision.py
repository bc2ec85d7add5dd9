"""Mixed precision: convolutions and matrix products in half precision, what is summed up or kept in float32.

fp32 is mixed precision switched off, so a training step is written once:

    precision.prepare(model, optimizer)
    with precision.autocast():
        logits = model(images)
    precision.backward(loss_of(logits))  # as often as gradients are accumulated
    updated = precision.step(optimizer)

At O1 the weights are float32 and cast at every use. At O2 convolutions and linear layers hold theirs in half
precision, and the optimizer updates float32 masters of them.

No list of operators of our own is needed. By Paddle's, bilinear resizing is float32, and so is what has a float32
input, but for convolutions and matrix products; at O1 sums, means and softmax too. A batch norm reads half precision;
its statistics and parameters are float32. The Encoding layer leaves the autocast by itself and hands float32 on to the
batch norm over its codes. Losses are computed outside.
"""

from contextlib import nullcontext
from typing import ContextManager, Dict, List, Union

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.utils import logger

PRECISIONS, LEVELS = ("fp32", "fp16", "bf16"), ("O1", "O2")
# From this compute capability on Paddle casts; on older GPUs it would warn and compute in float32.
_CAPABILITIES = {"fp16": (7, 0), "bf16": (8, 0)}
_FIRST_SCALE, _GROWTH_STEPS = 2.0 ** 16, 2000  # as Paddle and PyTorch have them


def check_precision(precision: str, level: str) -> None:
    """Raises ConfigError if there is no such precision or level, or the level has no effect."""
    for name, value, known in ("precision", precision, PRECISIONS), ("amp_level", level, LEVELS):
        if value not in known:
            raise ConfigError(f"{name} {value!r} must be one of {', '.join(known)}")
    if precision == "fp32" and level != "O1":
        raise ConfigError(f"amp_level {level} takes effect only with precision fp16 or bf16")


class MixedPrecision:
    """The precision of training steps.

    Args:
        precision: fp32, fp16 or bf16.
        level: O1 or O2.
        device: as paddle.get_device() says. On a CPU Paddle has no mixed precision; there it is off.

    Attributes:
        loss_scale: what losses are multiplied by. In fp16, where gradients below 6e-8 are 0, it is halved by a step
            whose gradients overflow and doubled by 2000 steps in a row without one; else it is 1, as bf16 has
            float32's range.

    Raises:
        ConfigError: see `check_precision`.
        RunError: the GPU is too old for this precision.
    """

    def __init__(self, precision: str = "fp32", level: str = "O1", device: str = "cpu"):
        check_precision(precision, level)
        self._enabled = precision != "fp32" and device.startswith("gpu")
        if self._enabled:
            _check_gpu(precision)
        elif precision != "fp32":
            logger.warning(f"precision {precision}: Paddle's mixed precision does nothing on a CPU; training in fp32")
        self._level, self._dtype = level, "bfloat16" if precision == "bf16" else "float16"
        self.loss_scale = _FIRST_SCALE if self._enabled and precision == "fp16" else 1.0
        self._steps_since_change = 0
        # GradScaler would adapt it too, and say so: with a float() of an array that NumPy 2.4 makes a TypeError.
        self._scaler = paddle.amp.GradScaler(self.loss_scale > 1.0, self.loss_scale, use_dynamic_loss_scaling=False)

    def prepare(self, model: nn.Layer, optimizer) -> None:
        """At O2, cast weights in place and give the optimizer their masters; else do nothing.

        Comes after weights and optimizer are loaded or restored, and before paddle.DataParallel. The masters are the
        weights as they were, which the cast ones can't give back, under the names of their parameters: so the
        optimizer's state has the same keys in every precision, and a checkpoint of one serves another.
        """
        if not self._enabled or self._level != "O2":
            return
        masters = {parameter.name: parameter.detach().clone() for parameter in model.parameters()}
        kept = [layer for layer in model.sublayers(include_self=True) if layer.parameters(include_sublayers=False)
                and not isinstance(layer, (nn.Conv2D, nn.Linear))]
        paddle.amp.decorate(model, optimizer, "O2", self._dtype, master_weight=True, excluded_layers=kept)
        for parameter in model.parameters():
            if parameter.dtype != paddle.float32:
                masters[parameter.name].name = parameter.name
                optimizer._master_weights[parameter.name] = masters[parameter.name]

    def autocast(self) -> ContextManager:
        """Around a forward pass in training."""
        return paddle.amp.auto_cast(enable=self._enabled, level=self._level, dtype=self._dtype)

    def evaluation(self) -> ContextManager:
        """Around an evaluation amid training: float32 as in val.py, but at O2, where the weights aren't."""
        return self.autocast() if self._level == "O2" else nullcontext()

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of a scalar loss, times the loss scale."""
        self._scaler.scale(loss).backward()

    def step(self, optimizer) -> bool:
        """Divide the gradients by the loss scale, update the parameters, clear the gradients.

        Returns: False if a gradient was infinite or NaN: then the update is skipped and the loss scale halved. The
            processes needn't ask each other: paddle.DataParallel has given all of them the same averages.

        Raises:
            RunError: this goes on until losses aren't scaled up any more.
        """
        self._scaler.step(optimizer)
        updated = not optimizer._get_auxiliary_var("found_inf")
        optimizer.clear_grad(set_to_zero=False)  # gone until the next backward pass, where memory is needed most
        if self._scaler.is_enable():
            self._adapt(updated)
        return updated

    def _adapt(self, updated: bool) -> None:
        self._steps_since_change += 1
        if updated and self._steps_since_change < _GROWTH_STEPS:
            return
        self._set_scale(self.loss_scale * (2.0 if updated else 0.5), 0)
        if self.loss_scale < 1.0:
            raise RunError("gradients are infinite or NaN at every loss scale, so fp16 learns nothing any more; lower "
                           "the learning rate, or take precision bf16 or fp32")

    def _set_scale(self, loss_scale: float, steps_since_change: int) -> None:
        self.loss_scale, self._steps_since_change = loss_scale, steps_since_change
        self._scaler.set_init_loss_scaling(loss_scale)

    def state(self) -> Dict[str, Union[float, int]]:
        """The loss scale and how long it has held, for JSON; {} but in fp16."""
        return {"loss_scale": self.loss_scale, "steps_since_change": self._steps_since_change} if (
            self._scaler.is_enable()) else {}

    def restore(self, state: Dict[str, Union[float, int]]) -> None:
        """Go on from a `state`; says so if it is of another precision."""
        in_fp16 = self._scaler.is_enable()
        if in_fp16 and state:
            self._set_scale(**state)
        elif in_fp16 or state:
            logger.warning(f"the checkpoint is {'not ' if in_fp16 else ''}of training in fp16, this run is"
                           f"{'' if in_fp16 else ' not'}; its loss scale is {self.loss_scale:g}")


def float32_weights(model: nn.Layer, optimizer) -> Dict[str, np.ndarray]:
    """The model's state_dict, with the optimizer's master in place of each weight in half precision."""
    masters = optimizer.state_dict().get("master_weights", {})
    return {name: masters.get(tensor.name, tensor).numpy() for name, tensor in model.state_dict().items()}


def possible_precisions() -> List[str]:
    """Of PRECISIONS those that this GPU has."""
    capability = tuple(paddle.device.cuda.get_device_capability())
    return [name for name in PRECISIONS if capability >= _CAPABILITIES.get(name, (0, 0))]


def _check_gpu(precision: str) -> None:
    (major, minor), possible = paddle.device.cuda.get_device_capability(), possible_precisions()
    if precision not in possible:
        raise RunError(f"precision {precision}: this GPU, of compute capability {major}.{minor}, hasn't got it; take "
                       f"{' or '.join(possible)}")
