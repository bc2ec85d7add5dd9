"""Read every file of a data set and say what is wrong with it, and how often each class occurs.

    python tools/check_data.py data/cityscapes
    python tools/check_data.py data/cityscapes --class_weights      (weights for CrossEntropyLoss, too)
    python tools/check_data.py data/VOCdevkit/VOC2012 --type voc
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
from paddleseg.datasets import ade20k, pascal_context, pascal_voc
from paddleseg.datasets.base import (
    MODES,
    NO_FOREGROUND,
    OWN_CLASSES,
    Listing,
    naming_line,
    read_class_indices,
    read_pair,
)
from paddleseg.datasets.cityscapes import (
    IGNORE_INDEX,
    IMAGE_FOLDER,
    check_folders,
    find_cityscapes,
    read_train_ids,
    train_labels,
)
from paddleseg.datasets.class_weights import weights_in_words
from paddleseg.datasets.dataset import find_listed, name_classes
from paddleseg.transforms.image_io import is_turned
from paddleseg.utils.cli import add_debug_flag, printable, run_main
from paddleseg.utils.cores import usable_cores
from paddleseg.utils.parallel import map_parallel

CUSTOM_FLAGS = ("train_path", "val_path", "test_path",
                "num_classes", "separator", "ignore_index", "class_names")
TRAINING = ("train", "aug")  # splits


class Kind(NamedTuple):
    """How labels are read and what their values mean."""

    label_reader: Callable[[str], np.ndarray]
    class_names: List[str]
    ignore_index: int = 255


class Finding(NamedTuple):
    """What one sample is: its size, the pixels of each label value, whether EXIF turns the image; or a fault."""

    size: Optional[Tuple[int, int]] = None
    counts: Optional[np.ndarray] = None
    turned: bool = False
    fault: Optional[str] = None


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", help="the folder of the data set")
    parser.add_argument("--type", choices=list(KINDS), default="cityscapes",
                        help="its layout and classes (default: %(default)s)")
    parser.add_argument("--class_weights", action="store_true",
                        help="print a weight for each class of the training split (of VOC: train.txt and aug.txt), for "
                             "CrossEntropyLoss.weight")
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


def refuse_custom_flags(args: argparse.Namespace) -> None:
    given = [f"--{name}" for name in CUSTOM_FLAGS if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: only for --type custom; {args.type} has its own")


def cityscapes_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """Every split that has a folder of images or a list file that names some."""
    root = args.dataset_root
    check_folders(root, [])
    present = [mode for mode in MODES if os.path.isdir(os.path.join(root, IMAGE_FOLDER, mode))
               or is_filled(os.path.join(root, f"{mode}.txt"))]
    if not present:
        check_folders(root, [IMAGE_FOLDER])
        raise DataError(f"{os.path.join(root, IMAGE_FOLDER)} has none of the folders {', '.join(MODES)}")
    kind = Kind(read_train_ids, [label.name for label in train_labels()], IGNORE_INDEX)
    return kind, {mode: find_or_fault(find_cityscapes, root, mode) for mode in present}


def ade20k_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """Every split that has a folder of images; train if none has, to say what is missing."""
    root = args.dataset_root
    present = [mode for mode, folder in ade20k.FOLDERS.items() if os.path.isdir(os.path.join(root, "images", folder))]
    listings = {mode: find_or_fault(ade20k.find_ade20k, root, mode) for mode in present or ["train"]}
    return Kind(ade20k.read_ade20k_label, ade20k.CLASS_NAMES), listings


def voc_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """Every split that has a list file; aug.txt counts as one."""
    folder = pascal_voc.devkit_folder(args.dataset_root, pascal_voc.RELEASE)
    listings = listed_splits(folder, pascal_voc.list_path_of, pascal_voc.find_voc)
    if os.path.isfile(pascal_voc.list_path_of(folder, "aug")):
        listings["aug"] = find_or_fault(pascal_voc.find_voc_aug, folder)
    return Kind(pascal_voc.read_voc_label, pascal_voc.CLASS_NAMES), listings


def context_kind(args: argparse.Namespace) -> Tuple[Kind, Dict[str, Listing]]:
    """Every split of PASCAL Context that has a list file; labels with or without the background."""
    folder = pascal_voc.devkit_folder(args.dataset_root, pascal_context.RELEASE)
    listings = listed_splits(folder, pascal_context.list_path_of, pascal_context.find_pascal_context)
    if args.type == "context59":
        return Kind(pascal_context.read_context59_label, pascal_context.CLASS_NAMES[1:]), listings
    return Kind(pascal_context.read_context_label, pascal_context.CLASS_NAMES), listings


def listed_splits(folder: str, list_path_of: Callable[[str, str], str],
                  find: Callable[..., Listing]) -> Dict[str, Listing]:
    """The splits that have a list file in a VOC release; train if none has, to say what is missing."""
    present = [mode for mode in MODES if os.path.isfile(list_path_of(folder, mode))]
    return {mode: find_or_fault(find, folder, mode) for mode in present or ["train"]}


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
    ignore_index = 255 if args.ignore_index is None else args.ignore_index
    names = name_classes(args.num_classes, ignore_index, args.class_names)
    paths = {mode: getattr(args, f"{mode}_path") for mode in MODES}
    paths = {mode: path for mode, path in paths.items() if path is not None}
    if not paths:
        raise ConfigError("--type custom needs a list file: --train_path, --val_path or --test_path")
    reader = partial(read_class_indices, num_classes=args.num_classes, ignore_index=ignore_index,
                     remedy=OWN_CLASSES)
    separator = " " if args.separator is None else args.separator
    listings = {mode: find_or_fault(find_listed, args.dataset_root, mode, path, separator)
                for mode, path in paths.items()}
    return Kind(reader, names, ignore_index), listings


KINDS = {"cityscapes": cityscapes_kind, "ade20k": ade20k_kind, "voc": voc_kind, "context": context_kind,
         "context59": context_kind, "custom": custom_kind}


def examine(label_reader: Callable, task: Tuple[List[str], str]) -> Finding:
    """Read one sample; `task` is its files and its line in the list file."""
    pair, line = task
    try:
        with naming_line(line):
            image, label = read_pair(pair, label_reader)
    except DataError as error:
        return Finding(fault=str(error))
    counts = None if label is None else np.bincount(label.ravel(), minlength=256)
    return Finding(image.shape[:2], counts, label is not None and is_turned(pair[0]))


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
        return [f"the labels hold 0 and 255 alone; 255 is ignored, {NO_FOREGROUND}"]
    return [f"never occurs: {', '.join(absent)}"] if absent else []


def check_split(mode: str, kind: Kind, listing: Listing, num_workers: int) -> Tuple[int, np.ndarray]:
    """Examine and report one split; returns its number of faults and the pixels of each label value, (256,)."""
    tasks = [(pair, listing.line_of(index)) for index, pair in enumerate(listing.pairs)]
    findings = list(map_parallel(partial(examine, kind.label_reader), tasks, num_workers, f"reading {mode}"))
    faults = [str(fault) for fault in listing.faults] + [each.fault for each in findings if each.fault]
    sizes = Counter(f"{each.size[0]}x{each.size[1]}" for each in findings if each.size)
    shown = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(5))
    others = f", and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    print(f"{mode}: {len(tasks) + len(listing.faults)} samples, {len(faults)} faults; "
          f"images (height x width): {shown or 'none'}{others}")
    labels = [each.counts for each in findings if each.counts is not None]
    counts = np.sum(labels, axis=0, dtype=np.int64) if labels else np.zeros(256, np.int64)
    if labels:
        print(class_table(kind, counts, np.sum([label > 0 for label in labels], axis=0)))
        for doubt in doubts(kind, counts):
            print(f"warning: {mode}: {doubt}", file=sys.stderr)
    turned = [task[0][0] for task, finding in zip(tasks, findings) if finding.turned]
    if turned:
        print(f"warning: {mode}: {len(turned)} images, such as {printable(turned[0])}, have an EXIF orientation, which "
              "isn't applied; if labels were drawn on them as viewers turn them, save the images turned",
              file=sys.stderr)
    for fault in faults:
        print(printable(fault), file=sys.stderr)
    return len(faults), counts


def print_class_weights(kind: Kind, pixels: Dict[str, np.ndarray]) -> None:
    """Print a weight for each class, from the pixels of each label value in the splits that are trained on.

    Raises:
        DataError: none of them is there, or its labels hold no class.
    """
    used = [mode for mode in TRAINING if mode in pixels]
    counts = np.sum([pixels[mode] for mode in used], axis=0, dtype=np.int64) if used else np.zeros(256, np.int64)
    counts[kind.ignore_index] = 0
    if not counts.any():
        raise DataError("--class_weights: no label of a training split holds a class; weights come from its pixels")
    print(f"weights by the labels of {' and '.join(used)}:")
    print(weights_in_words(kind.class_names, counts[:len(kind.class_names)].tolist()))


def warn_of_overlap(listings: Dict[str, Listing]) -> None:
    """Say so where a score would be measured on training images."""
    images = {mode: {os.path.realpath(pair[0]) for pair in listing.pairs}
              for mode, listing in listings.items()}
    for training in TRAINING:
        for mode in ("val", "test"):
            shared = images.get(training, set()) & images.get(mode, set())
            if shared:
                print(f"warning: {len(shared)} images are in both {training} and {mode}, such as "
                      f"{printable(min(shared))}", file=sys.stderr)


def check(args: argparse.Namespace) -> int:
    if args.num_workers < 0:
        raise ConfigError(f"--num_workers {args.num_workers} is below 0")
    if args.type != "custom":
        refuse_custom_flags(args)
    kind, listings = KINDS[args.type](args)
    found = {mode: check_split(mode, kind, listing, args.num_workers) for mode, listing in listings.items()}
    warn_of_overlap(listings)
    faults = sum(number for number, _ in found.values())
    if faults:
        raise DataError(f"{args.dataset_root}: {faults} faults, see above"
                        + ("; no class weights, as faulty labels don't count" if args.class_weights else ""))
    if args.class_weights:
        print_class_weights(kind, {mode: counts for mode, (_, counts) in found.items()})
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(check, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
