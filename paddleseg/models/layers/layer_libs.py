"""PaddleSeg's path of its convolution blocks."""

from paddleseg.models.layers.compat.layer_libs import *  # noqa: F403
