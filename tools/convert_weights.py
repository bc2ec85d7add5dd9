"""Rewrite a weights file in the names, the layout and the format of another project.

    python tools/convert_weights.py encnet_r101-d8_512x1024_80k_cityscapes.pth model.pdparams --config configs/my.yml
    python tools/convert_weights.py output/best_model/model.pdparams model.pth --to mmseg --config output/config.yml

IN is a .pdparams, .pth, .pt or .safetensors file, an archive of one, or a URL; its names tell its project.
OUT ends in .pdparams, .pth, .pt (which needs PyTorch) or .safetensors; its SHA-256 goes to OUT.sha256.
With --config every name and shape is compared with that config's model; without it only names are known.

Names of --to:
    paddle              this toolkit's, which are PaddleSeg's
    paddleseg           the same, with the biases that PaddleSeg's ENCNet has before a batch norm
    mmseg               mmsegmentation's
    pytorch_encoding    PyTorch-Encoding's
    …_d                 theirs for weights of a ResNet*_vd, which names of this toolkit don't tell
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, WeightsError
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.files import atomic_path, sha256
from paddleseg.weights import dialects
from paddleseg.weights.load import CLASSIFIER, check_shortcuts, find_weights, list_names, load_into, read_weights
from paddleseg.weights.write import write_weights

PADDLE = "paddle"
TARGETS = (PADDLE, dialects.OURS, *(name for name in dialects.DIALECTS if name != "torchvision"))
FORMATS = (".pdparams", ".pth", ".pt", ".safetensors")

Weights = Dict[str, np.ndarray]


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", help="the weights file")
    parser.add_argument("output", metavar="OUT", help="the file to write")
    parser.add_argument("--to", choices=TARGETS, default=PADDLE, metavar="NAMES",
                        help="%(choices)s (default: %(default)s)")
    parser.add_argument("--config", metavar="FILE", help="the model's config, to compare every name and shape with it")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def check_output(args: argparse.Namespace) -> None:
    if not args.output.endswith(FORMATS):
        raise ConfigError(f"{args.output} is of no format that can be written; choose {', '.join(FORMATS)}")
    if os.path.isdir(args.output):
        raise ConfigError(f"{args.output} is a folder; name the file to write")
    if os.path.exists(args.output) and os.path.exists(args.input) and os.path.samefile(args.input, args.output):
        raise ConfigError(f"{args.output} is both IN and OUT; name another file to write")


def check_weights(ours: Weights, dialect: str, config_path: Optional[str]) -> Optional[bool]:
    """Compare with the config's model, or else the names alone; returns whether shortcuts pool, None if unknown.

    Raises:
        WeightsError: something is missing, unexpected or mis-shaped.
    """
    pooled = None if dialect == dialects.OURS else dialect.endswith(dialects.AVG_DOWN)
    if config_path is None:
        unknown = dialects.unknown_names(ours)
        if unknown:
            raise WeightsError(f"no {dialects.model_of(ours)} of this toolkit; unexpected: {list_names(unknown)}")
        return pooled
    from paddleseg import builder
    from paddleseg.cvlibs.config import load_config

    config = builder.resolve(load_config(config_path), needed=("model",))
    model = builder.build_model(config, pretrained=False)
    is_backbone = dialects.model_of(ours) == "ResNet"
    layer = getattr(model, "backbone", model) if is_backbone else model
    check_shortcuts(layer, dialect, "the names")
    load_into(layer, ours, "it", CLASSIFIER if is_backbone else ())
    return getattr(getattr(model, "backbone", model), "avg_down", pooled)


def rename(ours: Weights, to: str, pooled: Optional[bool]) -> Tuple[Weights, List[str]]:
    """Return the weights in the names of `to`, and notes for the user.

    Raises:
        WeightsError: the target has no such model.
    """
    if to == PADDLE:
        return ours, []
    if to == dialects.OURS:
        result = dialects.add_biases(ours) if dialects.model_of(ours) != "ResNet" else ours
        added = count(len(result) - len(ours), "biases of 0 added before a batch norm")
        return result, paddleseg_notes(ours, pooled) + added
    plain, is_pooled_target = to.removesuffix(dialects.AVG_DOWN), to.endswith(dialects.AVG_DOWN)
    if pooled is False and is_pooled_target:
        raise WeightsError(f"the shortcuts of these weights don't pool, those in names of {to} do; take --to {plain}")
    result = dialects.convert_from_paddleseg(ours, plain + dialects.AVG_DOWN if pooled else to)
    notes = count(sum(key.endswith(dialects.COUNTER) for key in result), "num_batches_tracked added, all 0")
    notes += count(len(dialects.conv_biases(ours)), "biases before a batch norm taken off the running means: "
                                                    "the outputs stay, but for rounding")
    if pooled is None and not is_pooled_target and dialects.has_deep_stem(ours):
        notes.append(f"shortcuts named as those of a ResNet*_v1c or _v1s; for a ResNet*_vd take --to {to}_d")
    return result, notes


def count(number: int, text: str) -> List[str]:
    return [f"{number} {text}"] if number else []


def paddleseg_notes(ours: Weights, pooled: Optional[bool]) -> List[str]:
    """Return where PaddleSeg's own models would compute something else with these weights.

    Raises:
        WeightsError: PaddleSeg has no such model.
    """
    if dialects.model_of(ours) == "FCN":
        raise WeightsError("PaddleSeg has no FCN of these layers; take --to paddle for this toolkit's")
    notes = []
    if not (dialects.has_deep_stem(ours) if pooled is None else pooled):
        notes.append("PaddleSeg's ResNets are all _vd, these weights are of another variant: PaddleSeg would compute "
                     "something else with them")
    widths = [ours[name].shape[1:2] for name in ("head.weight", "fcn_head.conv.weight") if name in ours]
    if len(set(widths)) > 1:
        notes.append(f"PaddleSeg's auxiliary head has {widths[0][0]} channels, this one {widths[1][0]}: "
                     "PaddleSeg would leave it out")
    return notes


def write(path: str, weights: Weights) -> None:
    """Write the file, whole or not at all, with the same bytes for the same weights.

    Raises:
        WeightsError: it can't be written.
    """
    arrays = {name: np.array(value, order="C") for name, value in weights.items()}
    if path.endswith(".pdparams"):
        write_weights(path, arrays)
        return
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            if path.endswith(".safetensors"):
                from safetensors.numpy import save
                stream.write(save(arrays))
            else:
                import torch
                # To a stream, since a path would be written into the file.
                torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, stream)
    except ImportError as error:
        package = error.name.partition(".")[0]
        raise WeightsError(f"{path} needs the package {package}: pip install {package}") from error
    except OSError as error:
        raise WeightsError(f"{path} can't be written: {error.strerror or error}") from error


def convert(args: argparse.Namespace) -> int:
    check_output(args)
    source = find_weights(args.input)
    weights = read_weights(source)
    try:
        ours, dialect = dialects.convert_to_paddleseg(weights)
        pooled = check_weights(ours, dialect, args.config)
        result, notes = rename(ours, args.to, pooled)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    write(args.output, result)
    digest = sha256(args.output)
    with atomic_path(args.output + ".sha256") as temporary:  # as sha256sum writes it
        Path(temporary).write_text(f"{digest}  {os.path.basename(args.output)}\n", encoding="utf-8")
    print(f"{source}: {len(weights)} arrays in the names of {dialect}")
    if args.config is None:
        notes.append("not compared with a model: name its config with --config to check that nothing is missing")
    counters = sum(key.endswith(dialects.COUNTER) for key in weights.keys() - ours.keys())
    notes += count(counters, "num_batches_tracked left out")
    notes += count(len(weights) - counters - len(ours), "of the ImageNet classifier left out")
    for note in notes:
        print(f"  {note}")
    print(f"{args.output}: {len(result)} arrays for {args.to}, sha256 {digest}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(convert, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
