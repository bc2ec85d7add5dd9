"""The names that other projects give to the same weights, as tables used in both directions.

Ours are PaddleSeg's. A dialect of PyTorch is a table {module of theirs: (module of ours, kind)}; the
kind says what the module's parameters are called and whether a matrix is transposed.

A dialect's name is the stem's layout, with `_d` where the shortcuts pool before their convolution:

    torchvision        conv1, bn1: one 7x7 convolution
    mmseg              stem.{0,1,3,4,6,7}: mmsegmentation's ResNetV1c
    pytorch_encoding   conv1.{0,1,3,4,6}, bn1: PyTorch-Encoding, also timm
"""

from typing import Dict, Mapping, Tuple

import numpy as np

OURS = "paddleseg"
# The only parameters that an ImageNet file may hold beyond a backbone's.
CLASSIFIER = ("fc.*", "out.*")

_STEMS = {
    "torchvision": [("conv1", "bn1")],
    "mmseg": [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")],
    "pytorch_encoding": [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")],
}
# A key that only files of this dialect hold.
_SIGNS = {
    OURS: "conv1_1._conv.weight",
    "mmseg": "stem.0.weight",
    "pytorch_encoding": "conv1.0.weight",
    "torchvision": "conv1.weight",
}
# {kind: {parameter of theirs: parameter of ours}}
_PARAMETERS = {
    "conv": {"weight": "weight", "bias": "bias"},
    "linear": {"weight": "weight", "bias": "bias"},
    "norm": {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"},
}
_COUNTER = ".num_batches_tracked"  # PyTorch's batch norm counts its batches; Paddle's doesn't
_MAX_BLOCKS = 36  # of one stage: ResNet-152 has 36 in its third

Table = Dict[str, Tuple[str, str]]


def _conv_norm(conv: str, norm: str, ours: str) -> Table:
    return {conv: (f"{ours}._conv", "conv"), norm: (f"{ours}._batch_norm", "norm")}


def _resnet_table(stem: str, pooled_shortcut: bool) -> Table:
    table = {"fc": ("fc", "linear")}
    for i, (conv, norm) in enumerate(_STEMS[stem], start=1):
        table.update(_conv_norm(conv, norm, f"conv1_{i}"))
    first = 1 if pooled_shortcut else 0
    for stage in range(4):
        for block in range(_MAX_BLOCKS):
            theirs, ours = f"layer{stage + 1}.{block}", f"bb_{stage}_{block}"
            for i in range(3):
                table.update(_conv_norm(f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{ours}.conv{i}"))
            shortcut = f"{theirs}.downsample"
            table.update(_conv_norm(f"{shortcut}.{first}", f"{shortcut}.{first + 1}", f"{ours}.short"))
    return table


TABLES = {stem + ("_d" if pooled else ""): _resnet_table(stem, pooled)
          for stem in _STEMS for pooled in (False, True)}


def recognise(weights: Mapping[str, np.ndarray]) -> str:
    """The name of the dialect that the keys are in; ours if no other is recognised."""
    for dialect, sign in _SIGNS.items():
        if sign in weights:
            pooled = any(key.endswith("downsample.2.weight") for key in weights)
            return dialect + "_d" if pooled and dialect != OURS else dialect
    return OURS


def _parameter_names(table: Table) -> Dict[str, Tuple[str, str]]:
    """{parameter of theirs: (parameter of ours, kind)}"""
    return {f"{theirs}.{name}": (f"{ours}.{our_name}", kind)
            for theirs, (ours, kind) in table.items()
            for name, our_name in _PARAMETERS[kind].items()}


def _rename(weights, names) -> Dict[str, np.ndarray]:
    """Names outside the table are kept, so that a strict load reports them."""
    renamed = {}
    for key, value in weights.items():
        new_key, kind = names.get(key, (key, None))
        renamed[new_key] = value.T if kind == "linear" and value.ndim == 2 else value
    return renamed


def to_ours(weights: Mapping[str, np.ndarray]) -> Tuple[Dict[str, np.ndarray], str]:
    """The weights under our names and in our layout, and the dialect they were in."""
    dialect = recognise(weights)
    if dialect == OURS:
        return dict(weights), dialect
    kept = {key: value for key, value in weights.items() if not key.endswith(_COUNTER)}
    return _rename(kept, _parameter_names(TABLES[dialect])), dialect


def from_ours(weights: Mapping[str, np.ndarray], dialect: str) -> Dict[str, np.ndarray]:
    """Weights of ours under the names and in the layout of `dialect`.

    `num_batches_tracked` isn't made up: PyTorch loads a plain dict without it.

    Raises:
        KeyError: no such dialect.
    """
    if dialect == OURS:
        return dict(weights)
    names = _parameter_names(TABLES[dialect])
    return _rename(weights, {ours: (theirs, kind) for theirs, (ours, kind) in names.items()})
