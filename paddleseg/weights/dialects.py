"""The names that other projects give to the same weights, as tables used in both directions.

Ours are PaddleSeg's. A dialect of PyTorch is a table {module of theirs: (module of ours, kind)}; the
kind says what the module's parameters are called and whether a matrix is transposed. There are tables for
whole models (EncNet, FCN) and for a backbone alone, and for two kinds of stem.

    torchvision        conv1, bn1: one 7x7 convolution; backbones only
    mmseg              stem.{0,1,3,4,6,7}: mmsegmentation, its ResNetV1c
    pytorch_encoding   conv1.{0,1,3,4,6}, bn1: PyTorch-Encoding, and timm's backbones

mmsegmentation and PyTorch-Encoding name a stem of one convolution as torchvision does. In mmseg_d and
pytorch_encoding_d the shortcuts pool before their convolution, as those of ResNet*_vd; this our own names
don't tell.
"""

import functools
import re
from typing import Dict, List, Mapping, Tuple

import numpy as np

from paddleseg.cvlibs.errors import WeightsError

OURS = "paddleseg"
AVG_DOWN = "_d"
DIALECTS = ("torchvision", "mmseg", "mmseg" + AVG_DOWN, "pytorch_encoding", "pytorch_encoding" + AVG_DOWN)

_ONE_CONV_STEM = [("conv1", "bn1")]
_DEEP_STEMS = {
    "mmseg": [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")],
    "pytorch_encoding": [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")],
}
_COLUMNS = ("mmseg", "pytorch_encoding")
_BACKBONE = {"mmseg": "backbone.", "pytorch_encoding": "pretrained."}
# The names of a convolution and its norm within a module that holds both.
_CONV_NORM = {"mmseg": (".conv", ".bn"), "pytorch_encoding": (".0", ".1")}
# {module of ours: (kind, theirs in each of _COLUMNS)}
_AUX = {
    "fcn_head.conv_bn_relu": ("conv_norm", "auxiliary_head.convs.0", "auxlayer.conv5"),
    "fcn_head.conv": ("conv", "auxiliary_head.conv_seg", "auxlayer.conv5.4"),
}
_HEADS = {
    "EncNet": {
        "bottleneck": ("conv_norm", "decode_head.bottleneck", "head.conv5"),
        **{f"lateral_convs.{i}": ("conv_norm", f"decode_head.lateral_convs.{i}", f"head.connect.{i}")
           for i in range(3)},
        "fusion": ("conv_norm", "decode_head.fusion", "head.fusion"),
        "enc_module.encoding_project":
            ("conv_norm", "decode_head.enc_module.encoding_project", "head.encmodule.encoding"),
        "enc_module.encoding.0": ("encoding", "decode_head.enc_module.encoding.0", "head.encmodule.encoding.3"),
        "enc_module.encoding.1": ("norm", "decode_head.enc_module.encoding.1", "head.encmodule.encoding.4"),
        "enc_module.fc.0": ("linear", "decode_head.enc_module.fc.0", "head.encmodule.fc.0"),
        "head": ("conv", "decode_head.conv_seg", "head.conv6.1"),
        "se_layer": ("linear", "decode_head.se_layer", "head.encmodule.selayer"),
        **_AUX,
    },
    "FCN": {
        "head.conv_1": ("conv_norm", "decode_head.convs.0", "head.conv5"),
        "head.cls": ("conv", "decode_head.conv_seg", "head.conv5.4"),
        **_AUX,
    },
}
# {kind: {parameter of theirs: parameter of ours}}
_PARAMETERS = {
    "conv": {"weight": "weight", "bias": "bias"},
    "linear": {"weight": "weight", "bias": "bias"},
    "norm": {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"},
    "encoding": {"codewords": "codewords", "scale": "scale"},
}
COUNTER = ".num_batches_tracked"  # PyTorch's batch norm counts its batches; Paddle's doesn't
_MAX_BLOCKS = 36  # of one stage: ResNet-152 has 36 in its third
_BLOCK = re.compile(r"layer[1-4]\.\d+\.")
_DEEP_STEM = re.compile(r"(backbone\.|pretrained\.)?(stem\.|conv1\.\d|conv1_2\.)")

Arrays = Dict[str, np.ndarray]
Table = Dict[str, Tuple[str, str]]


def _conv_norm(conv: str, norm: str, ours: str) -> Table:
    return {conv: (f"{ours}._conv", "conv"), norm: (f"{ours}._batch_norm", "norm")}


def _resnet_table(stem: List[Tuple[str, str]], avg_down: bool) -> Table:
    table = {}
    for i, (conv, norm) in enumerate(stem, start=1):
        table.update(_conv_norm(conv, norm, f"conv1_{i}"))
    first = 1 if avg_down else 0
    for stage in range(4):
        for block in range(_MAX_BLOCKS):
            theirs, ours = f"layer{stage + 1}.{block}", f"bb_{stage}_{block}"
            for i in range(3):
                table.update(_conv_norm(f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{ours}.conv{i}"))
            shortcut = f"{theirs}.downsample"
            table.update(_conv_norm(f"{shortcut}.{first}", f"{shortcut}.{first + 1}", f"{ours}.short"))
    table["fc"] = ("fc", "linear")
    return table


@functools.cache
def parameter_names(dialect: str, model: str, deep_stem: bool) -> Table:
    """Return {parameter of theirs: (parameter of ours, kind)} of a model: EncNet, FCN or ResNet.

    Raises:
        WeightsError: no such dialect, or it has no such model.
    """
    project, avg_down = dialect.removesuffix(AVG_DOWN), dialect.endswith(AVG_DOWN)
    if dialect not in DIALECTS:
        raise WeightsError(f"{dialect} is none of {', '.join((OURS, *DIALECTS))}")
    if avg_down and not deep_stem:
        raise WeightsError("no ResNet here pools in its shortcuts and has one convolution in the stem")
    if project == "torchvision" and (deep_stem or model != "ResNet"):
        raise WeightsError("torchvision has names for ResNets with one convolution in the stem only")
    table = _resnet_table(_DEEP_STEMS[project] if deep_stem else _ONE_CONV_STEM, avg_down)
    if model != "ResNet":
        table = {_BACKBONE[project] + theirs: ("backbone." + ours, kind) for theirs, (ours, kind) in table.items()}
        column = 1 + _COLUMNS.index(project)
        conv, norm = _CONV_NORM[project]
        for ours, row in _HEADS[model].items():
            theirs, kind = row[column], row[0]
            table.update(_conv_norm(theirs + conv, theirs + norm, ours) if kind == "conv_norm"
                         else {theirs: (ours, kind)})
    return {f"{theirs}.{name}": (f"{ours}.{our_name}", kind) for theirs, (ours, kind) in table.items()
            for name, our_name in _PARAMETERS[kind].items()}


def _begins(weights: Mapping[str, np.ndarray], *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in weights)


def model_of(weights: Mapping[str, np.ndarray]) -> str:
    """Return the model that the names of any project are of: EncNet, FCN or ResNet."""
    if not _begins(weights, "backbone.", "decode_head.", "auxiliary_head.", "pretrained."):
        return "ResNet"
    return "EncNet" if any("enc_module." in key or "encmodule." in key for key in weights) else "FCN"


def has_deep_stem(weights: Mapping[str, np.ndarray]) -> bool:
    """Return whether the names of any project are of a stem of three convolutions."""
    return any(_DEEP_STEM.match(key) for key in weights)


def recognise(weights: Mapping[str, np.ndarray]) -> str:
    """Return the dialect that the names are in; ours if no other is recognised."""
    if any(key.endswith("._mean") for key in weights):
        return OURS  # or a model of the user's own: PyTorch says running_mean
    is_backbone = any(_BLOCK.match(key) for key in weights)
    if _begins(weights, "decode_head.", "auxiliary_head.") or is_backbone and _begins(weights, "stem."):
        project = "mmseg"
    elif _begins(weights, "pretrained.") or is_backbone and has_deep_stem(weights):
        project = "pytorch_encoding"
    elif is_backbone:
        project = "torchvision"
    else:
        return OURS
    return project + AVG_DOWN if any(".downsample.2." in key for key in weights) else project


def _rename(weights: Mapping[str, np.ndarray], names: Mapping[str, Tuple[str, str]]) -> Arrays:
    """Names outside the table are kept, so that whoever checks the result reports them."""
    renamed = {}
    for key, value in weights.items():
        new_key, kind = names.get(key, (key, None))
        renamed[new_key] = value.T if kind == "linear" and value.ndim == 2 else value
    return renamed


def convert_to_paddleseg(weights: Mapping[str, np.ndarray]) -> Tuple[Arrays, str]:
    """Return the weights under our names and in our layout, and the dialect they were in.

    Weights in no other dialect are taken for ours and come back as they are. Left out are `num_batches_tracked`,
    and the ImageNet classifier that PyTorch-Encoding may keep, unused, in a whole model. Names that the dialect doesn't
    have are kept; whether all are there, only a model tells.

    Raises:
        WeightsError: we have no such model.
    """
    dialect = recognise(weights)
    if dialect == OURS:
        return dict(weights), dialect
    kept = {key: value for key, value in weights.items()
            if not key.endswith(COUNTER) and not key.startswith("pretrained.fc.")}
    ours = _rename(kept, parameter_names(dialect, model_of(kept), has_deep_stem(kept)))
    _check_blocks(ours, dialect)
    return ours, dialect


def convert_from_paddleseg(weights: Mapping[str, np.ndarray], dialect: str) -> Arrays:
    """Return weights of ours under the names and in the layout of `dialect`, with `num_batches_tracked` of 0.

    PyTorch's dialects have no biases in convolutions before a batch norm: see `fold_biases`.

    Raises:
        WeightsError: no such dialect, or it has no such model.
    """
    if dialect == OURS:
        return dict(weights)
    _check_blocks(weights, dialect)
    names = parameter_names(dialect, model_of(weights), has_deep_stem(weights))
    renamed = _rename(fold_biases(weights), {ours: (theirs, kind) for theirs, (ours, kind) in names.items()})
    result = {}
    for key, value in renamed.items():
        result[key] = value
        if key.endswith(".running_var"):
            result[key[:-len(".running_var")] + COUNTER] = np.zeros((), "int64")
    return result


def _check_blocks(ours: Mapping[str, np.ndarray], dialect: str) -> None:
    if dialect.endswith(AVG_DOWN) and not any(".conv2." in key for key in ours):
        raise WeightsError("ResNet18_vd and ResNet34_vd here project in stage 1 as PaddleSeg's do, those of other "
                           "projects don't")


def unknown_names(weights: Mapping[str, np.ndarray]) -> List[str]:
    """Return the names, said to be ours, that no EncNet, FCN or ResNet here has."""
    names = parameter_names("mmseg", model_of(weights), has_deep_stem(weights))
    known = {ours for ours, _ in names.values()} | set(conv_biases(weights))
    return [key for key in weights if key not in known]


def conv_biases(weights: Mapping[str, np.ndarray]) -> List[str]:
    """Return our names of the biases of convolutions before a batch norm."""
    return [key for key in weights if key.endswith("._conv.bias")]


def fold_biases(weights: Mapping[str, np.ndarray]) -> Arrays:
    """Return the weights without the biases before a batch norm, which are taken off the running means.

    (x + b) - mean = x - (mean - b), so the model's outputs stay, but for rounding; a bias of 0 changes no bit.

    Raises:
        WeightsError: a bias has no running means of its shape.
    """
    folded = dict(weights)
    for key in conv_biases(weights):
        mean, bias = key.replace("._conv.bias", "._batch_norm._mean"), folded.pop(key)
        if mean not in weights or weights[mean].shape != bias.shape:
            raise WeightsError(f"{mean} is missing or has another shape than {key}")
        folded[mean] = (weights[mean].astype("float64") - bias).astype(weights[mean].dtype)
    return folded


def add_biases(weights: Mapping[str, np.ndarray]) -> Arrays:
    """Return the weights with zeros for the biases that PaddleSeg's heads have and other projects' don't."""
    result = {}
    for key, value in weights.items():
        result[key] = value
        bias = key[:-len("weight")] + "bias"
        if key.endswith("._conv.weight") and not key.startswith("backbone.") and bias not in weights and value.size:
            result[bias] = np.zeros(value.shape[:1], value.dtype)
    return result
