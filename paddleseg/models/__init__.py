"""Networks and losses; importing this package registers them."""

from paddleseg.models import backbones, layers, losses
from paddleseg.models.encnet import EncModule, EncNet
from paddleseg.models.fcn import FCN

__all__ = ["EncModule", "EncNet", "FCN", "backbones", "layers", "losses"]
