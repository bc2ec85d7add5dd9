"""What the weights of a whole EncNet, FCN or ResNet are, told from the weights themselves.

So a converter, which has no model to compare with, can refuse a file that lacks a layer, holds another one, or
holds one of another width. Names are ours.

Letters: C classes, D channels, K codewords.
"""

import fnmatch
from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils.cli import printable

MODELS = ("EncNet", "FCN", "ResNet")
CLASSIFIER = ("fc.*", "out.*")  # of ImageNet; the only parameters that a ResNet's file may hold beyond it
# Blocks of each stage, for blocks of two convolutions and of three.
DEPTHS = {
    2: [(2, 2, 2, 2), (3, 4, 6, 3)],
    3: [(3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)],
}
_SHOWN_NAMES = 5

Shape = Tuple[Optional[int], ...]  # None stands for any length
Shapes = Dict[str, Shape]


def model_of(weights: Mapping[str, np.ndarray]) -> str:
    """Which of MODELS our names are of."""
    if not any(key.startswith("backbone.") for key in weights):
        return "ResNet"
    return "EncNet" if any(key.startswith("enc_module.") for key in weights) else "FCN"


def check(weights: Mapping[str, np.ndarray], model: str, what: str, projects_first: Optional[bool] = None,
          names: Optional[Mapping[str, str]] = None) -> None:
    """Refuse weights that aren't all those of a model.

    Args:
        what: the weights, for the message.
        projects_first: basic blocks project in stage 1 too, as those of ResNet*_vd; None for either way.
        names: {name of ours: name for the message}, where it isn't ours.

    Raises:
        WeightsError: something is missing, unexpected or mis-shaped.
    """
    expected = _backbone(weights, "" if model == "ResNet" else "backbone.", projects_first)
    if model != "ResNet":
        expected.update(_encnet(weights) if model == "EncNet" else _fcn(weights))
        expected.update(_aux(weights))
    allowed = CLASSIFIER if model == "ResNet" else ()
    names = names or {}
    faults = list_faults({
        "missing": [names.get(name, name) for name in expected if name not in weights],
        "unexpected": [names.get(name, name) for name in unmatched(
            [name for name in weights if name not in expected], allowed)],
        "mis-shaped": [f"{names.get(name, name)} ({times(weights[name].shape)}, not {times(shape)})"
                       for name, shape in expected.items()
                       if name in weights and not _fits(weights[name].shape, shape)]})
    if faults:
        raise WeightsError(f"no whole {what}; {faults}")


def list_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """missing: a, b; unexpected: c, …, of the faults that have names."""
    return "; ".join(f"{fault}: {_shorten(names)}" for fault, names in faults.items() if names)


def unmatched(names: Sequence[str], patterns: Sequence[str]) -> List[str]:
    """The names that none of the fnmatch patterns fits."""
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def times(shape: Sequence[Optional[int]]) -> str:
    """"64x3x7x7", with "?" for any length."""
    return "x".join("?" if length is None else str(length) for length in shape) or "scalar"


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    shown = [printable(name)[:200] for name in names[:_SHOWN_NAMES]]
    return ", ".join(shown) + (f", … (+{more} more)" if more > 0 else "")


def _fits(actual: Sequence[int], expected: Shape) -> bool:
    return len(actual) == len(expected) and all(b is None or a == b for a, b in zip(actual, expected))


def _vote(weights: Mapping[str, np.ndarray], axes: Sequence[Tuple[str, int]]) -> Optional[int]:
    """The length that most of the named axes have; None without any."""
    votes = Counter(weights[name].shape[axis] for name, axis in axes
                    if name in weights and weights[name].ndim > axis)
    return votes.most_common(1)[0][0] if votes else None


def _norm(name: str, channels: Optional[int]) -> Shapes:
    return {f"{name}.{parameter}": (channels,) for parameter in ("weight", "bias", "_mean", "_variance")}


def _conv_norm(name: str, out_channels: Optional[int], in_channels: Optional[int], kernel: int,
               bias: bool = False) -> Shapes:
    shapes = {f"{name}._conv.weight": (out_channels, in_channels, kernel, kernel)}
    if bias:
        shapes[f"{name}._conv.bias"] = (out_channels,)
    return {**shapes, **_norm(f"{name}._batch_norm", out_channels)}


def _layer(name: str, weight: Shape, bias: Optional[int]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": (bias,)}


def _backbone(weights: Mapping[str, np.ndarray], prefix: str, projects_first: Optional[bool]) -> Shapes:
    keys = [key[len(prefix):] for key in weights if key.startswith(prefix)]
    convs = 3 if any(key.startswith("bb_") and ".conv2." in key for key in keys) else 2
    found = [len({key.split(".")[0] for key in keys if key.startswith(f"bb_{stage}_")}) for stage in range(4)]
    depths = DEPTHS[convs]
    blocks = next((depth for depth in depths if all(a <= b for a, b in zip(found, depth))), depths[-1])
    votes = Counter(weights[name].shape[0] / 2 ** stage for stage in range(4) for block in range(blocks[stage])
                    for name in [f"{prefix}bb_{stage}_{block}.conv0._conv.weight"]
                    if name in weights and weights[name].ndim)
    base = int(votes.most_common(1)[0][0]) if votes else 64

    shapes, channels = _stem(weights, prefix, base)
    if projects_first is None:
        projects_first = any(key.startswith("bb_0_0.short.") for key in keys)
    for stage, count in enumerate(blocks):
        width = base * 2 ** stage
        out_channels = 4 * width if convs == 3 else width
        for block in range(count):
            name = f"{prefix}bb_{stage}_{block}"
            kernels = [(width, channels, 1), (width, width, 3), (out_channels, width, 1)] if convs == 3 else [
                (width, channels, 3), (width, width, 3)]
            for index, sizes in enumerate(kernels):
                shapes.update(_conv_norm(f"{name}.conv{index}", *sizes))
            if block == 0 and (stage > 0 or channels != out_channels or projects_first):
                shapes.update(_conv_norm(f"{name}.short", out_channels, channels, 1))
            channels = out_channels
    return shapes


def _stem(weights: Mapping[str, np.ndarray], prefix: str, base: int) -> Tuple[Shapes, int]:
    """The stem and its channels; its width tells the variant s from c and d."""
    first = f"{prefix}conv1_1._conv.weight"
    image_channels = _vote(weights, [(first, 1)])
    if not any(key.startswith((f"{prefix}conv1_2.", f"{prefix}conv1_3.")) for key in weights):
        return _conv_norm(f"{prefix}conv1_1", base, image_channels, 7), base
    width = _vote(weights, [(f"{prefix}conv1_{i}.{end}", 0) for i in (1, 2)
                            for end in ("_conv.weight", "_batch_norm.weight")])
    half = base if width == base else base // 2
    shapes = {}
    for i, (out_channels, in_channels) in enumerate([(half, image_channels), (half, half), (2 * half, half)], start=1):
        shapes.update(_conv_norm(f"{prefix}conv1_{i}", out_channels, in_channels, 3))
    return shapes, 2 * half


def _has_biases(weights: Mapping[str, np.ndarray]) -> bool:
    return any(key.endswith("._conv.bias") and not key.startswith("backbone.") for key in weights)


def _classes(weights: Mapping[str, np.ndarray]) -> Optional[int]:
    return _vote(weights, [("head.weight", 0), ("head.bias", 0), ("head.cls.weight", 0), ("head.cls.bias", 0),
                           ("fcn_head.conv.weight", 0), ("fcn_head.conv.bias", 0), ("se_layer.bias", 0)])


def _encnet(weights: Mapping[str, np.ndarray]) -> Shapes:
    bias, classes = _has_biases(weights), _classes(weights)
    channels = _vote(weights, [("bottleneck._conv.weight", 0), ("enc_module.encoding_project._conv.weight", 0),
                               ("enc_module.encoding.0.codewords", 1), ("head.weight", 1)])
    codes = _vote(weights, [("enc_module.encoding.0.codewords", 0), ("enc_module.encoding.0.scale", 0),
                            ("enc_module.encoding.1.weight", 0)])
    shapes = _conv_norm("bottleneck", channels, None, 3, bias)
    if any(key.startswith(("lateral_convs.", "fusion.")) for key in weights):
        found = {key.split(".")[1] for key in weights if key.startswith("lateral_convs.")}
        fused = _vote(weights, [("fusion._conv.weight", 1)])
        count = min(fused // channels - 1, 3) if fused and channels else len(found)
        for i in range(count):
            shapes.update(_conv_norm(f"lateral_convs.{i}", channels, None, 1, bias))
        shapes.update(_conv_norm("fusion", channels, channels and (count + 1) * channels, 3, bias))
    shapes.update(_conv_norm("enc_module.encoding_project", channels, channels, 1, bias))
    shapes.update({"enc_module.encoding.0.codewords": (codes, channels), "enc_module.encoding.0.scale": (codes,)})
    shapes.update(_norm("enc_module.encoding.1", codes))
    shapes.update(_layer("enc_module.fc.0", (channels, channels), channels))
    shapes.update(_layer("head", (classes, channels, 1, 1), classes))
    if any(key.startswith("se_layer.") for key in weights):
        shapes.update(_layer("se_layer", (channels, classes), classes))
    return shapes


def _fcn(weights: Mapping[str, np.ndarray]) -> Shapes:
    classes = _classes(weights)
    channels = _vote(weights, [("head.conv_1._conv.weight", 0), ("head.conv_1._batch_norm.weight", 0),
                               ("head.cls.weight", 1)])
    return {**_conv_norm("head.conv_1", channels, None, 3, _has_biases(weights)),
            **_layer("head.cls", (classes, channels, 1, 1), classes)}


def _aux(weights: Mapping[str, np.ndarray]) -> Shapes:
    classes = _classes(weights)
    channels = _vote(weights, [("fcn_head.conv_bn_relu._conv.weight", 0), ("fcn_head.conv.weight", 1),
                               ("fcn_head.conv_bn_relu._batch_norm.weight", 0)])
    return {**_conv_norm("fcn_head.conv_bn_relu", channels, None, 3, _has_biases(weights)),
            **_layer("fcn_head.conv", (classes, channels, 1, 1), classes)}
