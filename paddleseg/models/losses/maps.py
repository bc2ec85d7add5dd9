"""What losses of pixels take."""

from typing import Optional, Sequence, Tuple

import paddle

from paddleseg.cvlibs.errors import ConfigError


def check_map(loss: str, logit: paddle.Tensor, label: paddle.Tensor,
              size: Optional[Sequence[int]] = None) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Logits (N, C, H, W) in float32 at least, and the label (N, H, W) in int64.

    Args:
        size: (H, W) that the logits will be resized to; None for theirs.

    Raises:
        ConfigError: they have other shapes.
    """
    if logit.ndim != 4:
        shape = "(N, C) of the SE layer" if logit.ndim == 2 else f"shape {tuple(logit.shape)}"
        raise ConfigError(f"{loss} takes the (N, C, H, W) logits of seg or aux, got {shape}: check the order of "
                          f"loss.types against the model's outputs seg, aux, se")
    size = tuple(logit.shape[2:] if size is None else size)
    if (logit.shape[0], *size) != tuple(label.shape):
        raise ConfigError(f"{loss}: logits of shape {(*logit.shape[:2], *size)} and a label of shape "
                          f"{tuple(label.shape)} don't cover the same pixels; a label is (N, H, W)")
    return logit if logit.dtype == paddle.float64 else logit.astype("float32"), label.astype("int64")
