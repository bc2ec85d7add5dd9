"""Read any weights file as data, and load it strictly."""

import contextlib
import logging
import os
import zipfile
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import archive, download, files
from paddleseg.utils.cli import printable
from paddleseg.weights import dialects, unpickle, weight_shapes
from paddleseg.weights.weight_shapes import times
from paddleseg.weights.write import NAME_TABLE

logger = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model")  # training checkpoints keep the weights under one of these
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def read_pickle(path: str) -> Any:
    """What a `.pdparams`, `.pdopt` or `.pth` file holds: dicts, lists, arrays, numbers, text.

    The arrays may be read-only. bfloat16 of Paddle comes as uint16, as Paddle stores it.

    Raises:
        WeightsError: missing, damaged, of another format, or holding anything but data.
    """
    return unpickle.read(path)


def read_weights(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a weights file by name, without Paddle or PyTorch, bfloat16 as float32.

    Reads `.pdparams`, `.pth` and `.pt` of any version of PyTorch from 0.2, `.safetensors`, and `.tar.gz`,
    `.tar` and `.zip` archives of one `.pdparams`, which is unpacked beside its archive. The content
    decides, not the name (but for `.safetensors`). Weights under "state_dict" or "model" are found there.
    The arrays may be read-only and strided.

    Raises:
        WeightsError: missing, damaged, of another format, or holding anything but data.
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    if _is_archive(path):
        path = archive.unpack_single(path, ".pdparams")
    weights = unpickle.read(path, _select_weights)
    if not isinstance(weights, dict):
        raise WeightsError(f"{path} holds a {type(weights).__name__}, not weights by name")
    for name, value in weights.items():
        if not isinstance(value, np.ndarray):
            raise WeightsError(f"{path} holds {name!r:.60}, a {type(value).__name__}, not an array; "
                               "weights are arrays by name, or stand under 'state_dict' or 'model'")
        if value.dtype == np.uint16:  # Paddle's bfloat16; it has no uint16 parameters
            weights[name] = unpickle.bfloat16_to_float32(value)
    return weights


def _select_weights(content: Any) -> Any:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if name != NAME_TABLE}
    return content


def _is_archive(path: str) -> bool:
    """Whether the file is a .zip that PyTorch didn't write, or a .tar; what can't be read is neither."""
    with contextlib.suppress(Exception):
        if not archive.is_zip(path):
            return archive.is_tar(path)
        with zipfile.ZipFile(path) as opened:
            return not any(unpickle.is_torch_entry(name) for name in opened.namelist())
    return False


def _read_safetensors(path: str) -> Dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise WeightsError(f"{path} needs the safetensors package: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:  # its own error class, and what NumPy lacks a type for
        reason = printable(f"{type(error).__name__}: {error}")
        raise WeightsError(f"{path} can't be read ({reason:.120})") from error


def load_into(layer, weights: Mapping[str, np.ndarray], source: str,
              allow_missing: Sequence[str] = (), allow_unexpected: Sequence[str] = ()) -> int:
    """Set every parameter and buffer of a layer; returns how many were set.

    Args:
        layer: a paddle.nn.Layer; its state_dict() names what must be there, running statistics included.
        source: where the weights are from, for the message.
        allow_missing, allow_unexpected: fnmatch patterns of names that may be absent or left over.

    Raises:
        WeightsError: a name is missing, unexpected, of another shape, or of another dtype (floats are
            cast to floats); nothing is loaded then.
    """
    state = layer.state_dict()
    missing = weight_shapes.unmatched(sorted(state.keys() - weights.keys()), allow_missing)
    unexpected = weight_shapes.unmatched(sorted(weights.keys() - state.keys()), allow_unexpected)
    mis_shaped, mis_typed, fitting = [], [], []
    for name in sorted(state.keys() & weights.keys()):
        ours, theirs = list(state[name].shape), list(weights[name].shape)
        dtype, their_dtype = _dtype_name(state[name]), str(weights[name].dtype)
        if ours != theirs:
            mis_shaped.append(f"{name} (file {times(theirs)} vs model {times(ours)})")
        elif dtype != their_dtype and not (dtype in _FLOATS and their_dtype in _FLOATS):
            mis_typed.append(f"{name} (file {their_dtype} vs model {dtype})")
        else:
            fitting.append(name)
    faults = weight_shapes.list_faults({"missing": missing, "unexpected": unexpected, "mis-shaped": mis_shaped,
                                        "mis-typed": mis_typed})
    if faults:
        raise WeightsError(f"{source} fits {len(fitting)} of {len(state)} parameters; {faults}")
    for name in fitting:
        _set_value(state[name], weights[name])
    return len(fitting)


def _dtype_name(tensor) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]


def _set_value(tensor, array: np.ndarray) -> None:
    dtype = _dtype_name(tensor)
    if dtype == "bfloat16":  # NumPy has no such type
        import paddle
        tensor.set_value(paddle.to_tensor(array.astype("float32")).astype("bfloat16"))
    else:
        tensor.set_value(np.array(array, dtype=dtype, order="C"))


class ModelWeights(NamedTuple):
    """Weights under our names, and where they are from."""

    arrays: Dict[str, np.ndarray]
    source: str
    dialect: str


def read_model_weights(path: str) -> ModelWeights:
    """The weights of a model or a backbone, ours or in another dialect (see dialects.py), under our names.

    Raises:
        WeightsError: the file can't be read, isn't the one that was saved (where checksums lie beside it), or
            holds only a part of another project's model.
    """
    if files.is_listed(path):
        folder, name = os.path.split(path)
        folder = folder or "."
        fault = files.damage(folder, [name])
        if fault:
            raise WeightsError(f"{folder}: {fault}; take another checkpoint, or delete {files.SUMS} there if the "
                               f"file was changed on purpose")
    weights = read_weights(path)
    try:
        arrays, dialect = dialects.to_ours(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return ModelWeights(arrays, path if dialect == dialects.OURS else f"{path} (names of {dialect})", dialect)


def load_model_weights(layer, weights: ModelWeights, allow_unexpected: Sequence[str] = ()) -> int:
    """`load_into`, after a look at what names and shapes of ours don't tell: whether shortcuts pool.

    Raises:
        WeightsError: they don't fit; nothing is loaded then.
    """
    pooled = _pools_in_shortcuts(layer)
    if weights.dialect != dialects.OURS and pooled not in (None, weights.dialect.endswith(dialects.POOLED)):
        here, there = ("pool", "don't") if pooled else ("don't pool", "do")
        raise WeightsError(f"{weights.source}: the model's shortcuts {here}, the file's {there}; "
                           "take a ResNet*_vd where they do, another variant where they don't")
    return load_into(layer, weights.arrays, weights.source, allow_unexpected=allow_unexpected)


def _pools_in_shortcuts(layer) -> Optional[bool]:
    """Whether a ResNet, or a model's, does; None for another network."""
    for name, sublayer in layer.named_sublayers():
        if name.endswith("bb_1_0.short"):  # the first that every variant has, with stride 2
            return sublayer.pool is not None
    return None


def load_pretrained(layer, pretrained: Optional[str]) -> Optional[str]:
    """Load the weights that a config's `pretrained` names; returns the path they were read from.

    Args:
        layer: a backbone or a whole model.
        pretrained: None, "None" or "" for a start from scratch; a path; or a URL, which is kept under
            $PADDLESEG_HOME or else ~/.paddleseg/weights. Names of PaddleSeg or those of dialects.py. The
            ImageNet classifier is the only thing that the file may hold beyond the layer.

    Raises:
        WeightsError: the file can't be had, isn't safe, or doesn't fit.
    """
    name = type(layer).__name__
    if pretrained in (None, "None", ""):
        logger.info("%s starts from scratch: pretrained is None", name)
        return None
    path = find_weights(pretrained)
    weights = read_model_weights(path)
    loaded = load_model_weights(layer, weights, allow_unexpected=weight_shapes.CLASSIFIER)
    logger.info("%s: loaded %d of %d parameters from %s", name, loaded, len(layer.state_dict()), weights.source)
    return path


def find_weights(url_or_path: str) -> str:
    """A path on this machine: the one given, or that of the URL's file, downloaded if it isn't there yet.

    Raises:
        WeightsError: no such file, or the download failed; says where to put the file by hand.
    """
    local = os.path.expanduser(url_or_path)
    if os.path.isfile(local):
        return local
    if os.path.isdir(local):
        raise WeightsError(f"{url_or_path} is a folder; name the weights file in it")
    if "://" not in url_or_path:
        raise WeightsError(f"{url_or_path} doesn't exist (looked from {os.getcwd()}); "
                           "give a path, a URL, or None to start from scratch")
    try:
        target = download.cache_path(url_or_path)
    except download.DownloadError as reason:
        raise WeightsError(f"{url_or_path}: {reason}") from None
    try:
        download.download(url_or_path, target)
    except download.DownloadError as reason:
        raise WeightsError(f"{url_or_path} can't be had: {reason}; put the file at {target}, or start from "
                           "scratch with --opts model.backbone.pretrained=None") from reason
    return target
