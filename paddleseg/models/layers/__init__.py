"""The layers that the models are built of; PaddleSeg's other ones are loaded from compat/ when they are asked for.

The files in compat/ are modules of this package, so PaddleSeg's module paths hold.
"""

import importlib
import os
from typing import List

from paddleseg.models.layers.conv_bn import AuxLayer, ConvBN, ConvBNReLU, SyncBatchNorm, add_relu, use_unbiased_variance
from paddleseg.models.layers.encoding import Encoding
from paddleseg.models.layers.resize import resize

__path__.append(os.path.join(os.path.dirname(__file__), "compat"))
_COMPAT = {
    "activation": ["Activation"],
    "attention": ["AttentionBlock"],
    "layer_libs": ["ConvBNAct", "ConvBNLeakyReLU", "ConvBNPReLU", "ConvGNAct", "ConvNormAct", "ConvReLUPool",
                   "DepthwiseConvBN", "JPU", "SeparableConvBNReLU"],
    "nmf_2d": ["NMF2D"],
    "nonlocal2d": ["NonLocal2D"],
    "polaried_self_attention": ["PolarizedSelfAttentionModule"],
    "pyramid_pool": ["ASPPModule", "PPModule"],
    "tensor_fusion": ["UAFM", "UAFMMobile", "UAFMMobile_SpAtten", "UAFM_ChAtten", "UAFM_ChAtten_S", "UAFM_SpAtten",
                      "UAFM_SpAtten_S"],
    "wrap_functions": ["Add", "Concat", "Divide", "Flatten", "Multiply", "Reshape", "Subtract", "Transpose"],
}
_MODULE_OF = {name: module for module, names in _COMPAT.items() for name in names}

__all__ = ["AuxLayer", "ConvBN", "ConvBNReLU", "Encoding", "SyncBatchNorm", "add_relu", "resize",
           "use_unbiased_variance", *_MODULE_OF]


def __getattr__(name: str):
    if name in _COMPAT:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return [*globals(), *_COMPAT, *_MODULE_OF]
