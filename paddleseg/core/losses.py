"""The losses of a model's outputs, the same ones in training and in an evaluation."""

from typing import Dict, List, Sequence, Tuple

import paddle
import paddle.nn as nn

from paddleseg.cvlibs.errors import ConfigError

Criteria = Sequence[Tuple[nn.Layer, float]]  # (loss, coefficient) along a model's outputs


def loss_names(model: nn.Layer, count: int) -> List[str]:
    """loss_seg, loss_aux, …, as the model names its outputs; loss_0, loss_1, … where it doesn't."""
    names = getattr(getattr(model, "_layers", model), "loss_names", range(count))
    return [f"loss_{name}" for name in names]


def weighted_losses(model: nn.Layer, criteria: Criteria, outputs: Sequence[paddle.Tensor],
                    label: paddle.Tensor) -> Dict[str, paddle.Tensor]:
    """Return each loss by its name and their weighted sum as "loss"; each loss gets a label that it may change.

    Args:
        outputs: of the model in training: logits at the size of the label, and (N, C) of an SE layer.
        label: (N, H, W).

    Raises:
        ConfigError: there isn't a loss for each output.
    """
    names = loss_names(model, len(outputs))
    if len(outputs) != len(criteria):
        raise ConfigError(f"loss.coef has {len(criteria)} values, but the model has {len(outputs)} outputs "
                          f"({', '.join(names)}); give one for each")
    losses = [criterion(output, label.clone()) for (criterion, _), output in zip(criteria, outputs)]
    total = sum(loss * coef for loss, (_, coef) in zip(losses, criteria))
    return {"loss": total, **dict(zip(names, losses))}
