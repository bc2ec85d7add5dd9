"""What a training step costs, computed from its graph: nothing is executed, so that any size of image will do.

A model is built in Paddle's static mode, which infers every shape; the framework's own differentiation adds the
backward pass, and so says which tensors it keeps. Left out are kernels' workspaces and what an allocator wastes.

Letters: N images, C classes, H, W size of the image.
"""

import contextlib
import math
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

LOSS = "loss"  # the scope of what comes after the model
_RESHAPES = {"reshape", "flatten", "squeeze", "unsqueeze"}
# Their output is the input's memory, seen otherwise.
VIEWS = _RESHAPES | {f"{name}_grad" for name in _RESHAPES} | {"slice"}
_ITEM_SIZES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "fp16": 2, "float16": 2, "bf16": 2, "bfloat16": 2,
               "int32": 4, "fp32": 4, "float32": 4, "int64": 8, "fp64": 8, "float64": 8}
# Operators of Paddle 2's graphs by the names that its mixed precision and Paddle 3 know them by.
NEW_NAMES = {
    "elementwise_add": "add", "elementwise_sub": "subtract", "elementwise_mul": "multiply",
    "elementwise_div": "divide", "matmul_v2": "matmul", "bilinear_interp_v2": "bilinear_interp",
    "reshape2": "reshape", "transpose2": "transpose", "squeeze2": "squeeze", "unsqueeze2": "unsqueeze",
    "flatten_contiguous_range": "flatten", "softmax_with_cross_entropy": "cross_entropy_with_softmax",
    "reduce_sum": "sum", "reduce_mean": "mean", "sum": "add_n", "fill_constant": "full", "expand_v2": "expand",
    "mean": "mean_all",
}
# Inputs of which a backward operator of Paddle 2 takes the shape alone; Paddle 3 tells them itself.
_UNREAD_INPUTS = {"add_grad": 2, "subtract_grad": 2, "concat_grad": 1, "mean_grad": 1, "mean_all_grad": 1,
                  "sum_grad": 1, "bilinear_interp_grad": 1, "tile_grad": 1, "expand_grad": 1,
                  "slice_grad": 1}


class Value(NamedTuple):
    """A tensor of the graph."""

    shape: Tuple[int, ...]
    item_bytes: int
    is_float: bool

    @property
    def size(self) -> int:
        """Elements; 0 where the graph knows no shape, as of cuDNN's reserve of a batch norm."""
        return math.prod(max(length, 0) for length in self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.item_bytes


@dataclass
class Operator:
    """One operator.

    Attributes:
        name: Paddle 3's, such as conv2d or conv2d_grad.
        inputs, outputs: keys of Graph.values.
        unread: inputs whose shape alone is used.
        scope: the innermost layer, such as "backbone.bb_0_0.conv0._conv"; "" for the model itself, LOSS for what
            comes after it. A backward operator has none, None.
    """

    name: str
    inputs: List
    outputs: List
    unread: Set
    scope: Optional[str]

    @property
    def launches(self) -> bool:
        """Whether it runs a kernel."""
        return self.name not in VIEWS


@dataclass
class Graph:
    """A training step up to its gradients.

    Attributes:
        operators: in their order; `forward` of them come before the backward pass.
        parameters: key -> name, of what is trained.
        buffers: keys of what is kept beside, such as running statistics.
        gradients: keys of the parameters' gradients.
        held: keys of what the training loop holds until the step ends: the batch and the logits.
    """

    values: Dict
    operators: List[Operator]
    forward: int
    parameters: Dict
    buffers: Set
    gradients: Set
    held: Set

    def parameter_bytes(self) -> int:
        return sum(self.values[key].bytes for key in self.parameters)

    def buffer_bytes(self) -> int:
        return sum(self.values[key].bytes for key in self.buffers)


# Capturing.


def standard_step(model: nn.Layer, image, label, present) -> Tuple[object, List]:
    """(loss, logits) of a step: binary cross entropy of (N, C) logits, cross entropy of each map of logits.

    Logits are taken as the heads compute them, where the model gives them so. For each of these the training loop's
    loss keeps a gradient of the same size, as cross entropy with a label of that size does; strips of resized logits,
    which it goes through, are left out.

    Args:
        image, label, present: (N, C, H, W), (N, H, W) and (N, classes), all without values.
    """
    from paddleseg.core.outputs import takes_at_input_size

    logits = model(image, at_input_size=False) if takes_at_input_size(model) else model(image)
    losses = [F.binary_cross_entropy_with_logits(logit, present) if len(logit.shape) == 2
              else F.cross_entropy(logit, paddle.slice(label, [1, 2], [0, 0], logit.shape[2:]), axis=1)
              for logit in logits]
    return sum(losses[1:], losses[0]), logits


def capture(make_model: Callable[[], nn.Layer], image_shape: Sequence[int], num_classes: int,
            step: Callable = standard_step) -> Graph:
    """The graph of a training step; leaves no trace in the process.

    Args:
        make_model: builds it, in static mode; what works on values, such as loading weights, must be left out.
        image_shape: N, 3, H, W.
        step: see `standard_step`.
    """
    number, _, height, width = image_shape
    with _static_mode() as program:
        model = make_model()
        model.train()
        image = paddle.static.data("image", list(image_shape), "float32")
        label = paddle.static.data("label", [number, height, width], "int64")
        present = paddle.static.data("present", [number, num_classes], "float32")
        block = program.global_block()
        watch = _Watch(model, block)
        loss, logits = step(model, image, label, present)
        watch.advance()
        names = {_key(parameter): name for name, parameter in model.named_parameters()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Paddle's own, of what it does itself
            pairs = [pair for pair in paddle.static.append_backward(loss) if pair[1] is not None]
        read = _read_pir if hasattr(block.ops[-1], "operands_source") else _read_block
        values, operators, fixed = read(block, watch.scopes)
        held = {_key(tensor): _value(tensor) for tensor in (image, label, present, *logits)}
        values.update(held)
        parameters = {_key(parameter): names[_key(parameter)] for parameter, _ in pairs}
        return Graph(values, operators, sum(operator.scope is not None for operator in operators), parameters,
                     fixed - set(parameters), {_key(gradient) for _, gradient in pairs}, set(held))


@contextlib.contextmanager
def _static_mode() -> Iterator:
    """A new program to build in, in which sizes are numbers and mixed precision, which is applied later, is off."""
    changed = {(paddle, "shape"): lambda x: list(x.shape),
               (paddle.amp, "auto_cast"): lambda *args, **kwargs: contextlib.nullcontext()}
    originals = {place: getattr(*place) for place in changed}
    was_dynamic, names = paddle.in_dynamic_mode(), paddle.utils.unique_name.switch()
    program = paddle.static.Program()
    paddle.enable_static()
    for place, replacement in changed.items():
        setattr(*place, replacement)
    try:
        with paddle.static.program_guard(program, paddle.static.Program()):
            yield program
    finally:
        for place, original in originals.items():
            setattr(*place, original)
        if was_dynamic:
            paddle.disable_static()
        paddle.utils.unique_name.switch(*names)  # each change of mode begins to count them anew


class _Watch:
    """Notes in which layer each operator of a block is made.

    Attributes:
        scopes: one for each operator so far.
    """

    def __init__(self, model: nn.Layer, block):
        self.block, self.scopes, self.stack = block, [], [LOSS]
        for name, layer in model.named_sublayers(include_self=True):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: self.enter(name))
            layer.register_forward_post_hook(lambda layer, inputs, outputs: self.leave())

    def advance(self) -> None:
        """Give the new operators to the layer that is running."""
        self.scopes += [self.stack[-1]] * (len(self.block.ops) - len(self.scopes))

    def enter(self, name: str) -> None:
        self.advance()
        self.stack.append(name)

    def leave(self) -> None:
        self.advance()
        self.stack.pop()


def _key(tensor):
    return getattr(tensor, "id", None) or tensor.name


def _value(tensor) -> Value:
    kind = str(tensor.dtype).rpartition(".")[2].lower()
    return Value(tuple(tensor.shape), _ITEM_SIZES[kind], "f" in kind)


def _read_pir(block, scopes: Sequence[str]) -> Tuple[Dict, List[Operator], Set]:
    """(values, operators, keys of parameters and buffers) of Paddle 3's graph; lists of tensors are unrolled."""
    values, operators, fixed, lists, makers, same = {}, [], set(), {}, {}, {}
    for op, scope in zip(block.ops, [*scopes, *[None] * len(block.ops)]):
        name = op.name().partition(".")[2].rstrip("_")
        sources = [source for source in op.operands_source() if source.initialized()]
        if name == "combine":
            lists[op.results()[0].id] = [source.id for source in sources]
            continue
        results = [result for result in op.results() if result.initialized()]
        if name == "split" and op.name().startswith("builtin"):
            makers[sources[0].id].outputs = [result.id for result in results]
        values.update({result.id: _value(result) for result in results if result.is_dense_tensor_type()})
        if name == "parameter":
            fixed.update(result.id for result in results)
        if op.name().startswith("builtin") or name == "data":
            continue
        if name in ("full", "full_int_array") and values[results[0].id].size <= 8:
            continue  # an attribute of another operator
        unread = {source.id for source in sources if op.is_no_need_buffer(source)}
        inputs = [key for source in sources for key in lists.get(source.id, [same.get(source.id, source.id)])]
        if name == "batch_norm":  # its running statistics are updated in place
            same.update(zip((result.id for result in results[1:3]), inputs[1:3]))
        unread |= {key for source in unread for key in lists.get(source, [])}
        operators.append(Operator(name, inputs, [same.get(result.id, result.id) for result in results], unread, scope))
        makers.update({result.id: operators[-1] for result in results})
    return values, operators, fixed


def _read_block(block, scopes: Sequence[str]) -> Tuple[Dict, List[Operator], Set]:
    """The same of Paddle 2's graph."""
    values, operators, fixed = {}, [], set()
    for op, scope in zip(block.ops, [*scopes, *[None] * len(block.ops)]):
        base = op.type[:-len("_grad")] if op.type.endswith("_grad") else op.type
        name = NEW_NAMES.get(base, base) + op.type[len(base):]
        # Their order is the alphabet's; here gradients are the last inputs, and what the operator is about comes first.
        sources = sorted(op.input_names, key=lambda name: ("@GRAD" in name, name not in ("X", "Input")))
        results = sorted(op.output_names, key=lambda name: name.partition("@")[0] not in ("X", "Input", "Out", "Y"))
        inputs = [key for parameter in sources for key in op.input(parameter) if block.has_var(key)]
        outputs = [key for parameter in results for key in op.output(parameter) if block.has_var(key)
                   and parameter != "XShape"]
        for key in [*inputs, *outputs]:
            values[key] = _value(block.var(key))
            if block.var(key).persistable:
                fixed.add(key)
        if name == "full" and values[outputs[0]].size <= 8:
            continue
        forward = [key for key in inputs if "@GRAD" not in key]
        unread = set(forward[:_UNREAD_INPUTS.get(name, 0)])
        operators.append(Operator(name, inputs, outputs, unread, scope))
    return values, operators, fixed


# Counting.


def multiply_adds(graph: Graph, operator: Operator) -> int:
    """Of a convolution, a matrix product or the backward operator of one; 0 of all else."""
    name, is_gradient = operator.name.replace("_grad", ""), operator.name.endswith("_grad")
    if name not in ("conv2d", "matmul"):
        return 0
    x, y = (graph.values[key] for key in operator.inputs[:2])
    out = graph.values[operator.inputs[-1] if is_gradient else operator.outputs[0]]
    if name == "conv2d":
        summands = y.size // y.shape[0]
    else:
        # Whatever is transposed: (M K) (K N) / (M N) = K^2.
        summands = math.isqrt(math.prod(x.shape[-2:]) * math.prod(y.shape[-2:]) // math.prod(out.shape[-2:]))
    # The gradient towards either operand costs as much as the product.
    return out.size * summands * (len(operator.outputs) if is_gradient else 1)


def flops(graph: Graph, operator: Operator) -> int:
    """Two for each multiply-add of a convolution or product; else one for each element of the largest tensor."""
    products = multiply_adds(graph, operator)
    if products or not operator.launches:
        return 2 * products
    return max(graph.values[key].size for key in [*_read(operator), *operator.outputs])


def moved_bytes(graph: Graph, operator: Operator) -> int:
    """What it reads and writes, each operand once."""
    if not operator.launches:
        return 0
    return sum(graph.values[key].bytes for key in [*_read(operator), *operator.outputs])


def _read(operator: Operator) -> List:
    return [key for key in operator.inputs if key not in operator.unread]


class Life(NamedTuple):
    """From which operator to which, by number, memory is in use; `maker` is None for what is there before."""

    bytes: int
    first: int
    last: int
    maker: Optional[Operator]


def lives(graph: Graph) -> List[Life]:
    """Of every activation and gradient; parameters, their gradients as they are kept, and buffers lie outside.

    A tensor lives from its operator to the last one that reads it; what the training loop holds, to the end. So a
    parameter's gradient lives while it's computed, to be added to the one kept.
    """
    root, first, last, makers = {}, {}, {}, {}
    for number, operator in enumerate(graph.operators):
        if not operator.launches:
            source = next(key for key in _read(operator) if graph.values[key].size)
            root[operator.outputs[0]] = root.get(source, source)
        for key in operator.outputs:
            key = root.get(key, key)
            first.setdefault(key, number)
            makers.setdefault(key, operator)
            last[key] = number
        for key in _read(operator):
            last[root.get(key, key)] = number
    for key in graph.held:
        last[root.get(key, key)] = len(graph.operators) - 1
    fixed = {*graph.parameters, *graph.buffers}
    return [Life(graph.values[key].bytes, first.get(key, 0), end, makers.get(key)) for key, end in last.items()
            if key not in fixed and (key in makers or key in graph.held)]  # constants are neither


def live_bytes(graph: Graph, memory: Sequence[Life]) -> List[int]:
    """The sum of what is in use while each operator runs."""
    changes = Counter()
    for life in memory:
        changes[life.first] += life.bytes
        changes[life.last + 1] -= life.bytes
    total, sums = 0, []
    for number in range(len(graph.operators)):
        total += changes[number]
        sums.append(total)
    return sums


def saved_for_backward(graph: Graph, memory: Sequence[Life]) -> List[Life]:
    """What the forward pass leaves to the backward pass."""
    return [life for life in memory if life.first < graph.forward <= life.last]


# Recomputing.


def recomputed(graph: Graph, segments: Sequence[str]) -> Graph:
    """The graph with the operators of each segment, a layer, run once more before its backward pass.

    Its input is kept, and what leaves it; what is inside is computed again where the first backward operator asks.
    """
    inside, again, copies = {}, {}, {}  # output -> segment and operator; segment -> operators, -> output -> copy
    for segment in segments:
        own = [operator for operator in graph.operators[:graph.forward]
               if operator.scope == segment or operator.scope.startswith(segment + ".")]
        for operator in own:
            inside.update({key: (segment, operator.name) for key in operator.outputs})
        again[segment] = own
    elsewhere = {key for operator in graph.operators[:graph.forward] for key in operator.inputs
                 if key in inside and not any(operator is own for own in again[inside[key][0]])} | graph.held
    values, operators = dict(graph.values), list(graph.operators[:graph.forward])

    def asks_inside(operator, key):
        """Whether a backward operator is of the segment that made what it reads."""
        return key in inside and key not in operator.unread and (
            key not in elsewhere or operator.name == inside[key][1] + "_grad")

    for operator in graph.operators[graph.forward:]:
        asked = {key: inside[key][0] for key in operator.inputs if asks_inside(operator, key)}
        for segment in dict.fromkeys(asked.values()):
            if segment not in copies:
                made = {key: (key, "again") for own in again[segment] for key in own.outputs}
                values.update({copy: values[key] for key, copy in made.items()})
                operators += [replace(own, scope=None, inputs=[made.get(key, key) for key in own.inputs],
                                      outputs=[made[key] for key in own.outputs]) for own in again[segment]]
                copies[segment] = made
        operators.append(replace(operator, inputs=[
            copies[asked[key]][key] if key in asked else key for key in operator.inputs]))
    return replace(graph, values=values, operators=operators)
