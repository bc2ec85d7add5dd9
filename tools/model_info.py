"""Parameters, operations and activation memory of each stage of a recipe's network in a training step.

    python tools/model_info.py --config configs/encnet/encnet_cityscapes.yml
    python tools/model_info.py --config configs/encnet/encnet_cityscapes.yml --input_shape 1 3 769 769
    … --opts model.num_codes=64 model.backbone.type=ResNet50_vd

Nothing is computed but shapes, so that any size takes a second and little memory. Kernels' workspaces aren't counted.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Callable, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.utils.cli import add_debug_flag, add_plugins_flag, run_main

MIB = 2 ** 20


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe, a YAML file")
    parser.add_argument("--input_shape", nargs=4, type=int, metavar=("N", "C", "H", "W"),
                        help="images, channels, height, width (default: the recipe's batch_size, 3, 512, 1024)")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the recipe, such as model.num_codes=16")
    add_plugins_flag(parser)
    add_debug_flag(parser)
    return parser.parse_args(argv)


def model_maker(config) -> Callable:
    """What builds the model of a checked configuration, for paddleseg.core.cost.capture: without weights, and without
    what works on values."""
    from paddleseg import builder

    # The variance is corrected for each channel, and a computation finds out whether it must be.
    config.tree["model"].pop("unbiased_variance", None)
    if "backbone" in config.tree["model"]:
        config.tree["model"]["backbone"].pop("recompute_stages", None)
    return lambda: builder.build_model(config, pretrained=False)


def recompute_stages(graph, stages: Sequence[int]):
    """The graph with `recompute_stages` of a ResNet."""
    from paddleseg.core.cost import recomputed

    blocks = dict.fromkeys(".".join(operator.scope.split(".")[:2]) for operator in graph.operators if operator.scope)
    return recomputed(graph, [block for block in blocks if re.match(r"backbone\.bb_\d", block)
                              and int(block.split("_")[1]) + 1 in stages])


def stage_of(name: str) -> str:
    """The stage that a layer, a parameter or a scope of core/cost.py belongs to."""
    from paddleseg.core.cost import LOSS

    if name == LOSS:
        return "loss"
    block = re.match(r"backbone\.bb_(\d+)_", name)
    if block:
        return f"backbone stage {int(block[1]) + 1}"
    return "backbone stem" if name.startswith("backbone") else name.partition(".")[0] or "between layers"


def stage_table(graph) -> str:
    """A row for each stage, in the order in which they run, and the sums."""
    from prettytable import PrettyTable

    from paddleseg.core import cost

    memory = cost.lives(graph)
    live, saved = cost.live_bytes(graph, memory), cost.saved_for_backward(graph, memory)
    forward = graph.operators[:graph.forward]
    stages = list(dict.fromkeys(stage_of(operator.scope) for operator in forward))
    table = PrettyTable(["stage", "parameters", "GFLOP forward", "MiB kept for backward", "MiB in use, peak"])
    table.align, table.align["stage"] = "r", "l"
    rows: List[List[float]] = []
    for stage in stages:
        own = [number for number, operator in enumerate(forward) if stage_of(operator.scope) == stage]
        rows.append([
            sum(graph.values[key].size for key, name in graph.parameters.items() if stage_of(name) == stage),
            sum(cost.flops(graph, forward[number]) for number in own) / 1e9,
            sum(life.bytes for life in saved if life.maker is not None and stage_of(life.maker.scope) == stage) / MIB,
            max(live[number] for number in own) / MIB])
    batch = sum(life.bytes for life in saved if life.maker is None) / MIB
    rows.append([0, 0.0, batch, batch])
    rows.append([*(sum(column) for column in list(zip(*rows))[:3]), max(live) / MIB])
    for name, (parameters, gflop, kept, peak) in zip([*stages, "the batch", "total, with backward pass"], rows):
        table.add_row([name, f"{parameters:,}", f"{gflop:.1f}", f"{kept:.1f}", f"{peak:.1f}"])
    return table.get_string()


def report(args: argparse.Namespace) -> int:
    # Paddle's remarks on how a static graph is made are for its own developers.
    os.environ.setdefault("GLOG_minloglevel", "2")
    from paddleseg import builder, plugins
    from paddleseg.core import cost
    from paddleseg.cvlibs.config import load_config

    if args.input_shape is not None and min(args.input_shape) < 1:
        raise ConfigError(f"--input_shape {' '.join(map(str, args.input_shape))}: all four must be at least 1")
    plugins.load_plugins(args.plugins)
    config = load_config(args.config, args.opts)
    builder.check(config, needed=("model",))
    backbone = config["model"].get("backbone", {})
    shape = args.input_shape or [config["batch_size"], 3, 512, 1024]
    channels = backbone.get("in_channels", shape[1])
    if channels != shape[1]:
        raise ConfigError(f"--input_shape: C is {shape[1]}, but the backbone's in_channels {channels}")
    try:
        graph = cost.capture(model_maker(config), shape, config["model"]["num_classes"])
    except ValueError as error:
        reason = next((line for line in str(error).splitlines() if "Error: " in line), str(error).partition("\n")[0])
        raise ConfigError(f"--input_shape {' '.join(map(str, shape))} doesn't fit the model: {reason}") from error
    graph = recompute_stages(graph, backbone.get("recompute_stages", ()))
    print(f"{args.config}, {' x '.join(map(str, shape))}, float32")
    print(stage_table(graph))
    backward = sum(cost.flops(graph, operator) for operator in graph.operators[graph.forward:]) / 1e9
    print(f"backward pass: {backward:.1f} GFLOP; beside the activations: parameters, their gradients and momentum "
          f"{3 * graph.parameter_bytes() / MIB:.1f} MiB, running statistics and what is frozen "
          f"{graph.buffer_bytes() / MIB:.1f} MiB")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(report, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
