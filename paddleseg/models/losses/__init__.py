"""The losses; importing this package registers them."""

from paddleseg.models.losses.cross_entropy_loss import CrossEntropyLoss
from paddleseg.models.losses.se_loss import SELoss

__all__ = ["CrossEntropyLoss", "SELoss"]
