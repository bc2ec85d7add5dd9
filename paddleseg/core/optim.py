"""Optimizers, and learning rates as pure functions of the iteration."""

from typing import List, Optional

import paddle
import paddle.nn as nn

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError


def trainable_parameters(model: nn.Layer) -> List[paddle.Tensor]:
    """Those that aren't frozen: the others have neither state nor weight decay.

    Raises:
        ConfigError: there are none.
    """
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    if not parameters:
        raise ConfigError(f"{type(model).__name__}: every parameter is frozen, so there is nothing to train")
    return parameters


@manager.OPTIMIZERS.add_component(aliases=("sgd",))
def SGD(model: nn.Layer, momentum: float = 0.0, weight_decay: float = 0.0,
        use_nesterov: bool = False) -> paddle.optimizer.Optimizer:
    """SGD with momentum and coupled weight decay, as torch.optim.SGD.

    g = grad + weight_decay * p;   v = momentum * v + g;   p = p - lr * v

    Without `momentum` it is plain SGD, as in PaddleSeg.
    """
    if not 0 <= momentum < 1 or weight_decay < 0:
        raise ConfigError(f"optimizer: momentum {momentum} must be from 0 to below 1, weight_decay {weight_decay} "
                          f"at least 0")
    return paddle.optimizer.Momentum(
        learning_rate=0.0, momentum=momentum, parameters=trainable_parameters(model), use_nesterov=use_nesterov,
        weight_decay=paddle.regularizer.L2Decay(float(weight_decay)) if weight_decay else None)


@manager.OPTIMIZERS.add_component
def Momentum(model: nn.Layer, momentum: float = 0.9, weight_decay: float = 0.0,
             use_nesterov: bool = False) -> paddle.optimizer.Optimizer:
    """`SGD` with a momentum of 0.9 unless told otherwise."""
    return SGD(model, momentum, weight_decay, use_nesterov)


@manager.OPTIMIZERS.add_component
def AdamW(model: nn.Layer, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
          weight_decay: float = 0.01) -> paddle.optimizer.Optimizer:
    """Adam with decoupled weight decay: p = p - lr * (m / (sqrt(v) + epsilon) + weight_decay * p).

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    return paddle.optimizer.AdamW(learning_rate=0.0, beta1=beta1, beta2=beta2, epsilon=epsilon,
                                  parameters=trainable_parameters(model), weight_decay=weight_decay)


class _Schedule:
    """Linear warm-up, then `decay`; subclasses say how the rate falls after the warm-up."""

    def __init__(self, learning_rate: float, iters: int, warmup_iters: int, warmup_start_lr: float):
        if not 0 <= warmup_iters < max(iters, 1):
            raise ConfigError(f"lr_scheduler.warmup_iters {warmup_iters} must be at least 0 and below iters {iters}")
        if learning_rate <= 0 or warmup_start_lr < 0:
            raise ConfigError(f"lr_scheduler: learning_rate {learning_rate} must be above 0, warmup_start_lr "
                              f"{warmup_start_lr} at least 0")
        self.learning_rate = learning_rate
        self.warmup_iters = warmup_iters
        self.warmup_start_lr = warmup_start_lr
        self.decay_iters = iters - warmup_iters

    def __call__(self, step: int) -> float:
        """The learning rate of step 0, 1, … iters - 1."""
        if step < self.warmup_iters:
            return self.warmup_start_lr + (self.learning_rate - self.warmup_start_lr) * step / self.warmup_iters
        return self.decay(step - self.warmup_iters)


@manager.LR_SCHEDULERS.add_component
class PolynomialDecay(_Schedule):
    """lr(t) = (learning_rate - end_lr) * (1 - t / T)^power + end_lr, t counted from the end of the warm-up.

    Args:
        decay_steps: T; None takes all iterations after the warm-up.
        ends_at_last_iter: False: T is the number of iterations (PaddleSeg), so that the last one trains just
            above end_lr. True: one less (mmengine), so that the last one trains at end_lr.
    """

    def __init__(self, learning_rate: float, iters: int, end_lr: float = 1e-4, power: float = 1.0,
                 decay_steps: Optional[int] = None, ends_at_last_iter: bool = False,
                 warmup_iters: int = 0, warmup_start_lr: float = 0.0):
        super().__init__(learning_rate, iters, warmup_iters, warmup_start_lr)
        if end_lr < 0 or power <= 0 or (decay_steps is not None and decay_steps < 1):
            raise ConfigError(f"lr_scheduler: end_lr {end_lr} must be at least 0, power {power} above 0, decay_steps "
                              f"{decay_steps} at least 1")
        self.end_lr = end_lr
        self.power = power
        steps = self.decay_iters if decay_steps is None else decay_steps
        self.decay_steps = max(1, steps - 1 if ends_at_last_iter else steps)

    def decay(self, step: int) -> float:
        remaining = 1.0 - min(step, self.decay_steps) / self.decay_steps
        return (self.learning_rate - self.end_lr) * remaining ** self.power + self.end_lr


@manager.LR_SCHEDULERS.add_component
class ConstantLR(_Schedule):
    """The same learning rate for every iteration after the warm-up."""

    def __init__(self, learning_rate: float, iters: int, warmup_iters: int = 0, warmup_start_lr: float = 0.0):
        super().__init__(learning_rate, iters, warmup_iters, warmup_start_lr)

    def decay(self, step: int) -> float:
        return self.learning_rate
