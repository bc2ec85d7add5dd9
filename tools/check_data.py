"""Read every file of a data set and say what is wrong with it, and how often each class occurs.

    python tools/check_data.py data/cityscapes
    python tools/check_data.py data/mine --type custom --num_classes 3 --train_path data/mine/train.txt

One line for each fault; exit code 1 if there is any.
"""

import argparse
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.datasets.base import MODES, Listing, naming_line, read_class_indices, read_pair
from paddleseg.datasets.cityscapes import (
    IGNORE_INDEX,
    IMAGE_FOLDER,
    check_folders,
    find_cityscapes,
    read_train_ids,
    train_labels,
)
from paddleseg.datasets.dataset import find_listed
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.device import usable_cores
from paddleseg.utils.parallel import map_parallel
from paddleseg.utils.safe_pickle import printable

CUSTOM_FLAGS = ("train_path", "val_path", "test_path",
                "num_classes", "separator", "ignore_index", "class_names")


class Kind(NamedTuple):
    """How labels are read and what their values mean."""

    label_reader: Callable[[str], np.ndarray]
    class_names: List[str]
    ignore_index: int


class Finding(NamedTuple):
    """What one sample is: its size, the pixels of each label value, or a fault."""

    size: Optional[Tuple[int, int]] = None
    counts: Optional[np.ndarray] = None
    fault: Optional[str] = None


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", help="the folder of the data set")
    parser.add_argument("--type", choices=["cityscapes", "custom"], default="cityscapes")
    custom = parser.add_argument_group("custom", "as the arguments of the data set `Dataset` in a recipe")
    for mode in MODES:
        custom.add_argument(f"--{mode}_path", metavar="FILE", help=f"the list file of mode {mode}")
    custom.add_argument("--num_classes", type=int, metavar="N", help="how many classes the labels have")
    custom.add_argument("--separator", help="what divides image and label in a line (default: a blank)")
    custom.add_argument("--ignore_index", type=int, metavar="I", help="the value of no class (default: 255)")
    custom.add_argument("--class_names", nargs="+", metavar="NAME", help="for the table (default: numbers)")
    parser.add_argument("--num_workers", type=int, default=usable_cores(), metavar="N",
                        help="processes (default: %(default)s, the cores)")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def cityscapes_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """Every split that has a folder of images or a list file that names some."""
    given = [f"--{name}" for name in CUSTOM_FLAGS if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: only for --type custom; Cityscapes has its own")
    root = args.dataset_root
    check_folders(root, [])
    present = [mode for mode in MODES if os.path.isdir(os.path.join(root, IMAGE_FOLDER, mode))
               or is_filled(os.path.join(root, f"{mode}.txt"))]
    if not present:
        check_folders(root, [IMAGE_FOLDER])
        raise DataError(f"{os.path.join(root, IMAGE_FOLDER)} has none of the folders {', '.join(MODES)}")
    kind = Kind(read_train_ids, [label.name for label in train_labels()], IGNORE_INDEX)
    return kind, {mode: find_or_fault(find_cityscapes, root, mode) for mode in present}


def is_filled(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def find_or_fault(find: Callable[..., Listing], *arguments) -> Listing:
    """The listing; one fault if there is none, so that the other splits are still checked."""
    try:
        return find(*arguments)
    except DataError as error:
        return Listing(faults=[error])


def custom_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """The splits whose list files are given."""
    if args.num_classes is None:
        raise ConfigError("--num_classes is missing; --type custom needs it")
    if not 1 <= args.num_classes <= 256:
        raise ConfigError(f"--num_classes {args.num_classes} is not within 1..256: labels have 8 bits")
    ignore_index = 255 if args.ignore_index is None else args.ignore_index
    if not 0 <= ignore_index <= 255:
        raise ConfigError(f"--ignore_index {ignore_index} is not within 0..255: labels have 8 bits")
    names = args.class_names or [str(index) for index in range(args.num_classes)]
    if len(names) != args.num_classes:
        raise ConfigError(f"--class_names: {len(names)} names for --num_classes {args.num_classes}")
    paths = {mode: getattr(args, f"{mode}_path") for mode in MODES}
    paths = {mode: path for mode, path in paths.items() if path is not None}
    if not paths:
        raise ConfigError("--type custom needs a list file: --train_path, --val_path or --test_path")
    reader = partial(read_class_indices, num_classes=args.num_classes, ignore_index=ignore_index)
    separator = " " if args.separator is None else args.separator
    listings = {mode: find_or_fault(find_listed, args.dataset_root, mode, path, separator)
                for mode, path in paths.items()}
    return Kind(reader, names, ignore_index), listings


def examine(label_reader: Callable, task: Tuple[List[str], str]) -> Finding:
    """Read one sample; `task` is its files and its line in the list file."""
    pair, line = task
    try:
        with naming_line(line):
            image, label = read_pair(pair, label_reader)
    except DataError as error:
        return Finding(fault=str(error))
    counts = None if label is None else np.bincount(label.ravel(), minlength=256)
    return Finding(image.shape[:2], counts)


def class_table(kind: Kind, counts: np.ndarray, holding: np.ndarray) -> str:
    """Pixels, share of all pixels and number of images of each class and of the ignored pixels."""
    from prettytable import PrettyTable

    table = PrettyTable(["class", "pixels", "share", "images"], align="r")
    table.align["class"] = "l"
    rows = [(name, index) for index, name in enumerate(kind.class_names) if index != kind.ignore_index]
    for name, index in [*rows, (f"(ignored, {kind.ignore_index})", kind.ignore_index)]:
        share = counts[index] / counts.sum()
        table.add_row([name, f"{counts[index]:,}", f"{share:.3%}", holding[index]])
    return table.get_string()


def doubts(kind: Kind, counts: np.ndarray) -> List[str]:
    """What is legal in the labels of a split, but seldom meant."""
    classes = [index for index in range(len(kind.class_names)) if index != kind.ignore_index]
    absent = [kind.class_names[index] for index in classes if not counts[index]]
    only_background = counts[0] and not counts[1:255].any()
    if kind.ignore_index == 255 and counts[255] and only_background and len(classes) > 1:
        return ["the labels hold 0 and 255 alone, and 255 is ignored, so nothing but class 0 can be learned; "
                "if they are masks, save their foreground as 1"]
    return [f"never occurs: {', '.join(absent)}"] if absent else []


def check_split(mode: str, kind: Kind, listing: Listing, num_workers: int) -> int:
    """Examine and report one split; returns its number of faults."""
    tasks = [(pair, listing.line_of(index)) for index, pair in enumerate(listing.pairs)]
    findings = list(map_parallel(partial(examine, kind.label_reader), tasks, num_workers, f"reading {mode}"))
    faults = [str(fault) for fault in listing.faults] + [each.fault for each in findings if each.fault]
    sizes = Counter(f"{each.size[0]}x{each.size[1]}" for each in findings if each.size)
    shown = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(5))
    others = f", and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    print(f"{mode}: {len(tasks) + len(listing.faults)} samples, {len(faults)} faults; "
          f"images (height x width): {shown or 'none'}{others}")
    labels = [each.counts for each in findings if each.counts is not None]
    if labels:
        counts, holding = np.sum(labels, axis=0), np.sum([label > 0 for label in labels], axis=0)
        print(class_table(kind, counts, holding))
        for doubt in doubts(kind, counts):
            print(f"warning: {mode}: {doubt}", file=sys.stderr)
    for fault in faults:
        print(printable(fault), file=sys.stderr)
    return len(faults)


def warn_of_overlap(listings: Dict[str, Listing]) -> None:
    """Say so where a score would be measured on training images."""
    images = {mode: {os.path.realpath(pair[0]) for pair in listing.pairs}
              for mode, listing in listings.items()}
    for mode in ("val", "test"):
        shared = images.get("train", set()) & images.get(mode, set())
        if shared:
            print(f"warning: {len(shared)} images are in both train and {mode}, such as {printable(min(shared))}",
                  file=sys.stderr)


def check(args: argparse.Namespace) -> int:
    if args.num_workers < 0:
        raise ConfigError(f"--num_workers {args.num_workers} is below 0")
    kind, listings = (cityscapes_kind if args.type == "cityscapes" else custom_kind)(args)
    faults = sum(check_split(mode, kind, listing, args.num_workers) for mode, listing in listings.items())
    warn_of_overlap(listings)
    if faults:
        raise DataError(f"{args.dataset_root}: {faults} faults, see above")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(check, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
