"""Small instances of PaddleSeg's public layers, and what they compute with given weights.

    python tests/compat/layer_cases.py FOLDER OUT.npz

as a script answers with the layers of the PaddleSeg that FOLDER holds; both packages are called `paddleseg`.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

ACTIVATIONS = ("relu", "relu6", "prelu", "leakyrelu", "sigmoid", "hardsigmoid", "hardswish", "gelu", "elu", "softmax")
X, Y, VECTOR = (2, 8, 12, 10), (2, 6, 6, 5), (2, 8)


def _attention(layers, **changes):
    arguments = dict(key_in_channels=8, query_in_channels=8, channels=4, out_channels=8, share_key_query=False,
                     query_downsample=None, key_downsample=None, key_query_num_convs=2, value_out_num_convs=1,
                     key_query_norm=True, value_out_norm=False, matmul_norm=True, with_out=False)
    return layers.AttentionBlock(**{**arguments, **changes})


# name -> (what builds it from the package's `layers`, shapes of its inputs)
CASES = {
    **{f"Activation {name}": (lambda layers, name=name: layers.Activation(name), [X]) for name in ACTIVATIONS},
    "Activation None": (lambda layers: layers.Activation(), [X]),
    "ConvBN": (lambda layers: layers.ConvBN(8, 4, 3, groups=2, stride=2), [X]),
    "ConvBNReLU padding in fourth place": (lambda layers: layers.ConvBNReLU(8, 4, 3, 2), [X]),
    "ConvBNReLU NHWC": (lambda layers: layers.ConvBNReLU(10, 4, 3, padding=1, data_format="NHWC"), [X]),
    "ConvBNAct": (lambda layers: layers.ConvBNAct(8, 4, (3, 1), act_type="leakyrelu", dilation=2), [X]),
    "ConvBNAct none": (lambda layers: layers.ConvBNAct(8, 4, 3), [X]),
    "ConvBNPReLU": (lambda layers: layers.ConvBNPReLU(8, 4, 3, stride=2, bias_attr=False), [X]),
    "ConvBNLeakyReLU": (lambda layers: layers.ConvBNLeakyReLU(8, 4, 1), [X]),
    "ConvGNAct": (lambda layers: layers.ConvGNAct(8, 4, 3, num_groups=2, act_type="relu"), [X]),
    "ConvNormAct": (lambda layers: layers.ConvNormAct(8, 4, 1, act_type="relu", norm=layers.SyncBatchNorm(4)), [X]),
    "ConvNormAct none": (lambda layers: layers.ConvNormAct(8, 4, 3, padding=1), [X]),
    "ConvReLUPool": (lambda layers: layers.layer_libs.ConvReLUPool(8, 4), [X]),
    "DepthwiseConvBN": (lambda layers: layers.DepthwiseConvBN(8, 16, 3, stride=2), [X]),
    "SeparableConvBNReLU": (lambda layers: layers.SeparableConvBNReLU(8, 4, 3, pointwise_bias=False), [X]),
    "AuxLayer": (lambda layers: layers.AuxLayer(8, 4, 3, 0.0), [X]),
    "JPU": (lambda layers: layers.JPU([8, 6, 8, 4], width=4),
            [(2, 5, 12, 10), (2, 6, 12, 10), (2, 8, 6, 5), (2, 4, 3, 3)]),
    "ASPPModule": (lambda layers: layers.ASPPModule((1, 2, 3), 8, 4, False), [X]),
    "ASPPModule image": (lambda layers: layers.ASPPModule((1, 2), 8, 4, True, use_sep_conv=True, image_pooling=True),
                         [X]),
    "PPModule": (lambda layers: layers.PPModule(8, 4, (1, 2, 3), True, False), [X]),
    "PPModule wide": (lambda layers: layers.PPModule(8, 4, (1, 2), False, True), [X]),
    "AttentionBlock": (_attention, [X, X]),
    "AttentionBlock shared": (lambda layers: _attention(layers, share_key_query=True, matmul_norm=False), [X, X]),
    "AttentionBlock out": (lambda layers: _attention(layers, channels=8, with_out=True, value_out_num_convs=2,
                                                     value_out_norm=True, key_query_norm=False), [X, X]),
    **{f"NonLocal2D {mode}": (lambda layers, mode=mode: layers.NonLocal2D(8, mode=mode), [X])
       for mode in ("embedded_gaussian", "dot_product", "concatenation")},
    "NonLocal2D sub_sample": (lambda layers: layers.NonLocal2D(8, 1, use_scale=False, sub_sample=True), [X]),
    "PolarizedSelfAttentionModule": (lambda layers: layers.PolarizedSelfAttentionModule(8, 8), [X]),
    **{name: (lambda layers, name=name: getattr(layers, name)(8, 6, 5), [X, Y])
       for name in ("UAFM", "UAFM_ChAtten", "UAFM_ChAtten_S", "UAFM_SpAtten", "UAFM_SpAtten_S", "UAFMMobile",
                    "UAFMMobile_SpAtten")},
    "Add": (lambda layers: layers.Add(), [X, X]),
    "Subtract": (lambda layers: layers.Subtract(), [X, X]),
    "Multiply": (lambda layers: layers.Multiply(), [X, X]),
    "Divide": (lambda layers: layers.Divide(), [X, X]),
    "Flatten": (lambda layers: layers.Flatten(), [X]),
}


def arrays_of(layers) -> dict:
    """Name -> array: each case's outputs in training and in evaluation, and its gradients by parameter name."""
    import paddle

    paddle.set_default_dtype("float64")
    found = {}
    for number, (name, (build, shapes)) in enumerate(CASES.items()):
        paddle.seed(0)
        rng, layer = np.random.default_rng(number), build(layers)
        layer.to(dtype="float64")  # PaddleSeg makes one parameter float32 whatever the default
        for key, value in sorted(layer.state_dict().items()):
            value.set_value(rng.uniform(0.5, 1.5, value.shape) if key.endswith("_variance")
                            else rng.normal(0, 0.5, value.shape))
        inputs = [paddle.to_tensor(rng.normal(size=shape), stop_gradient=False) for shape in shapes]
        for training in (True, False):
            layer.train() if training else layer.eval()
            _dropout_off(layer)
            outputs = layer(*inputs)
            for place, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else [outputs]):
                found[f"{name}/{'train' if training else 'eval'}/{place}"] = output.numpy()
            if training:
                output.square().sum().backward()
                found.update({f"{name}/gradient/{key}": value.grad.numpy() for key, value in (
                    *layer.named_parameters(), *enumerate(inputs)) if value.grad is not None})
        found.update({f"{name}/state/{key}": value.numpy() for key, value in layer.state_dict().items()})
    paddle.set_default_dtype("float32")
    return found


def _dropout_off(layer) -> None:
    for part in layer.sublayers():
        if type(part).__name__ == "Dropout":
            part.training = False


if __name__ == "__main__":
    # PaddleSeg imports these with its losses; no layer needs them.
    for name in ("scipy", "scipy.ndimage", "scipy.ndimage.morphology", "scipy.optimize", "skimage", "skimage.measure"):
        sys.modules[name] = MagicMock()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "diff"))
    from paddleseg_reference import prepare

    prepare(sys.argv[1])
    from paddleseg.models import layers

    np.savez(sys.argv[2], **arrays_of(layers))
