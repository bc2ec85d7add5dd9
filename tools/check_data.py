"""Read every file of a data set, name those that can't be used, and count how often each class occurs.

    python tools/check_data.py data/cityscapes
    python tools/check_data.py data/cityscapes --class_weights      (weights for CrossEntropyLoss, too)
    python tools/check_data.py data/VOCdevkit/VOC2012 --type voc
    python tools/check_data.py data/mine --type custom --num_classes 3 --train_path data/mine/train.txt

One line for each error; exit code 1 if there is any.
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
from paddleseg.datasets import ade20k, cityscapes, pascal_context, pascal_voc
from paddleseg.datasets.base import MODES, NO_FOREGROUND, LabelValues, own_label_values, read_classes, read_pair
from paddleseg.datasets.dataset import find_listed, name_classes
from paddleseg.datasets.listing import Listing
from paddleseg.transforms.image_io import has_exif_rotation
from paddleseg.utils.cli import add_debug_flag, add_processes_flag, printable, run_main
from paddleseg.utils.parallel import map_parallel

CUSTOM_FLAGS = ("train_path", "val_path", "test_path",
                "num_classes", "separator", "ignore_index", "class_names")
TRAINING = ("train", "aug")  # splits
_WEIGHT_OFFSET = 1.02  # keeps weights within 1.4 (a class that is everywhere) and 50.5 (one that is nowhere)


class Classes(NamedTuple):
    """The classes of a data set, and how its labels are read."""

    class_names: Sequence[str]
    ignore_index: int
    label_values: Dict[str, LabelValues]


class Finding(NamedTuple):
    """Facts of a sample: its size, the pixels of each label value, whether EXIF turns the image; or an error."""

    size: Optional[Tuple[int, int]] = None
    counts: Optional[np.ndarray] = None
    turned: bool = False
    error: Optional[str] = None


def find_voc(root: str, mode: str) -> Listing:
    return pascal_voc.find_voc_aug(root) if mode == "aug" else pascal_voc.find_voc(root, mode)


def devkit_list(module, root: str, mode: str) -> str:
    return module.list_path_of(pascal_voc.devkit_folder(root, module.RELEASE), mode)


# data set, the function that lists a split, and the one that gives the paths of which one exists where a split does
LAYOUTS = {
    "cityscapes": (cityscapes.Cityscapes, cityscapes.find_cityscapes,
                   lambda root, mode: [os.path.join(root, cityscapes.IMAGE_FOLDER, mode),
                                       os.path.join(root, f"{mode}.txt")]),
    "ade20k": (ade20k.ADE20K, ade20k.find_ade20k,
               lambda root, mode: [os.path.join(root, "images", ade20k.FOLDERS[mode])]),
    "voc": (pascal_voc.PascalVOC, find_voc, lambda root, mode: [devkit_list(pascal_voc, root, mode)]),
    "context": (pascal_context.PascalContext, pascal_context.find_pascal_context,
                lambda root, mode: [devkit_list(pascal_context, root, mode)]),
}
LAYOUTS["context59"] = (pascal_context.PascalContext59, *LAYOUTS["context"][1:])


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", help="the folder of the data set")
    parser.add_argument("--type", choices=[*LAYOUTS, "custom"], default="cityscapes",
                        help="its layout and classes (default: %(default)s)")
    parser.add_argument("--class_weights", action="store_true",
                        help="print a weight for each class of the training split (of VOC: train.txt and aug.txt), for "
                             "CrossEntropyLoss.weight")
    custom = parser.add_argument_group("custom", "as the arguments of the data set `Dataset` in a config")
    for mode in MODES:
        custom.add_argument(f"--{mode}_path", metavar="FILE", help=f"the list file of mode {mode}")
    custom.add_argument("--num_classes", type=int, metavar="N", help="how many classes the labels have")
    custom.add_argument("--separator", help="what divides image and label in a line (default: a blank)")
    custom.add_argument("--ignore_index", type=int, metavar="I", help="the value of no class (default: 255)")
    custom.add_argument("--class_names", nargs="+", metavar="NAME", help="for the table (default: numbers)")
    add_processes_flag(parser)
    add_debug_flag(parser)
    return parser.parse_args(argv)


def list_public(args: argparse.Namespace) -> Tuple[Classes, Dict[str, Listing]]:
    """The classes, and every split that is there; train if none is, to say what is missing."""
    given = [f"--{name}" for name in CUSTOM_FLAGS if getattr(args, name) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: only for --type custom; {args.type} has its own")
    (dataset, find, marks), root = LAYOUTS[args.type], args.dataset_root
    splits = [*MODES, "aug"] if args.type == "voc" else MODES
    splits = [split for split in splits if any(map(is_filled, marks(root, split)))] or ["train"]
    return (Classes(dataset.class_names, dataset.ignore_index, dataset.label_values),
            {split: find_or_error(find, root, split) for split in splits})


def is_filled(path: str) -> bool:
    return os.path.isdir(path) or os.path.isfile(path) and os.path.getsize(path) > 0


def list_custom(args: argparse.Namespace) -> Tuple[Classes, Dict[str, Listing]]:
    """The classes, and the splits whose list files are given."""
    if args.num_classes is None:
        raise ConfigError("--num_classes is missing; --type custom needs it")
    ignore_index = 255 if args.ignore_index is None else args.ignore_index
    names = name_classes(args.num_classes, ignore_index, args.class_names)
    paths = {mode: getattr(args, f"{mode}_path") for mode in MODES if getattr(args, f"{mode}_path") is not None}
    if not paths:
        raise ConfigError("--type custom needs a list file: --train_path, --val_path or --test_path")
    separator = " " if args.separator is None else args.separator
    return (Classes(names, ignore_index, own_label_values(args.num_classes, ignore_index)),
            {mode: find_or_error(find_listed, args.dataset_root, mode, path, separator)
             for mode, path in paths.items()})


def find_or_error(find: Callable[..., Listing], *arguments) -> Listing:
    """The listing; one error if there is none, so that the other splits are still checked."""
    try:
        return find(*arguments)
    except DataError as error:
        return Listing(errors=[error])


def examine(label_values: Dict[str, LabelValues], task: Tuple[List[str], str]) -> Finding:
    """Read one sample; `task` is its files and its line in the list file."""
    pair, line = task
    try:
        image, label = read_pair(pair, partial(read_classes, label_values), line)
    except DataError as error:
        return Finding(error=str(error))
    counts = None if label is None else np.bincount(label.ravel(), minlength=256)
    return Finding(image.shape[:2], counts, label is not None and has_exif_rotation(pair[0]))


def class_table(classes: Classes, counts: np.ndarray, holding: np.ndarray) -> str:
    """Pixels, share of all pixels and number of images of each class and of the ignored pixels."""
    from prettytable import PrettyTable

    table = PrettyTable(["class", "pixels", "share", "images"], align="r")
    table.align["class"] = "l"
    rows = [(name, index) for index, name in enumerate(classes.class_names) if index != classes.ignore_index]
    for name, index in [*rows, (f"(ignored, {classes.ignore_index})", classes.ignore_index)]:
        share = counts[index] / counts.sum()
        table.add_row([name, f"{counts[index]:,}", f"{share:.3%}", holding[index]])
    return table.get_string()


def label_warnings(classes: Classes, counts: np.ndarray) -> List[str]:
    """Warnings about legal but suspicious labels of a split."""
    counted = [index for index in range(len(classes.class_names)) if index != classes.ignore_index]
    absent = [classes.class_names[index] for index in counted if not counts[index]]
    only_background = counts[0] and not counts[1:255].any()
    if classes.ignore_index == 255 and counts[255] and only_background and len(counted) > 1:
        return [f"the labels hold 0 and 255 alone; 255 is ignored, {NO_FOREGROUND}"]
    return [f"never occurs: {', '.join(absent)}"] if absent else []


def check_split(mode: str, classes: Classes, listing: Listing, num_workers: int) -> Tuple[int, np.ndarray]:
    """Examine and report one split; returns its number of errors and the pixels of each label value, (256,)."""
    tasks = list(zip(listing.pairs, listing.lines or [""] * len(listing.pairs)))
    findings = list(map_parallel(partial(examine, classes.label_values), tasks, num_workers, f"reading {mode}"))
    errors = [str(error) for error in listing.errors] + [each.error for each in findings if each.error]
    sizes = Counter(f"{each.size[0]}x{each.size[1]}" for each in findings if each.size)
    shown = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(5))
    others = f", and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    print(f"{mode}: {len(tasks) + len(listing.errors)} samples, {len(errors)} errors; "
          f"images (height x width): {shown or 'none'}{others}")
    labels = [each.counts for each in findings if each.counts is not None]
    counts = np.sum(labels, axis=0, dtype=np.int64) if labels else np.zeros(256, np.int64)
    if labels:
        print(class_table(classes, counts, np.sum([label > 0 for label in labels], axis=0)))
        for warning in label_warnings(classes, counts):
            print(f"warning: {mode}: {warning}", file=sys.stderr)
    turned = [task[0][0] for task, finding in zip(tasks, findings) if finding.turned]
    if turned:
        print(f"warning: {mode}: {len(turned)} images, such as {printable(turned[0])}, have an EXIF orientation, which "
              "isn't applied; if labels were drawn on them as viewers turn them, save the images turned",
              file=sys.stderr)
    for error in errors:
        print(printable(error), file=sys.stderr)
    return len(errors), counts


def warn_of_overlap(listings: Dict[str, Listing]) -> None:
    """Warn where a score would be measured on training images."""
    images = {mode: {os.path.realpath(pair[0]) for pair in listing.pairs}
              for mode, listing in listings.items()}
    for training in TRAINING:
        for mode in ("val", "test"):
            shared = images.get(training, set()) & images.get(mode, set())
            if shared:
                print(f"warning: {len(shared)} images are in both {training} and {mode}, such as "
                      f"{printable(min(shared))}", file=sys.stderr)


def class_weights(pixels: Sequence[int]) -> np.ndarray:
    """w_c = 1 / ln(1.02 + p_c), where p_c is the share of class c in all labelled pixels; (C,) float64.

    Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016, section 5.2.
    Rare classes weigh more, but within bounds. As CrossEntropyLoss divides by the weights' sum over the pixels, only
    their ratios matter.

    Args:
        pixels: of each class; ignored ones don't count.
    """
    pixels = np.asarray(pixels, np.float64)
    return 1 / np.log(_WEIGHT_OFFSET + pixels / max(pixels.sum(), 1))


def print_class_weights(classes: Classes, pixels: Dict[str, np.ndarray]) -> None:
    """Print share and weight of each class, and the weights as a config has them.

    Args:
        pixels: of each label value, by split; those count that are trained on.

    Raises:
        DataError: none of them is there, or its labels hold no class.
    """
    used = [mode for mode in TRAINING if mode in pixels]
    counts = np.sum([pixels[mode] for mode in used], axis=0, dtype=np.int64) if used else np.zeros(256, np.int64)
    counts[classes.ignore_index] = 0
    if not counts.any():
        raise DataError("--class_weights: no label of a training split holds a class; weights come from its pixels")
    counts = counts[:len(classes.class_names)]
    weights, width = class_weights(counts), max(map(len, classes.class_names))
    print(f"weights by the labels of {' and '.join(used)}:\n{'class':<{width}}  {'share':>9}  {'weight':>7}")
    for name, count, weight in zip(classes.class_names, counts, weights):
        print(f"{name:<{width}}  {count / counts.sum():9.3%}  {weight:7.3f}")
    print(f"- {{type: CrossEntropyLoss, weight: [{', '.join(f'{weight:.3f}' for weight in weights)}]}}")


def check(args: argparse.Namespace) -> int:
    classes, listings = list_custom(args) if args.type == "custom" else list_public(args)
    found = {mode: check_split(mode, classes, listing, args.num_workers) for mode, listing in listings.items()}
    warn_of_overlap(listings)
    errors = sum(number for number, _ in found.values())
    if errors:
        raise DataError(f"{args.dataset_root}: {errors} errors, see above"
                        + ("; no class weights, as faulty labels don't count" if args.class_weights else ""))
    if args.class_weights:
        print_class_weights(classes, {mode: counts for mode, (_, counts) in found.items()})
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(check, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
