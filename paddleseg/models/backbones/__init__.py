"""The backbones; importing this package registers them."""

from paddleseg.models.backbones import resnet
from paddleseg.models.backbones.resnet import *  # noqa: F403

__all__ = resnet.__all__
