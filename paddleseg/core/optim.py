"""Optimizers, and learning rates as pure functions of the iteration."""

from typing import Dict, List, Optional, Sequence, Tuple, Union

import paddle
import paddle.nn as nn

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError

# The loop sets the rate before each step; without it a step must not pass for one that trained.
_UNSET_LR = float("nan")


def trainable_parameters(model: nn.Layer) -> List[paddle.Tensor]:
    """Return those that aren't frozen: the others have neither state nor weight decay.

    Raises:
        ConfigError: there are none.
    """
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    if not parameters:
        raise ConfigError(f"{type(model).__name__}: every parameter is frozen, so there is nothing to train")
    return parameters


def parameter_group(name: str, lr_mult: float = 1.0, weight_decay_mult: float = 1.0) -> Tuple[str, float, float]:
    """Check an item of `custom_cfg`; its arguments are the item's keys.

    Args:
        name: of parameters that have this text anywhere in their names; "" is in every name.
        lr_mult, weight_decay_mult: factors of the learning rate and of the optimizer's weight_decay.
    """
    if lr_mult < 0 or weight_decay_mult < 0:
        raise ConfigError(f"optimizer.custom_cfg {name}: lr_mult {lr_mult} and weight_decay_mult {weight_decay_mult} "
                          f"must be at least 0")
    return name, lr_mult, weight_decay_mult


def grouped_parameters(model: nn.Layer, weight_decay: float, backbone_lr_mult: Optional[float] = None,
                       custom_cfg: Optional[Sequence[dict]] = None) -> Union[List[paddle.Tensor], List[Dict]]:
    """Return the parameters that aren't frozen, as an optimizer of Paddle takes them.

    Args:
        backbone_lr_mult: factor of the learning rate of the backbone; short for
            custom_cfg [{name: backbone, lr_mult: …}].
        custom_cfg: mappings that `parameter_group` describes. The first that fits a parameter counts, as in PaddleSeg.

    Returns: a list where all are treated alike, else groups of equal learning rate and weight decay.

    Raises:
        ConfigError: every parameter is frozen, weight_decay is below 0, both arguments are given, or an item counts for
            no parameter.
    """
    parameters = trainable_parameters(model)
    if weight_decay < 0:
        raise ConfigError(f"optimizer: weight_decay {weight_decay} must be at least 0")
    if backbone_lr_mult is not None and custom_cfg:
        raise ConfigError(f"optimizer has backbone_lr_mult and custom_cfg; write the first as an item of the second: "
                          f"{{name: backbone, lr_mult: {backbone_lr_mult}}}")
    if backbone_lr_mult is not None:
        custom_cfg = [{"name": "backbone", "lr_mult": backbone_lr_mult}]
    rules = [parameter_group(**item) for item in custom_cfg or ()]
    if not rules:
        return parameters
    names = [name for name, _ in model.named_parameters()]
    for text, *_ in rules:
        if not any(text in name for name in names):
            raise ConfigError(f"optimizer: no parameter has {text!r} in its name; their names begin with "
                              f"{', '.join(sorted({name.partition('.')[0] for name in names}))}")
    first = {next((text for text, *_ in rules if text in name), None) for name in names}
    for text, *_ in rules:
        if text not in first:
            raise ConfigError(f"optimizer.custom_cfg: items before {text!r} fit every parameter that it fits, and the "
                              f"first that fits counts; put it before them")
    groups: Dict[Tuple[float, float], List[paddle.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            _, lr_mult, decay_mult = next((rule for rule in rules if rule[0] in name), ("", 1.0, 1.0))
            groups.setdefault((float(lr_mult), float(weight_decay * decay_mult)), []).append(parameter)
    return [{"params": members, "learning_rate": lr_mult, "weight_decay": decay}
            for (lr_mult, decay), members in groups.items()]


@manager.OPTIMIZERS.add_component(aliases=("sgd",))
def SGD(model: nn.Layer, momentum: float = 0.0, weight_decay: float = 0.0, use_nesterov: bool = False,
        backbone_lr_mult: Optional[float] = None,
        custom_cfg: Optional[Sequence[dict]] = None) -> paddle.optimizer.Optimizer:
    """SGD with momentum and coupled weight decay, as torch.optim.SGD.

    g = grad + weight_decay * p;   v = momentum * v + g;   p = p - lr * v

    Without `momentum` it is plain SGD, as in PaddleSeg. For `backbone_lr_mult` and `custom_cfg` see
    `grouped_parameters`.
    """
    if not 0 <= momentum < 1:
        raise ConfigError(f"optimizer: momentum {momentum} must be from 0 to below 1")
    return paddle.optimizer.Momentum(
        learning_rate=_UNSET_LR, momentum=momentum, use_nesterov=use_nesterov,
        parameters=grouped_parameters(model, weight_decay, backbone_lr_mult, custom_cfg),
        weight_decay=paddle.regularizer.L2Decay(float(weight_decay)) if weight_decay else None)


@manager.OPTIMIZERS.add_component
def Momentum(model: nn.Layer, momentum: float = 0.9, weight_decay: float = 0.0, use_nesterov: bool = False,
             backbone_lr_mult: Optional[float] = None,
             custom_cfg: Optional[Sequence[dict]] = None) -> paddle.optimizer.Optimizer:
    """`SGD` with a momentum of 0.9 unless given."""
    return SGD(model, momentum, weight_decay, use_nesterov, backbone_lr_mult, custom_cfg)


@manager.OPTIMIZERS.add_component
def AdamW(model: nn.Layer, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
          weight_decay: float = 0.01, backbone_lr_mult: Optional[float] = None,
          custom_cfg: Optional[Sequence[dict]] = None) -> paddle.optimizer.Optimizer:
    """Adam with decoupled weight decay: p = p - lr * (m / (sqrt(v) + epsilon) + weight_decay * p).

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. For `backbone_lr_mult` and `custom_cfg`
    see `grouped_parameters`.
    """
    return paddle.optimizer.AdamW(
        learning_rate=_UNSET_LR, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=float(weight_decay),
        parameters=grouped_parameters(model, weight_decay, backbone_lr_mult, custom_cfg))


@manager.OPTIMIZERS.add_component
def Adam(model: nn.Layer, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
         weight_decay: float = 0.0, backbone_lr_mult: Optional[float] = None,
         custom_cfg: Optional[Sequence[dict]] = None) -> paddle.optimizer.Optimizer:
    """Adam with coupled weight decay, as torch.optim.Adam.

    g = grad + weight_decay * p;   p = p - lr * m / (sqrt(v) + epsilon)

    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; m and v are its corrected averages of g and
    g * g. For `backbone_lr_mult` and `custom_cfg` see `grouped_parameters`.
    """
    return paddle.optimizer.Adam(
        learning_rate=_UNSET_LR, beta1=beta1, beta2=beta2, epsilon=epsilon,
        parameters=grouped_parameters(model, weight_decay, backbone_lr_mult, custom_cfg),
        weight_decay=paddle.regularizer.L2Decay(float(weight_decay)) if weight_decay else None)


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
        """Return the learning rate of step 0, 1, … iters - 1."""
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
