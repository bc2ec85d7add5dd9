"""The layers that the models are built of."""

from paddleseg.models.layers.conv_bn import AuxLayer, ConvBN, ConvBNReLU, SyncBatchNorm, add_relu, use_unbiased_variance
from paddleseg.models.layers.encoding import Encoding
from paddleseg.models.layers.resize import resize

__all__ = ["AuxLayer", "ConvBN", "ConvBNReLU", "Encoding", "SyncBatchNorm", "add_relu",
           "resize", "use_unbiased_variance"]
