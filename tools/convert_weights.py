"""Rewrite a weights file in the names, the layout and the format of another project.

    python tools/convert_weights.py encnet_r101-d8_512x1024_80k_cityscapes.pth model.pdparams
    python tools/convert_weights.py output/best_model/model.pdparams model.pth --to mmseg

IN is a .pdparams, .pth, .pt or .safetensors file, an archive of one, or a URL; its project is told by its names.
OUT ends in .pdparams, .pth, .pt (which needs PyTorch) or .safetensors; its SHA-256 goes to OUT.sha256.

Names of --to:
    paddle              this toolkit's, which are PaddleSeg's
    paddleseg           the same, with the biases that PaddleSeg's ENCNet has before a batch norm
    mmseg               mmsegmentation's
    pytorch_encoding    PyTorch-Encoding's
    …_d                 theirs for weights of a ResNet*_vd, which names of this toolkit don't tell
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import BinaryIO, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, WeightsError
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.files import atomic_path
from paddleseg.weights import dialects, weight_shapes
from paddleseg.weights.load import find_weights, read_weights
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
    add_debug_flag(parser)
    return parser.parse_args(argv)


def check_output(args: argparse.Namespace) -> None:
    if not args.output.endswith(FORMATS):
        raise ConfigError(f"{args.output} is of no format that can be written; choose {', '.join(FORMATS)}")
    if os.path.isdir(args.output):
        raise ConfigError(f"{args.output} is a folder; name the file to write")
    if os.path.exists(args.output) and os.path.exists(args.input) and os.path.samefile(args.input, args.output):
        raise ConfigError(f"{args.output} is both IN and OUT; name another file to write")


def rename(weights: Weights, to: str) -> Tuple[Weights, str, List[str]]:
    """The weights in the names of `to`, the dialect they were in, and what a user should know.

    Raises:
        WeightsError: they aren't all of a model, or the target has no such model.
    """
    ours, dialect = dialects.to_ours(weights)
    model = weight_shapes.model_of(ours)
    notes = left_out(weights, ours, dialect)
    if to in (PADDLE, dialects.OURS):
        result = dialects.from_ours(ours, dialects.OURS)
        if to == dialects.OURS:
            notes += paddleseg_notes(ours, model, dialect)
            result = dialects.add_biases(ours) if model != "ResNet" else result
            notes += count(len(result) - len(ours), "biases of 0 added before a batch norm")
        return result, dialect, notes
    target = resolve_shortcuts(to, dialect)
    result = dialects.from_ours(ours, target)
    notes += count(sum(key.endswith(".num_batches_tracked") for key in result), "num_batches_tracked added, all 0")
    notes += count(len(dialects.conv_biases(ours)), "biases before a batch norm taken off the running means: "
                                                    "the outputs stay, but for rounding")
    if dialect == dialects.OURS and not target.endswith(dialects.POOLED) and has_deep_stem(ours):
        notes.append(f"shortcuts named as those of a ResNet*_v1c or _v1s; for a ResNet*_vd take --to {to}_d")
    return result, dialect, notes


def count(number: int, text: str) -> List[str]:
    return [f"{number} {text}"] if number else []


def has_deep_stem(ours: Weights) -> bool:
    return any(key.endswith("conv1_2._conv.weight") for key in ours)


def left_out(weights: Weights, ours: Weights, dialect: str) -> List[str]:
    if dialect == dialects.OURS:
        return []
    counters = sum(key.endswith(".num_batches_tracked") for key in weights)
    return (count(counters, "num_batches_tracked left out")
            + count(len(weights) - counters - len(ours), "of the ImageNet classifier left out"))


def resolve_shortcuts(to: str, dialect: str) -> str:
    """The dialect to write: other projects' names tell whether shortcuts pool, ours leave it to `to`.

    Raises:
        WeightsError: the weights aren't those of a ResNet*_vd, and `to` says that they are.
    """
    if dialect.endswith(dialects.POOLED) and not to.endswith(dialects.POOLED):
        return to + dialects.POOLED
    if to.endswith(dialects.POOLED) and dialect != dialects.OURS and not dialect.endswith(dialects.POOLED):
        raise WeightsError(f"the names of {dialect} are of a ResNet whose shortcuts don't pool, "
                           f"those of {to} of one whose do; take --to {to[:-len(dialects.POOLED)]}")
    return to


def paddleseg_notes(ours: Weights, model: str, dialect: str) -> List[str]:
    """Where PaddleSeg's own models would compute something else with these weights.

    Raises:
        WeightsError: PaddleSeg has no such model.
    """
    if model == "FCN":
        raise WeightsError("PaddleSeg has no FCN of these layers; take --to paddle for this toolkit's")
    notes = []
    may_be_vd = has_deep_stem(ours) if dialect == dialects.OURS else dialect.endswith(dialects.POOLED)
    if not may_be_vd:
        notes.append("PaddleSeg's ResNets are all _vd, these weights are of another variant: PaddleSeg would compute "
                     "something else with them")
    if model == "EncNet" and ours["fcn_head.conv.weight"].shape[1] != ours["head.weight"].shape[1]:
        notes.append(f"PaddleSeg's auxiliary head has {ours['head.weight'].shape[1]} channels, this one "
                     f"{ours['fcn_head.conv.weight'].shape[1]}: PaddleSeg would leave it out")
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
    write_stream = write_safetensors if path.endswith(".safetensors") else write_torch
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            write_stream(stream, arrays)
    except ImportError as error:
        package = error.name.partition(".")[0]
        raise WeightsError(f"{path} needs the package {package}: pip install {package}") from error
    except OSError as error:
        raise WeightsError(f"{path} can't be written: {error.strerror or error}") from error


def write_torch(stream: BinaryIO, arrays: Weights) -> None:
    import torch

    # To a stream, since a path would be written into the file.
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, stream)


def write_safetensors(stream: BinaryIO, arrays: Weights) -> None:
    from safetensors.numpy import save

    stream.write(save(arrays))


def write_digest(path: str) -> str:
    """Write `path`.sha256 as sha256sum does; returns the digest."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    with atomic_path(path + ".sha256") as temporary:
        Path(temporary).write_text(f"{digest.hexdigest()}  {os.path.basename(path)}\n", encoding="utf-8")
    return digest.hexdigest()


def convert(args: argparse.Namespace) -> int:
    check_output(args)
    source = find_weights(args.input)
    weights = read_weights(source)
    try:
        result, dialect, notes = rename(weights, args.to)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    write(args.output, result)
    digest = write_digest(args.output)
    print(f"{source}: {len(weights)} arrays in the names of {dialect}")
    for note in notes:
        print(f"  {note}")
    print(f"{args.output}: {len(result)} arrays for {args.to}, sha256 {digest}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(convert, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
