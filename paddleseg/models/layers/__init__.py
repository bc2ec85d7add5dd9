"""The layers that the models are built of, PaddleSeg's public ones among them."""

from paddleseg.models.layers.activation import Activation
from paddleseg.models.layers.attention import AttentionBlock
from paddleseg.models.layers.conv_bn import AuxLayer, ConvBN, ConvBNReLU, SyncBatchNorm, add_relu, use_unbiased_variance
from paddleseg.models.layers.encoding import Encoding
from paddleseg.models.layers.layer_libs import (
    JPU,
    ConvBNAct,
    ConvBNLeakyReLU,
    ConvBNPReLU,
    ConvGNAct,
    ConvNormAct,
    ConvReLUPool,
    DepthwiseConvBN,
    SeparableConvBNReLU,
)
from paddleseg.models.layers.nmf_2d import NMF2D
from paddleseg.models.layers.nonlocal2d import NonLocal2D
from paddleseg.models.layers.polarized_self_attention import PolarizedSelfAttentionModule
from paddleseg.models.layers.pyramid_pool import ASPPModule, PPModule
from paddleseg.models.layers.resize import resize
from paddleseg.models.layers.tensor_fusion import (
    UAFM,
    UAFM_ChAtten,
    UAFM_ChAtten_S,
    UAFM_SpAtten,
    UAFM_SpAtten_S,
    UAFMMobile,
    UAFMMobile_SpAtten,
)
from paddleseg.models.layers.wrap_functions import Add, Concat, Divide, Flatten, Multiply, Reshape, Subtract, Transpose

__all__ = ["ASPPModule", "Activation", "Add", "AttentionBlock", "AuxLayer", "Concat", "ConvBN", "ConvBNAct",
           "ConvBNLeakyReLU", "ConvBNPReLU", "ConvBNReLU", "ConvGNAct", "ConvNormAct", "ConvReLUPool",
           "DepthwiseConvBN", "Divide", "Encoding", "Flatten", "JPU", "Multiply", "NMF2D", "NonLocal2D", "PPModule",
           "PolarizedSelfAttentionModule", "Reshape", "SeparableConvBNReLU", "Subtract", "SyncBatchNorm", "Transpose",
           "UAFM", "UAFMMobile", "UAFMMobile_SpAtten", "UAFM_ChAtten", "UAFM_ChAtten_S", "UAFM_SpAtten",
           "UAFM_SpAtten_S", "add_relu", "resize", "use_unbiased_variance"]
