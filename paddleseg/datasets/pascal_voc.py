"""PASCAL VOC 2012 in the layout of its development kit.

    <root>/JPEGImages/<name>.jpg
    <root>/SegmentationClass/<name>.png
    <root>/SegmentationClassAug/<name>.png                   with `aug`: labels of the Semantic Boundaries Dataset
    <root>/ImageSets/Segmentation/{train,val,test,aug}.txt   a name a line

<root> may also be the folder that holds all this as VOC2012, such as VOCdevkit.
"""

import os
from functools import partial
from typing import List, Optional, Sequence

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.datasets.base import LabelValues, PublicDataset
from paddleseg.datasets.listing import Listing, read_listing
from paddleseg.utils.palette import color_map

IMAGE_FOLDER = "JPEGImages"
LABEL_FOLDER, AUG_LABEL_FOLDER = "SegmentationClass", "SegmentationClassAug"
LIST_FOLDER = "ImageSets/Segmentation"
NUM_CLASSES, IGNORE_INDEX = 21, 255
RELEASE = "VOC2012"
CLASS_NAMES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
               "person pottedplant sheep sofa train tvmonitor").split()
_AUG_SOURCE = ("mmsegmentation's tools/dataset_converters/voc_aug.py or PaddleSeg's tools/data/voc_augment.py makes it "
               "and SegmentationClassAug from the Semantic Boundaries Dataset")


def devkit_folder(root: str, release: str) -> str:
    """The folder that holds JPEGImages: `root`, or the release in it.

    Raises:
        DataError: neither does.
    """
    for folder in (root, os.path.join(root, release)):
        if os.path.isdir(os.path.join(folder, IMAGE_FOLDER)):
            return folder
    raise DataError(f"{root} has no folder {IMAGE_FOLDER}, nor {release}/{IMAGE_FOLDER}; unpack the data of {release} "
                    "from host.robots.ox.ac.uk/pascal/VOC there")


def list_path_of(folder: str, mode: str) -> str:
    """The list file of a mode, or of "aug", whether or not it exists."""
    return os.path.join(folder, LIST_FOLDER, f"{mode}.txt")


def read_names(folder: str, list_path: str, label_folder: str, mode: str) -> Listing:
    """List the samples that a file of names, one a line, stands for; in mode "test" images alone."""
    return read_listing(list_path, folder, mode, partial(_split_line, label_folder, mode))


def _split_line(label_folder: str, mode: str, line: str) -> List[str]:
    if len(line.split()) != 1:
        raise ValueError(f"is not the name of an image, without folder and ending: {line}")
    image = f"{IMAGE_FOLDER}/{line}.jpg"
    return [image] if mode == "test" else [image, f"{label_folder}/{line}.png"]


def find_voc(root: str, mode: str, aug: bool = False) -> Listing:
    """List a split of VOC 2012; with `aug` and mode "train", aug.txt after train.txt.

    Raises:
        DataError: a folder or list file is missing or can't be read.
    """
    folder = devkit_folder(root, RELEASE)
    listing = read_names(folder, list_path_of(folder, mode), LABEL_FOLDER, mode)
    if aug:
        listing.extend(find_voc_aug(folder))
    return listing


def find_voc_aug(root: str) -> Listing:
    """List aug.txt, which is for training."""
    folder = devkit_folder(root, RELEASE)
    path = list_path_of(folder, "aug")
    if not os.path.isfile(path):
        raise DataError(f"{path} is not there; {_AUG_SOURCE}")
    return read_names(folder, path, AUG_LABEL_FOLDER, "train")


@manager.DATASETS.add_component
class PascalVOC(PublicDataset):
    """PASCAL VOC 2012, 20 classes and the background; the outlines, 255, are ignored.

    Everingham et al., "The PASCAL Visual Object Classes Challenge 2012"; with `aug`, 9,118 labels more for
    training: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.

    Args:
        transforms, dataset_root, cache: see PublicDataset.
        mode: "train", "val" or "test" (images only); PaddleSeg's "trainaug" is "train" with `aug`.
        aug: train on aug.txt too, on 10,582 images together.

    Raises:
        ConfigError: mode is none of these, or `aug` is set in another one than "train".
        DataError: see PublicDataset.
    """

    num_classes, ignore_index = NUM_CLASSES, IGNORE_INDEX
    class_names, palette = CLASS_NAMES, color_map(NUM_CLASSES)
    label_values = {"": LabelValues.indices(NUM_CLASSES)}  # 255 along the outlines

    def __init__(self, transforms: Sequence, dataset_root: str, mode: str = "train", aug: bool = False,
                 cache: Optional[str] = None):
        self.aug = aug or mode == "trainaug"
        super().__init__(transforms, dataset_root, "train" if mode == "trainaug" else mode, cache)

    def find(self, root: str, mode: str) -> Listing:
        if self.aug and mode != "train":
            raise ConfigError(f"aug: True is for mode train, not {mode}: the labels it adds are for training")
        return find_voc(root, mode, self.aug)
