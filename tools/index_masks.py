"""Turn masks of colors or grey values into masks of class indices, which are what training reads.

    python tools/index_masks.py data/mine/masks                       (which colors are there, and how often)
    python tools/index_masks.py data/mine/masks data/mine/labels --colors 0,0,0 128,0,0 0,128,0
    python tools/index_masks.py data/mine/masks data/mine/labels --colors 0 255     (grey masks of two classes)

The first color becomes class 0, the second class 1 and so on. A palette is looked up, alpha is dropped. A mask with
another color than these is named and not written; exit code 1 if there is any.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError, RunError
from paddleseg.datasets.listing import IMAGE_SUFFIXES, files_below
from paddleseg.transforms.image_io import read_image, write_png
from paddleseg.utils.cli import add_debug_flag, add_processes_flag, printable, run_main
from paddleseg.utils.files import atomic_path
from paddleseg.utils.palette import color_map
from paddleseg.utils.parallel import map_parallel

IGNORE_INDEX = 255
_SHOWN = 40  # colors


class Finding(NamedTuple):
    """The colors of a mask, as 0xRRGGBB, and how many pixels each has; or why it wasn't read or written."""

    colors: np.ndarray = np.zeros(0, np.int64)
    counts: np.ndarray = np.zeros(0, np.int64)
    error: Optional[str] = None


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", help="the folder of masks; folders in it are read too")
    parser.add_argument("labels", nargs="?", help="the folder to write to, as <the mask's path>.png")
    parser.add_argument("--colors", nargs="+", metavar="R,G,B", help="the color of each class; V stands for V,V,V")
    parser.add_argument("--ignore_colors", nargs="+", default=[], metavar="R,G,B",
                        help="colors of no class, such as outlines; they become 255, which is ignored")
    add_processes_flag(parser)
    add_debug_flag(parser)
    return parser.parse_args(argv)


def parse_color(flag: str, text: str) -> int:
    """0xRRGGBB of "R,G,B" or "V"."""
    parts = text.split(",")
    values = [int(part) if part.isdecimal() else 256 for part in parts] * (3 if len(parts) == 1 else 1)
    if len(values) != 3 or max(values) > 255:
        raise ConfigError(f"{flag}: {text} is not a color; give red,green,blue or a grey value, each 0..255")
    red, green, blue = values
    return red << 16 | green << 8 | blue


def class_of_color(colors: Sequence[str], ignored: Sequence[str]) -> Dict[int, int]:
    """The class index of each color, 255 of those that are ignored.

    Raises:
        ConfigError: a color can't be read, stands twice, or there are more classes than labels hold.
    """
    if len(colors) > IGNORE_INDEX:
        raise ConfigError(f"--colors: {len(colors)} are more than the {IGNORE_INDEX} classes that labels hold")
    known: Dict[int, int] = {}
    for flag, texts in (("--colors", colors), ("--ignore_colors", ignored)):
        for index, text in enumerate(texts):
            color = parse_color(flag, text)
            if color in known:
                raise ConfigError(f"{flag}: {text} stands twice; each color has one meaning")
            known[color] = index if flag == "--colors" else IGNORE_INDEX
    return known


def read_colors(path: str) -> np.ndarray:
    """(H, W) int64 of 0xRRGGBB.

    Raises:
        DataError: the file can't be read, or 8 bits don't hold its grey values.
    """
    red, green, blue = np.moveaxis(read_image(path).astype(np.int64), 2, 0)
    with Image.open(path) as picture:
        if picture.mode.startswith("I"):
            raise DataError(f"{path} has grey values of more than 8 bits; if they are class indices, training reads it "
                            "as it is; else save it with 8 bits")
    return red << 16 | green << 8 | blue


def count(path: str) -> Finding:
    """The colors of one mask."""
    try:
        return Finding(*np.unique(read_colors(path), return_counts=True))
    except DataError as error:
        return Finding(error=str(error))


def convert(known: Dict[int, int], task: Tuple[str, str]) -> Finding:
    """Write the class indices of one mask; `task` is its path and the label's."""
    path, label_path = task
    try:
        pixels = read_colors(path)
        colors, counts = np.unique(pixels, return_counts=True)
        strange = ~np.isin(colors, list(known))
        if strange.any():
            return Finding(error=f"{path} holds {shown(colors[strange], counts[strange])}, which --colors doesn't name"
                           + ("; JPEG blurs colors, so make masks as PNG"
                              if path.lower().endswith((".jpg", ".jpeg")) else ""))
        indices = np.array([known[color] for color in colors.tolist()], dtype=np.uint8)
        with atomic_path(label_path) as temporary:
            write_png(temporary, indices[np.searchsorted(colors, pixels)], palette=color_map(256))
        return Finding(colors, counts)
    except (DataError, RunError) as error:
        return Finding(error=str(error))
    except OSError as error:
        return Finding(error=f"{label_path} can't be written: {error.strerror or error}")


def shown(colors: np.ndarray, counts: np.ndarray, limit: int = 5) -> str:
    """The most frequent colors with their pixels, in words."""
    order = np.argsort(-counts, kind="stable")
    parts = [f"{name(colors[index])} ({counts[index]:,} pixels)" for index in order[:limit]]
    return ", ".join(parts) + (f" and {len(colors) - limit} more colors" if len(colors) > limit else "")


def name(color: int) -> str:
    return f"{color >> 16},{color >> 8 & 255},{color & 255}"


def list_masks(folder: str) -> List[str]:
    """Paths of the masks, relative to the folder."""
    if not os.path.isdir(folder):
        raise DataError(f"{folder} is not a folder; name that of the masks")
    masks = [os.path.relpath(path, folder) for path in files_below(folder)]
    if not masks:
        raise DataError(f"{folder} holds no mask (looked for {', '.join(IMAGE_SUFFIXES)})")
    return masks


def count_colors(args: argparse.Namespace, masks: Sequence[str]) -> List[str]:
    """Print every color of all masks; returns the errors."""
    paths = [os.path.join(args.masks, mask) for mask in masks]
    pixels, files = np.zeros([2, 1 << 24], np.int64)  # of every color there can be; photos hold millions
    errors = []
    for finding in map_parallel(count, paths, args.num_workers, "counting"):
        pixels[finding.colors] += finding.counts
        files[finding.colors] += 1
        errors += [finding.error] if finding.error else []
    found = np.flatnonzero(pixels)
    for color in found[np.argsort(-pixels[found], kind="stable")][:_SHOWN].tolist():
        print(f"{name(color)}: {pixels[color]:,} pixels in {files[color]} masks")
    if len(found) > _SHOWN:
        print(f"and {len(found) - _SHOWN} more colors; masks of classes hold few: these may be photos, or blurred")
    return errors


def convert_masks(args: argparse.Namespace, masks: Sequence[str]) -> List[str]:
    """Write every mask as class indices; returns the errors."""
    known = class_of_color(args.colors, args.ignore_colors)
    folders = [os.path.realpath(args.masks), os.path.realpath(args.labels)]
    if os.path.commonpath(folders) == folders[0]:
        raise ConfigError(f"{args.labels} lies in the folder of the masks, whose files are all read; name another one")
    mask_of: Dict[str, str] = {}
    for mask in masks:
        label = os.path.join(args.labels, os.path.splitext(mask)[0] + ".png")
        if label in mask_of:
            raise DataError(f"{mask_of[label]} and {mask} would both become {label}; rename one of them")
        mask_of[label] = mask
    tasks = [(os.path.join(args.masks, mask), label) for label, mask in mask_of.items()]
    findings = list(map_parallel(partial(convert, known), tasks, args.num_workers, "converting"))
    errors = [finding.error for finding in findings if finding.error]
    print(f"{args.labels}: {len(findings) - len(errors)} labels of {len(args.colors)} classes")
    return errors


def run(args: argparse.Namespace) -> int:
    if (args.labels is None) != (args.colors is None):
        raise ConfigError("give both the folder to write to and --colors, or neither to see which colors there are")
    masks = list_masks(args.masks)
    errors = (count_colors if args.colors is None else convert_masks)(args, masks)
    for error in errors:
        print(printable(error), file=sys.stderr)
    if errors:
        raise DataError(f"{args.masks}: {len(errors)} of {len(masks)} masks have errors, see above")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
