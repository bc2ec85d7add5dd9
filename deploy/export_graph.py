"""Export a trained model as a static graph: batch norms folded, sizes dynamic, checked against the model.

Letters: N images, C classes, H, W size of the image.
"""

import contextlib
import copy
import inspect
import os
import statistics
import time
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.core.val import evaluation_mode
from paddleseg.cvlibs.errors import RunError

OPSET = 17
# The share of labels that may differ: where two classes are all but equal, rounding decides.
TOLERANCE = 1e-3
OUTPUTS = {
    "argmax": lambda logits: paddle.argmax(logits, axis=1, dtype="int32"),
    "softmax": lambda logits: F.softmax(logits, axis=1),
    "logits": lambda logits: logits,
}
_NORMS = (nn.BatchNorm2D, nn.SyncBatchNorm, nn.BatchNorm)


class Comparison(NamedTuple):
    """A graph against its model on images of one size; seconds are medians of several runs."""

    shape: Tuple[int, ...]  # (N, 3, H, W)
    differing: float  # the share of labels
    eager_sec: float
    graph_sec: float


class EvalBatchNorm(nn.Layer):
    """A batch norm as in evaluation, for inputs of any rank; Paddle's SyncBatchNorm has no kernel on a CPU."""

    def __init__(self, norm: nn.Layer):
        super().__init__()
        self.weight, self.bias, self.epsilon = norm.weight, norm.bias, norm._epsilon
        self._mean, self._variance = norm._mean, norm._variance

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.batch_norm(x, self._mean, self._variance, self.weight, self.bias, epsilon=self.epsilon)


class Graph(nn.Layer):
    """The first output of a model, finished as `output` says.

    Shapes:
        input (N, 3, H, W); output (N, H, W) int32 for argmax, else (N, C, H, W) float32.
    """

    def __init__(self, model: nn.Layer, output: str):
        super().__init__()
        self.model = model
        self.finish = OUTPUTS[output]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.finish(self.model(x)[0])


def folded(model: nn.Layer) -> nn.Layer:
    """Copy a model in evaluation mode, with its batch norms folded into the convolutions before them.

    With s = weight / sqrt(variance + epsilon), a convolution of kernel k and bias b becomes one of kernel s k and bias
    s (b - mean) + bias, computed in float64. Pairs are what layers hold as `_conv` and `_batch_norm`, PaddleSeg's
    names, and neighbours in a Sequential; other norms stay, SyncBatchNorm as `EvalBatchNorm`.
    """
    model = copy.deepcopy(model)
    for owner in model.sublayers(include_self=True):
        children = dict(owner.named_children())
        names = list(children) if isinstance(owner, nn.Sequential) else ["_conv", "_batch_norm"]
        for first, second in zip(names, names[1:]):
            if isinstance(children.get(first), nn.Conv2D) and isinstance(children.get(second), _NORMS):
                _fold(children[first], children[second])
                owner.add_sublayer(second, nn.Identity())
    for owner in model.sublayers(include_self=True):
        for name, child in list(owner.named_children()):
            if isinstance(child, nn.SyncBatchNorm):
                owner.add_sublayer(name, EvalBatchNorm(child))
    model.eval()
    return model


def _fold(conv: nn.Conv2D, norm: nn.Layer) -> None:
    weight, bias, mean, variance = (value.numpy().astype(np.float64)
                                    for value in (norm.weight, norm.bias, norm._mean, norm._variance))
    scale = weight / np.sqrt(variance + norm._epsilon)
    before = 0.0 if conv.bias is None else conv.bias.numpy().astype(np.float64)
    kernel = conv.weight.numpy().astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    if conv.bias is None:
        conv.bias = conv.create_parameter([len(scale)], is_bias=True)
    for parameter, value in (conv.weight, kernel), (conv.bias, scale * (before - mean) + bias):
        parameter.set_value(value.astype(parameter.numpy().dtype))


def save_graph(model: nn.Layer, prefix: str, output: str, shape: Sequence[Optional[int]], wide_resize: bool) -> str:
    """Write a model as `prefix`.json (Paddle 3) or .pdmodel (Paddle 2), and `prefix`.pdiparams.

    Args:
        model: as `folded` makes it.
        output: a key of OUTPUTS.
        shape: (N, 3, H, W); None where it is dynamic.
        wide_resize: let the graph resize in float64; see `_wide_resize`.

    Returns: the graph's file.

    Raises:
        RunError: the model can't be made a static graph.
    """
    graph = Graph(model, output)
    graph.eval()
    try:
        with _wide_resize() if wide_resize else contextlib.nullcontext():
            paddle.jit.save(graph, prefix, input_spec=[paddle.static.InputSpec(list(shape), "float32", name="x")])
    except Exception as error:  # whatever a model's own code, or Paddle's translation of it, raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RunError(f"{type(model).__name__} can't be made a static graph: {type(error).__name__}: "
                       f"{lines[-1] if lines else 'no reason given'}") from error
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{prefix}.pdiparams.info")  # Paddle 2: names for debugging, which nothing reads
    return next(prefix + end for end in (".json", ".pdmodel") if os.path.exists(prefix + end))


@contextlib.contextmanager
def _wide_resize() -> Iterator[None]:
    """Make F.interpolate work in float64 while a graph is traced.

    oneDNN, which is several times faster on a CPU, has no kernel for float64 and leaves these to Paddle's own. In
    Paddle 3.3 it fails on every graph with a resize in float32. The time is the same: kernels wait for memory.
    """
    plain = F.interpolate

    @paddle.jit.not_to_static
    def interpolate(x, *args, **kwargs):
        return plain(x.astype("float64"), *args, **kwargs).astype(x.dtype)

    F.interpolate = interpolate
    try:
        yield
    finally:
        F.interpolate = plain


def import_paddle2onnx():
    """Return the converter that goes with this Paddle.

    Raises:
        RunError: a package is missing or doesn't fit.
    """
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"  # it would call pip by itself
    try:
        import onnx  # noqa: F401  (paddle2onnx fails without it in words that don't tell)
        import onnxruntime  # noqa: F401
        import paddle2onnx
    except ImportError as error:
        packages = "-r requirements-onnx.txt"
        if paddle.__version__.startswith("2."):
            packages = "paddle2onnx==1.3.1 onnx==1.17.0 onnxruntime 'numpy<2'"
        raise RunError(f"--format onnx needs packages that are missing or don't fit ({' '.join(str(error).split())}): "
                       f"pip install {packages}") from error
    return paddle2onnx


def convert_to_onnx(graph: str, target: str) -> None:
    """Write the ONNX model of a static graph, and remove the graph's own files."""
    paddle2onnx, params = import_paddle2onnx(), os.path.splitext(graph)[0] + ".pdiparams"
    # Of Paddle 3's converter: leave the graph as it is, which ONNX Runtime optimises when it loads it.
    plain = {"optimize_tool": "None"} if "optimize_tool" in inspect.signature(paddle2onnx.export).parameters else {}
    try:
        paddle2onnx.export(graph, params, save_file=target, opset_version=OPSET, verbose=False, **plain)
    except Exception as error:  # whatever the converter raises
        raise RunError(f"paddle2onnx can't convert this model: {' '.join(str(error).split())[:200]}") from error
    if not os.path.isfile(target):
        raise RunError("paddle2onnx wrote no model; what it printed above says why")
    os.remove(graph)
    os.remove(params)


def check_images(shape: Sequence[int]) -> np.ndarray:
    """Make images (N, 3, H, W) as after normalisation: flat patches under noise."""
    rng = np.random.default_rng(list(shape))
    count, channels, height, width = shape
    patches = rng.standard_normal((count, channels, -(-height // 16), -(-width // 16)), np.float32)
    flat = patches.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return flat + np.float32(0.3) * rng.standard_normal(flat.shape, np.float32)


def compare(model: nn.Layer, graph: Callable[[np.ndarray], np.ndarray], shapes: Sequence[Sequence[int]],
            runs: int = 5) -> List[Comparison]:
    """Hold a graph against the model that it was made from.

    Args:
        graph: the exported graph as it is served: images in; labels (N, H, W), or scores (N, C, H, W), out.
        runs: timed runs of each, after one that isn't.
    """
    def eager(images):
        return model(paddle.to_tensor(images))[0].argmax(axis=1).numpy()

    comparisons = []
    for shape in shapes:
        images = check_images(shape)
        with evaluation_mode(model):
            labels, eager_sec = _timed(eager, images, runs)
        found, graph_sec = _timed(graph, images, runs)
        found = found if found.ndim == 3 else found.argmax(axis=1)
        differing = float(np.mean(found != labels)) if found.shape == labels.shape else 1.0
        comparisons.append(Comparison(tuple(shape), differing, eager_sec, graph_sec))
    return comparisons


def _timed(function: Callable, images: np.ndarray, runs: int) -> Tuple[np.ndarray, float]:
    """Return the result, and the median of the seconds that it takes."""
    result, seconds = function(images), []
    for _ in range(runs):
        start = time.perf_counter()
        function(images)
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)
