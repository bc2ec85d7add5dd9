"""Write train.txt, val.txt and test.txt: an image and its label a line, paired by name.

    python tools/create_dataset_list.py data/cityscapes/ --type cityscapes --separator ","
    python tools/create_dataset_list.py data/mine --folder images labels --format jpg png
    python tools/create_dataset_list.py data/mine --folder images labels --val_share 0.2   (no folders train and val)

Nothing is written unless every image has its label; a split other than train and val
may have none, and is then listed as images alone.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError, RunError
from paddleseg.datasets.cityscapes import (
    IMAGE_FOLDER,
    LABEL_FOLDER,
    LABEL_IDS_ENDING,
    TRAIN_IDS_ENDING,
    check_folders,
    cityscapes_images,
    cityscapes_label,
)
from paddleseg.datasets.listing import files_below
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.files import atomic_path

SPLITS = ["train", "val", "test"]
ALL = ""  # the images that lie in no split's folder
CUSTOM_ONLY = {"folder": ["images", "annotations"], "format": ["jpg", "png"], "postfix": ["", ""]}


class Split(NamedTuple):
    """The files found of a split; paths relative to the root."""

    pairs: List[List[str]]
    errors: List[str]


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_root", help="the folder that the paths in the lists start from")
    parser.add_argument("--type", choices=["cityscapes", "custom"], default="custom")
    parser.add_argument("--separator", default=" ", help="what divides image and label (default: a blank)")
    parser.add_argument("--folder", nargs=2, metavar=("IMAGES", "LABELS"),
                        help="folders of images and labels (default: images annotations); custom only")
    parser.add_argument("--second_folder", nargs="+", metavar="SPLIT",
                        help="the splits: folders inside these, each makes a list (default: train val test)")
    parser.add_argument("--val_share", type=float, metavar="X",
                        help="where there are no such folders: divide all images into train and val, val getting this "
                             "share, chosen by a hash of the names; custom only")
    parser.add_argument("--format", nargs=2, metavar=("IMAGES", "LABELS"),
                        help="endings of images and labels (default: jpg png); custom only")
    parser.add_argument("--postfix", nargs=2, metavar=("IMAGES", "LABELS"),
                        help="what follows the common part of the names (default: nothing); custom only")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def find_cityscapes(root: str, split: str) -> Split:
    """Images of the test cities stand alone: their labels are withheld."""
    images = cityscapes_images(root, split)
    if split == "test":
        return Split([[image] for image in images], [])
    labels = [cityscapes_label(root, image) for image in images]
    errors = [f"{image} has no label {label}" for image, (label, exists) in zip(images, labels) if not exists]
    known = {label.replace(LABEL_IDS_ENDING, TRAIN_IDS_ENDING) for label, _ in labels}
    for ending in (TRAIN_IDS_ENDING, LABEL_IDS_ENDING):
        present = sorted(Path(root, LABEL_FOLDER, split).glob("*/*" + ending))
        present = [path.relative_to(root).as_posix() for path in present]
        errors += [f"{label} has no image" for label in present
                   if label.replace(LABEL_IDS_ENDING, TRAIN_IDS_ENDING) not in known]
    return Split([[image, label] for image, (label, _) in zip(images, labels)], errors)


def has_ending(path: Path, ending: str) -> bool:
    """Return True if a file's name ends so; case doesn't count after the last dot, as in IMG_1.JPG."""
    postfix, _, kind = ending.rpartition(".")
    return path.name[:-len(kind)].endswith(postfix + ".") and path.name.lower().endswith(kind.lower())


def find_custom(root: str, split: str, folder: Sequence[str], ending: Sequence[str]) -> Split:
    """Pair the files whose path inside image folder and label folder is the same but for the ending."""
    found, errors = [], []
    for place, tail, other in zip(folder, ending, reversed(ending)):
        start, path_of = Path(root, place, split), {}
        for path in (Path(path) for path in files_below(str(start), [tail])):
            if not has_ending(path, tail):
                continue
            if folder[0] == folder[1] and len(other) > len(tail) and has_ending(path, other):
                continue
            name, shown = path.relative_to(start).as_posix()[:-len(tail)], path.relative_to(root).as_posix()
            if name in path_of:
                errors.append(f"{path_of[name]} and {shown} differ by capitals alone; rename one")
            path_of[name] = shown
        found.append(path_of)
    images, labels = found
    if not labels and split not in ("train", "val", ALL):
        return Split([[image] for image in images.values()], errors)
    errors += [f"{images[name]} has no label {Path(folder[1], split, name).as_posix()}{ending[1]}"
               for name in images if name not in labels]
    errors += [f"{labels[name]} has no image {Path(folder[0], split, name).as_posix()}{ending[0]}"
               for name in labels if name not in images]
    return Split([[images[name], labels.get(name, "")] for name in images], errors)


def find_splits(args: argparse.Namespace) -> Dict[str, Split]:
    """All splits, by name.

    Raises:
        ConfigError: flags that contradict each other.
        DataError: a folder is missing.
    """
    names = args.second_folder or SPLITS
    if args.type == "cityscapes":
        given = [f"--{name}" for name in [*CUSTOM_ONLY, "val_share"] if getattr(args, name) is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: only for --type custom; Cityscapes has its own names")
        check_folders(args.dataset_root, [IMAGE_FOLDER, LABEL_FOLDER])
        return {split: find_cityscapes(args.dataset_root, split) for split in names}
    folder, suffix, postfix = (getattr(args, name) or default for name, default in CUSTOM_ONLY.items())
    ending = [f"{post}.{kind.lstrip('.')}" for post, kind in zip(postfix, suffix)]
    if folder[0] == folder[1] and ending[0] == ending[1]:
        raise ConfigError("images and labels have the same folder and ending; tell them apart by --postfix")
    if not os.path.isdir(os.path.join(args.dataset_root, folder[0])):
        raise DataError(f"{os.path.join(args.dataset_root, folder[0])} is not a folder; name it by --folder")
    if args.val_share is None:
        return {split: find_custom(args.dataset_root, split, folder, ending) for split in names}
    if args.second_folder is not None:
        raise ConfigError("--val_share divides images that lie in no split's folder; leave out --second_folder")
    for split in SPLITS:
        if os.path.isdir(os.path.join(args.dataset_root, folder[0], split)):
            raise ConfigError(f"--val_share: {os.path.join(folder[0], split)} is a split already; leave it out")
    return divide(find_custom(args.dataset_root, ALL, folder, ending), args.val_share)


def divide(split: Split, val_share: float) -> Dict[str, Split]:
    """Divide the images into train and val; a name's hash decides, so more images hardly change where the others are.

    Raises:
        ConfigError: the share isn't within 0..1, or leaves one of the two empty.
    """
    if not 0 < val_share < 1:
        raise ConfigError(f"--val_share {val_share:g} is not between 0 and 1")
    count = round(val_share * len(split.pairs))
    if split.pairs and not 0 < count < len(split.pairs):
        raise ConfigError(f"--val_share {val_share:g} of {len(split.pairs)} images leaves train or val empty; "
                          "choose another share")
    by_hash = sorted(split.pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    chosen = {pair[0] for pair in by_hash[:count]}
    return {"train": Split([pair for pair in split.pairs if pair[0] not in chosen], split.errors),
            "val": Split([pair for pair in split.pairs if pair[0] in chosen], [])}


def check(splits: Dict[str, Split], separator: str, root: str) -> None:
    """Refuse lists that would be incomplete, empty or unreadable; prints one line per unpaired file."""
    if not separator or separator in "\r\n":
        raise ConfigError('--separator: give what stands between image and label, such as "," or " "')
    errors = [error for split in splits.values() for error in split.errors]
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        hint = ""
        if any(error.endswith(TRAIN_IDS_ENDING) for error in errors):
            hint = f"; make missing labels by `python tools/convert_cityscapes.py --cityscapes_path {root}`"
        elif not any(len(pair) == 2 and pair[1] for split in splits.values() for pair in split.pairs):
            hint = ("; if no names fit, say their endings, such as --format png png, or what stands before those, such "
                    "as --postfix '' _mask")
        raise DataError(f"{len(errors)} files are unpaired, see above; no list was written{hint}")
    if not any(split.pairs for split in splits.values()):
        raise DataError(f"{root} holds no image of {', '.join(splits)} with the names that --help describes; "
                        "no list was written; images in no folder of a split are divided by --val_share")
    for split in splits.values():
        for path in (path for pair in split.pairs for path in pair):
            if separator in path:
                raise ConfigError(f"--separator: {path} holds {separator!r} itself; choose another separator")


def write_lists(splits: Dict[str, Split], separator: str, root: str) -> None:
    """Write all lists, each complete or not at all."""
    try:
        for name, split in splits.items():
            with atomic_path(os.path.join(root, f"{name}.txt")) as temporary:
                Path(temporary).write_text("".join(separator.join(pair) + "\n" for pair in split.pairs),
                                           encoding="utf-8")
    except OSError as error:
        raise RunError(f"{root}: the lists can't be written: {error.strerror or error}") from error


def report(splits: Dict[str, Split], root: str) -> None:
    for name, split in splits.items():
        labels = [pair[1] for pair in split.pairs if len(pair) == 2]
        notes = []
        if not split.pairs:
            notes.append("no images there, the list is empty")
        elif not labels:
            notes.append("images alone, for mode test")
        mapped = sum(label.endswith(LABEL_IDS_ENDING) for label in labels)
        if mapped:
            notes.append(f"{mapped} of the labels are label ids, mapped to train ids when read")
        note = f" ({'; '.join(notes)})" if notes else ""
        print(f"{os.path.join(root, name)}.txt: {len(split.pairs)} images, {len(labels)} labels{note}")


def create(args: argparse.Namespace) -> int:
    splits = find_splits(args)
    check(splits, args.separator, args.dataset_root)
    write_lists(splits, args.separator, args.dataset_root)
    report(splits, args.dataset_root)
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(create, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
