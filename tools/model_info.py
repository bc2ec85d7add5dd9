"""Parameters, operations and activation memory of each stage of a config's network in a training step.

    python tools/model_info.py --config configs/encnet/encnet_cityscapes.yml
    python tools/model_info.py --config configs/encnet/encnet_cityscapes.yml --input_shape 1 3 769 769
    … --opts model.num_codes=64 model.backbone.type=ResNet50_vd

Two forward passes with small images are measured on the CPU and extended to the size in question, so that any size
takes seconds and little memory. Both counts grow in proportion to the pixels; a network that compares all pixels with
each other needs more. GFLOP are those of convolutions and matrix products; kernels' workspaces aren't counted.
"""

import argparse
import contextlib
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.utils.cli import add_debug_flag, add_plugins_flag, run_main

MIB = 2 ** 20
# (height, width) of the images that are measured. Multiples of 32, so that no map is rounded up.
MEASURED_SIZES = ((64, 128), (128, 256))
MEASURED_IMAGES = 2
BATCH, LOSS = "the batch", "loss"


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="the config, a YAML file")
    parser.add_argument("--input_shape", nargs=4, type=int, metavar=("N", "C", "H", "W"),
                        help="images, channels, height, width (default: the config's batch_size, 3, 512, 1024)")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the config, such as model.num_codes=16")
    add_plugins_flag(parser)
    add_debug_flag(parser)
    return parser.parse_args(argv)


def stage_of(name: str) -> str:
    """The stage that a layer or a parameter belongs to."""
    block = re.match(r"backbone\.bb_(\d+)_", name)
    if block:
        return f"backbone stage {int(block[1]) + 1}"
    return "backbone stem" if name.startswith("backbone") else name.partition(".")[0] or "between layers"


class Cost:
    """Counts of one forward pass, by stage in the order in which they run.

    Attributes:
        flops: two for each multiply-add.
        kept_bytes: memory that is still in use after the pass, for the backward pass.
    """

    def __init__(self):
        self.flops: Counter = Counter()
        self.kept_bytes: Counter = Counter()
        self._stages: List[str] = []
        self._before = allocated_bytes()

    def enter(self, stage: str) -> None:
        self._settle()
        self._stages.append(stage)
        self.flops[stage] += 0
        self.kept_bytes[stage] += 0

    def leave(self) -> None:
        self._settle()
        self._stages.pop()

    def _settle(self) -> None:
        """Give the memory that was allocated since the last call to the current stage."""
        now = allocated_bytes()
        if self._stages:
            self.kept_bytes[self._stages[-1]] += now - self._before
        self._before = now

    def count(self, outputs, summands: int) -> None:
        self.flops[self._stages[-1]] += 2 * outputs.size * summands


def allocated_bytes() -> int:
    from paddle.base import core

    return core.host_memory_stat_current_value("Allocated", 0)


@contextlib.contextmanager
def counted(model, cost: Cost) -> Iterator[None]:
    """Inside, the stages, convolutions and matrix products of a model are counted."""
    import paddle
    import paddle.nn as nn

    def count_layer(layer, inputs, outputs) -> None:
        if isinstance(layer, nn.Linear):
            cost.count(outputs, layer.weight.shape[0])
        elif isinstance(layer, nn.Conv2DTranspose):
            cost.count(inputs[0], layer.weight[0].size)
        else:
            cost.count(outputs, layer.weight[0].size)

    def counting(product: Callable) -> Callable:
        def multiply(x, y, *args, **kwargs):
            out = product(x, y, *args, **kwargs)
            transposed = args[0] if args else kwargs.get("transpose_x", False)
            cost.count(out, x.shape[-2 if transposed and x.ndim > 1 else -1])
            return out
        return multiply

    hooks, plain = [], {name: getattr(paddle, name) for name in ("matmul", "bmm")}
    for name, layer in model.named_sublayers(include_self=True):
        stage = stage_of(name)
        hooks.append(layer.register_forward_pre_hook(lambda layer, inputs, stage=stage: cost.enter(stage)))
        if isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose, nn.Linear)):
            hooks.append(layer.register_forward_post_hook(count_layer))
        hooks.append(layer.register_forward_post_hook(lambda layer, inputs, outputs: cost.leave()))
    for name, product in plain.items():
        setattr(paddle, name, counting(product))
    try:
        yield
    finally:
        for name, product in plain.items():
            setattr(paddle, name, product)
        for hook in hooks:
            hook.remove()


def forward_cost(model, shape: Sequence[int]) -> Cost:
    """Measure the forward pass of a training step, with cross entropy of each output.

    Args:
        model: in training mode, on the CPU.
        shape: (N, C, H, W).
    """
    import paddle
    import paddle.nn.functional as F

    def loss_of(logit):
        if logit.ndim == 4:
            return F.cross_entropy(logit, label, axis=1)
        return F.binary_cross_entropy_with_logits(logit, paddle.zeros_like(logit))

    cost = Cost()
    cost.enter(BATCH)
    image, label = paddle.randn(shape), paddle.zeros([shape[0], *shape[2:]], "int64")
    cost.leave()
    with counted(model, cost):
        logits = model(image)
    cost.enter(LOSS)
    loss = sum(map(loss_of, logits))  # held here, as the training loop holds it with the logits
    cost.leave()
    del loss, logits
    return cost


def extended(small: Counter, large: Counter, shape: Sequence[int]) -> Dict[str, float]:
    """Counts at a shape, from those at the two MEASURED_SIZES: in proportion to N, and linear in H * W."""
    low, high = (height * width for height, width in MEASURED_SIZES)
    part = (shape[2] * shape[3] - low) / (high - low)
    return {stage: shape[0] / MEASURED_IMAGES * (count + part * (large[stage] - count))
            for stage, count in small.items()}


def stage_table(flops: Dict[str, float], kept_bytes: Dict[str, float], sizes: Dict[str, int]) -> str:
    """A row for each stage, in the order in which they run, and the sums."""
    from prettytable import PrettyTable

    table = PrettyTable(["stage", "parameters", "GFLOP forward", "MiB kept for backward"])
    table.align, table.align["stage"] = "r", "l"
    stages = sorted({**flops, **sizes}, key=lambda stage: (stage == LOSS) + 2 * (stage == BATCH))
    rows = [(stage, sizes.get(stage, 0), flops.get(stage, 0) / 1e9, kept_bytes.get(stage, 0) / MIB)
            for stage in stages]
    rows = [row for row in rows if any(row[1:])]
    rows.append(("total", *(sum(column) for column in list(zip(*rows))[1:])))
    for stage, size, gflop, kept in rows:
        table.add_row([stage, f"{size:,}", f"{gflop:.1f}", f"{kept:.1f}"])
    return table.get_string()


def report(args: argparse.Namespace) -> int:
    from paddleseg import builder

    if args.input_shape is not None and min(args.input_shape) < 1:
        raise ConfigError(f"--input_shape {' '.join(map(str, args.input_shape))}: all four must be at least 1")
    config = builder.read_config(args, ("model",))
    shape = args.input_shape or [config["batch_size"], 3, 512, 1024]
    channels = config["model"].get("backbone", {}).get("in_channels", shape[1])
    if channels != shape[1]:
        raise ConfigError(f"--input_shape: C is {shape[1]}, but the backbone's in_channels {channels}")

    import paddle

    paddle.set_device("cpu")
    model = builder.build_model(config, pretrained=False)
    model.train()
    small, large = (forward_cost(model, [MEASURED_IMAGES, channels, *size]) for size in MEASURED_SIZES)
    flops, kept_bytes = extended(small.flops, large.flops, shape), extended(small.kept_bytes, large.kept_bytes, shape)
    sizes = Counter()  # of the parameters that aren't frozen
    for name, value in model.named_parameters():
        sizes[stage_of(name)] += 0 if value.stop_gradient else value.size
    print(f"{args.config}, {' x '.join(map(str, shape))}, float32")
    print(stage_table(flops, kept_bytes, sizes))
    weights = 4 * 3 * sum(sizes.values()) / MIB
    print(f"a training step: about {3 * sum(flops.values()) / 1e9:.1f} GFLOP and "
          f"{sum(kept_bytes.values()) / MIB + weights:.1f} MiB, of which parameters, their gradients and momentum are "
          f"{weights:.1f} MiB")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(report, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
