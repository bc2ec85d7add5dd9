"""Read any weights file as data, and load it strictly."""

import fnmatch
import logging
import os
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import download, files
from paddleseg.utils.cli import printable
from paddleseg.weights import dialects, unpickle
from paddleseg.weights.write import NAME_TABLE

logger = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model")  # training checkpoints keep the weights under one of these
CLASSIFIER = ("fc.*", "out.*")  # of ImageNet; the only parameters that a backbone's file may hold beyond it
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_MAX_SHARING = 4  # bytes of all arrays over those of the file: who copies them expands what a file only shares
_FREE_BYTES = 256 << 20  # below this, any sharing
_SHOWN_NAMES = 5


def read_weights(path: str) -> Dict[str, np.ndarray]:
    """Return the arrays of a weights file by name, without Paddle or PyTorch, bfloat16 as float32.

    Reads `.pdparams`, `.pth` and `.pt` of any version of PyTorch from 0.2, `.safetensors`, and `.tar.gz`,
    `.tar` and `.zip` archives of one `.pdparams`, which is unpacked into the download cache. The content
    decides, not the name (but for `.safetensors`). Weights under "state_dict" or "model" are found there.
    The arrays may be read-only and strided.

    Raises:
        WeightsError: missing, damaged, of another format, or holding anything but data.
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    weights = unpickle.read(path, _select_weights)
    if not isinstance(weights, dict):
        raise WeightsError(f"{path} holds a {type(weights).__name__}, not weights by name")
    for name, value in weights.items():
        if not isinstance(value, np.ndarray):
            raise WeightsError(f"{path} holds {name!r:.60}, a {type(value).__name__}, not an array; "
                               "weights are arrays by name, or stand under 'state_dict' or 'model'")
    if sum(value.nbytes for value in weights.values()) > max(_FREE_BYTES, _MAX_SHARING * os.path.getsize(path)):
        raise WeightsError(f"{path} uses the same values for many arrays: refused, they would take too much memory")
    return {name: _bfloat16_to_float32(value) if value.dtype == np.uint16 else value
            for name, value in weights.items()}


def _select_weights(content: Any) -> Any:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if name != NAME_TABLE}
    return content


def _bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16, which is stored as uint16, exactly; neither Paddle nor PyTorch has uint16 parameters."""
    return np.left_shift(bits.astype(np.uint32), 16).view(np.float32)


def _read_safetensors(path: str) -> Dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise WeightsError(f"{path} needs the safetensors package: pip install safetensors") from None
    with unpickle.errors_of(path, "a safetensors file"):
        return load_file(path)


def load_weights(layer, path: str, allow_unexpected: Sequence[str] = ()) -> str:
    """Load a file under our names or another project's (see dialects.py); returns path and project, for the log.

    Raises:
        WeightsError: the file can't be read, isn't the one that was saved (where checksums lie beside it), or doesn't
            fit; nothing is loaded then.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if name in files.listed(folder):
        error = files.damage(folder, [name])
        if error:
            raise WeightsError(f"{folder}: {error}; take another checkpoint, or delete {files.SUMS} there if the file "
                               f"was changed on purpose")
    weights = read_weights(path)
    if layer.state_dict().keys() <= weights.keys():
        load_into(layer, weights, path, allow_unexpected)
        return path
    try:
        weights, dialect = dialects.convert_to_paddleseg(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    source = path if dialect == dialects.OURS else f"{path} (names of {dialect})"
    check_shortcuts(layer, dialect, source)
    load_into(layer, weights, source, allow_unexpected)
    return source


def check_shortcuts(layer, dialect: str, source: str) -> None:
    """Refuse what our names don't tell: whether the shortcuts of a ResNet pool.

    Raises:
        WeightsError: one of model and file has shortcuts that pool, the other hasn't.
    """
    avg_down = getattr(getattr(layer, "backbone", layer), "avg_down", None)
    if dialect != dialects.OURS and avg_down not in (None, dialect.endswith(dialects.AVG_DOWN)):
        here, there = ("pool", "don't") if avg_down else ("don't pool", "do")
        raise WeightsError(f"{source}: the model's shortcuts {here}, the file's {there}; "
                           "take a ResNet*_vd where they do, another variant where they don't")


def load_into(layer, weights: Mapping[str, np.ndarray], source: str, allow_unexpected: Sequence[str] = ()) -> int:
    """Set every parameter and buffer of a layer; returns how many were set.

    Args:
        layer: a paddle.nn.Layer; its state_dict() names what must be there, running statistics included.
        source: where the weights are from, for the message.
        allow_unexpected: fnmatch patterns of names that may be left over.

    Raises:
        WeightsError: a name is missing, unexpected, of another shape, or of another dtype (floats are
            cast to floats); nothing is loaded then.
    """
    state = layer.state_dict()
    unexpected = [name for name in sorted(weights.keys() - state.keys())
                  if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_unexpected)]
    misshaped, mistyped = [], []
    for name in sorted(state.keys() & weights.keys()):
        ours, theirs = list(state[name].shape), list(weights[name].shape)
        dtype, their_dtype = _dtype_name(state[name]), str(weights[name].dtype)
        if ours != theirs:
            misshaped.append(f"{name} (file {_times(theirs)} vs model {_times(ours)})")
        elif dtype != their_dtype and not (dtype in _FLOATS and their_dtype in _FLOATS):
            mistyped.append(f"{name} (file {their_dtype} vs model {dtype})")
    missing = sorted(state.keys() - weights.keys())
    errors = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped, "mis-typed": mistyped}
    if any(errors.values()):
        fitting = len(state) - len(missing) - len(misshaped) - len(mistyped)
        misfits = "; ".join(f"{error}: {list_names(names)}" for error, names in errors.items() if names)
        raise WeightsError(f"{source} fits {fitting} of {len(state)} parameters; {misfits}")
    for name, tensor in state.items():
        _set_value(tensor, weights[name])
    return len(state)


def list_names(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _SHOWN_NAMES
    shown = [printable(name)[:200] for name in names[:_SHOWN_NAMES]]
    return ", ".join(shown) + (f", … (+{more} more)" if more > 0 else "")


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _dtype_name(tensor) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]


def _set_value(tensor, array: np.ndarray) -> None:
    dtype = _dtype_name(tensor)
    if dtype == "bfloat16":  # NumPy has no such type
        import paddle
        tensor.set_value(paddle.to_tensor(array.astype("float32")).astype("bfloat16"))
    else:
        tensor.set_value(np.array(array, dtype=dtype, order="C"))


def load_pretrained(layer, pretrained: Optional[str]) -> Optional[str]:
    """Load the weights that a config's `pretrained` names; returns the path they were read from.

    Args:
        layer: a backbone or a whole model.
        pretrained: None, "None" or "" for a start from scratch; a path; or a URL, which is kept under
            $PADDLESEG_HOME or else ~/.paddleseg/weights. The ImageNet classifier is the only thing that the file may
            hold beyond the layer.

    Raises:
        WeightsError: the file can't be had, isn't safe, or doesn't fit.
    """
    name = type(layer).__name__
    if pretrained in (None, "None", ""):
        logger.info("%s starts from scratch: pretrained is None", name)
        return None
    path = find_weights(pretrained)
    source = load_weights(layer, path, allow_unexpected=CLASSIFIER)
    total = len(layer.state_dict())
    logger.info("%s: loaded %d of %d parameters from %s", name, total, total, source)
    return path


def find_weights(url_or_path: str) -> str:
    """Return a path on this machine: the one given, or that of the URL's file, downloaded if it isn't there yet.

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
