"""The losses; importing this package registers them."""

from paddleseg.models.losses.cross_entropy_loss import CrossEntropyLoss
from paddleseg.models.losses.lovasz_loss import LovaszSoftmaxLoss
from paddleseg.models.losses.mixed_loss import MixedLoss
from paddleseg.models.losses.ohem_cross_entropy_loss import OhemCrossEntropyLoss
from paddleseg.models.losses.se_loss import SELoss

SECrossEntropyLoss = SELoss  # as PaddleSeg calls it

__all__ = ["CrossEntropyLoss", "LovaszSoftmaxLoss", "MixedLoss", "OhemCrossEntropyLoss", "SECrossEntropyLoss",
           "SELoss"]
