"""Stand-ins of public data sets, each in its own layout: tiny noise images, and labels of vertical stripes."""

from pathlib import Path
from typing import Callable, Dict, NamedTuple, Sequence

from fake_data import write_image, write_label

TRAIN, VAL, TEST, AUG = ("a", "b", "ü c"), ("d", "e"), ("f",), ("g", "h")
VALUES = (0, 1, 2, 255)  # of the stripes in every label


def make_ade20k(root: Path) -> Path:
    for split, names in (("training", TRAIN), ("validation", VAL), ("testing", TEST)):
        for number, name in enumerate(names):
            write_image(root / "images" / split / f"{name}.jpg", number)
            if split != "testing":
                write_label(root / "annotations" / split / f"{name}.png", VALUES)
    return root


def make_devkit(root: Path, labels: Dict[str, Sequence[str]], lists: str, splits: Dict[str, Sequence[str]]) -> Path:
    """Images of all names, labels by folder, lists by split."""
    for number, name in enumerate({name for names in splits.values() for name in names}):
        write_image(root / "JPEGImages" / f"{name}.jpg", number)
    for folder, names in labels.items():
        for name in names:
            write_label(root / folder / f"{name}.png", VALUES)
    (root / "ImageSets" / lists).mkdir(parents=True)
    for split, names in splits.items():
        (root / "ImageSets" / lists / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return root


_DEVKIT_TRAIN = TRAIN[:2] + ("ü_c",)  # a name in these lists holds no blank


def make_voc(root: Path) -> Path:
    return make_devkit(root, {"SegmentationClass": _DEVKIT_TRAIN + VAL, "SegmentationClassAug": AUG}, "Segmentation",
                       {"train": _DEVKIT_TRAIN, "val": VAL, "test": TEST, "aug": AUG})


def make_context(root: Path) -> Path:
    return make_devkit(root, {"SegmentationClassContext": _DEVKIT_TRAIN + VAL}, "SegmentationContext",
                       {"train": _DEVKIT_TRAIN, "val": VAL})


class Layout(NamedTuple):
    """A data set's stand-in, and what its facts must be."""

    make: Callable[[Path], Path]
    num_classes: int
    classes: Sequence[int]  # that VALUES become
    first_name: str
    check_type: str  # tools/check_data.py's


LAYOUTS = {
    "ADE20K": Layout(make_ade20k, 150, (255, 0, 1, 255), "wall", "ade20k"),
    "PascalVOC": Layout(make_voc, 21, VALUES, "background", "voc"),
    "PascalContext": Layout(make_context, 60, VALUES, "background", "context"),
    "PascalContext59": Layout(make_context, 59, (255, 0, 1, 255), "aeroplane", "context59"),
}
