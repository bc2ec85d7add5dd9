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

from paddleseg.core.options import check_precision
from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import logger

# From this compute capability on Paddle casts; on older GPUs it would warn and compute in float32.
_CAPABILITIES = {"fp16": (7, 0), "bf16": (8, 0)}


class LossScale:
    """Factor of the loss in fp16, where gradients below 6e-8 are 0.

    A step whose gradients overflow halves it, GROWTH_STEPS in a row without one double it.
    """

    FIRST, GROWTH_STEPS = 2.0 ** 16, 2000  # as Paddle and PyTorch have them

    def __init__(self):
        self.value, self.steps_since_change = self.FIRST, 0

    def update(self, updated: bool) -> bool:
        """Count a step, updated or skipped; returns whether the scale has changed.

        Raises:
            RunError: steps were skipped until losses weren't scaled up any more.
        """
        self.steps_since_change += 1
        if updated and self.steps_since_change < self.GROWTH_STEPS:
            return False
        self.value, self.steps_since_change = self.value * (2.0 if updated else 0.5), 0
        if self.value < 1.0:
            raise RunError("gradients are infinite or NaN at every loss scale, so fp16 learns nothing any more; lower "
                           "the learning rate, or take precision bf16 or fp32")
        return True

    def state(self) -> Dict[str, Union[float, int]]:
        return {"loss_scale": self.value, "steps_since_change": self.steps_since_change}

    def restore(self, state: Dict[str, Union[float, int]]) -> None:
        self.value, self.steps_since_change = state["loss_scale"], state["steps_since_change"]


class MixedPrecision:
    """Precision of training steps.

    Args:
        precision: fp32, fp16 or bf16.
        level: O1 or O2.
        device: as paddle.get_device() says. On a CPU Paddle has no mixed precision; there it is off.

    Raises:
        ConfigError: there is no such precision or level, or the level has no effect.
        RunError: the GPU is too old for this precision.
    """

    def __init__(self, precision: str = "fp32", level: str = "O1", device: str = "cpu"):
        check_precision(precision, level)
        self._enabled = precision != "fp32" and device.startswith("gpu")
        if self._enabled and precision not in possible_precisions():
            major, minor = paddle.device.cuda.get_device_capability()
            raise RunError(f"precision {precision}: this GPU, of compute capability {major}.{minor}, hasn't got it; "
                           f"take {' or '.join(possible_precisions())}")
        if precision != "fp32" and not self._enabled:
            logger.warning(f"precision {precision}: Paddle's mixed precision does nothing on a CPU; training in fp32")
        self._level, self._dtype = level, "bfloat16" if precision == "bf16" else "float16"
        self._scale = LossScale() if self._enabled and precision == "fp16" else None  # bf16 has float32's range
        # GradScaler would adapt it too, and say so: with a float() of an array that NumPy 2.4 makes a TypeError.
        self._scaler = paddle.amp.GradScaler(self._scale is not None, self.loss_scale, use_dynamic_loss_scaling=False)

    @property
    def loss_scale(self) -> float:
        """The factor of losses; 1 but in fp16."""
        return 1.0 if self._scale is None else self._scale.value

    def prepare(self, model: nn.Layer, optimizer) -> None:
        """Cast weights in place and give the optimizer their masters at O2; else do nothing.

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
        """Return the context of a forward pass in training."""
        return paddle.amp.auto_cast(enable=self._enabled, level=self._level, dtype=self._dtype)

    def evaluation(self) -> ContextManager:
        """Return the context of an evaluation amid training: float32 as in val.py, but at O2, where weights aren't."""
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
        if self._scale is not None and self._scale.update(updated):
            self._scaler.set_init_loss_scaling(self._scale.value)
        return updated

    def state(self) -> Dict[str, Union[float, int]]:
        """Return the loss scale and how long it has held, for JSON; {} but in fp16."""
        return {} if self._scale is None else self._scale.state()

    def restore(self, state: Dict[str, Union[float, int]]) -> None:
        """Go on from a `state`; warn if it is of another precision."""
        in_fp16 = self._scale is not None
        if in_fp16 and state:
            self._scale.restore(state)
            self._scaler.set_init_loss_scaling(self._scale.value)
        elif in_fp16 or state:
            logger.warning(f"the checkpoint is {'not ' if in_fp16 else ''}of training in fp16, this run is"
                           f"{'' if in_fp16 else ' not'}; its loss scale is {self.loss_scale:g}")


def float32_weights(model: nn.Layer, optimizer) -> Dict[str, np.ndarray]:
    """Return the model's state_dict, with the optimizer's master in place of each weight in half precision."""
    masters = optimizer.state_dict().get("master_weights", {})
    return {name: masters.get(tensor.name, tensor).numpy() for name, tensor in model.state_dict().items()}


def possible_precisions() -> List[str]:
    """Return the precisions that this GPU has."""
    capability = tuple(paddle.device.cuda.get_device_capability())
    return ["fp32", *(name for name, needed in _CAPABILITIES.items() if capability >= needed)]
