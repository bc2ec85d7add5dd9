"""Cityscapes in its own layout.

    <root>/leftImg8bit/<split>/<city>/<name>_leftImg8bit.png
    <root>/gtFine/<split>/<city>/<name>_gtFine_labelTrainIds.png (or _labelIds.png)
    <root>/{train,val,test}.txt   optional: the files to use, one image and label a line
"""

import logging
import os
import zlib
from functools import partial
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
from cityscapesscripts.helpers.labels import labels

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.base import LabelValues, PublicDataset
from paddleseg.datasets.listing import Listing, read_listing, split_image_line

IMAGE_FOLDER, LABEL_FOLDER = "leftImg8bit", "gtFine"
IMAGE_ENDING = "_leftImg8bit.png"
TRAIN_IDS_ENDING, LABEL_IDS_ENDING = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
NUM_CLASSES, IGNORE_INDEX = 19, 255


def train_labels() -> list:
    """The 19 evaluated classes of cityscapesscripts in the order of their train ids."""
    evaluated = [label for label in labels if 0 <= label.trainId < NUM_CLASSES]
    return sorted(evaluated, key=lambda label: label.trainId)


def label_id_values() -> LabelValues:
    """The values of a *_labelIds.png, and the train id of each; 255 where a class is not evaluated."""
    # Id -1 (license plate) is 255 in a file of 8 bits, and so is its place in the tables.
    legal, classes = np.zeros(256, bool), np.full(256, IGNORE_INDEX, np.uint8)
    for label in labels:
        legal[label.id] = True
        classes[label.id] = label.trainId if label.trainId >= 0 else IGNORE_INDEX
    return LabelValues(legal, f"0..{np.flatnonzero(legal[:-1])[-1]} (label ids) and 255 (id -1)", classes=classes)


def cityscapes_images(root: str, split: str) -> List[str]:
    """The images of a split, relative to `root`, in order of city and name."""
    folder = Path(root, IMAGE_FOLDER, split)
    return [path.relative_to(root).as_posix() for path in sorted(folder.glob("*/*" + IMAGE_ENDING))]


def cityscapes_label(root: str, image: str) -> Tuple[str, bool]:
    """The label that belongs to an image by its name, and whether it exists.

    That is the train ids, or the label ids where only those exist. Paths are relative to `root`.
    """
    stem = Path(LABEL_FOLDER, *Path(image).parts[1:]).as_posix()[:-len(IMAGE_ENDING)]
    return existing_label(root, stem + TRAIN_IDS_ENDING)


def existing_label(root: str, label: str) -> Tuple[str, bool]:
    """`label`, or the label ids beside it where only those exist, and whether either does."""
    for path in (label, label.replace(TRAIN_IDS_ENDING, LABEL_IDS_ENDING)):
        if os.path.isfile(os.path.join(root, path)):
            return path, True
    return label, False


def _no_label(root: str, label: str) -> str:
    return (f"has no label {os.path.join(root, label)}; "
            f"make it by `python tools/convert_cityscapes.py --cityscapes_path {root}`")


def check_folders(root: str, folders: Sequence[str]) -> None:
    """Raise a DataError that says where the data come from if the root, or a folder in it, is missing."""
    source = "from www.cityscapes-dataset.com/downloads there"
    if not os.path.isdir(root):
        archives = " and ".join(f"{folder}_trainvaltest.zip" for folder in (IMAGE_FOLDER, LABEL_FOLDER))
        raise DataError(f"{root} is not a folder; unpack {archives} {source}, "
                        f"or draw scenes by `python tools/make_scenes.py {root}`")
    for folder in folders:
        if not os.path.isdir(os.path.join(root, folder)):
            raise DataError(f"{root} has no folder {folder}; unpack {folder}_trainvaltest.zip {source}")


def find_cityscapes(root: str, mode: str) -> Listing:
    """List a split of Cityscapes, from <root>/<mode>.txt if that exists, else from the folders.

    In mode "test" the samples have no label: those of the test cities are withheld.

    Raises:
        DataError: the root, a folder or every image is missing.
    """
    check_folders(root, [])
    list_path = os.path.join(root, mode + ".txt")
    if os.path.isfile(list_path):
        return read_listing(list_path, root, mode, partial(_split_line, root, mode))
    check_folders(root, [IMAGE_FOLDER] if mode == "test" else [IMAGE_FOLDER, LABEL_FOLDER])
    listing = Listing()
    images = cityscapes_images(root, mode)
    for image in images:
        pair = [image]
        if mode != "test":
            label, exists = cityscapes_label(root, image)
            if not exists:
                listing.errors.append(DataError(f"{os.path.join(root, image)} {_no_label(root, label)}"))
                continue
            pair.append(label)
        listing.pairs.append([os.path.join(root, path) for path in pair])
    if not images:
        raise DataError(f"{os.path.join(root, IMAGE_FOLDER, mode)} holds no <city>/*{IMAGE_ENDING}; "
                        f"there is nothing to use in mode {mode}")
    return listing


def _split_line(root: str, mode: str, line: str) -> List[str]:
    image, *labels_named = split_image_line(line)
    if not labels_named or mode == "test":
        return [image]
    label, exists = existing_label(root, labels_named[0])
    if not exists:
        raise ValueError(f"names {image}, which {_no_label(root, label)}")
    return [image, label]


@manager.DATASETS.add_component
class Cityscapes(PublicDataset):
    """Cityscapes, 19 classes by train id, 255 ignored.

    Labels are *_gtFine_labelTrainIds.png; where an image has only *_gtFine_labelIds.png,
    those are mapped when read. <root>/<mode>.txt decides the files where it exists.
    """

    num_classes, ignore_index = NUM_CLASSES, IGNORE_INDEX
    class_names = [label.name for label in train_labels()]
    palette = np.array([label.color for label in train_labels()], np.uint8)
    label_values = {LABEL_IDS_ENDING: label_id_values(), "": LabelValues.indices(NUM_CLASSES, IGNORE_INDEX)}

    find = staticmethod(find_cityscapes)

    def __init__(self, transforms: Sequence, dataset_root: str, mode: str = "train", cache: Optional[str] = None):
        super().__init__(transforms, dataset_root, mode, cache)
        mapped = sum(pair[-1].endswith(LABEL_IDS_ENDING) for pair in self.file_list)
        if mapped:
            logging.getLogger("paddleseg").info(
                "%s %s: %d labels are label ids, mapped to train ids when read", dataset_root, self.mode, mapped)

    def reading_rules(self) -> dict:
        ids = self.label_values[LABEL_IDS_ENDING]
        return {**super().reading_rules(), "train_ids": zlib.crc32(ids.classes), "label_ids": zlib.crc32(ids.legal)}
