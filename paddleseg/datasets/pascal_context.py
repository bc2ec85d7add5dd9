"""PASCAL Context: all pixels of PASCAL VOC 2010's training images, labelled.

    <root>/JPEGImages/<name>.jpg
    <root>/SegmentationClassContext/<name>.png             0 is the background, 1..59 are the classes
    <root>/ImageSets/SegmentationContext/{train,val}.txt   a name a line

<root> may also be the folder that holds all this as VOC2010, such as VOCdevkit. Labels and lists are made from
trainval_merged.json by mmsegmentation's tools/dataset_converters/pascal_context.py. What PaddleSeg's
tools/data/convert_voc2010.py makes is read too: Context/<name>.png and ImageSets/Segmentation/{train,val}_context.txt.
"""

import os

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.base import LabelValues, PublicDataset
from paddleseg.datasets.listing import Listing
from paddleseg.datasets.pascal_voc import devkit_folder, read_names
from paddleseg.utils.palette import color_map

# folder of labels -> the list of a mode, of mmsegmentation and of PaddleSeg
LAYOUTS = {"SegmentationClassContext": "ImageSets/SegmentationContext/{}.txt",
           "Context": "ImageSets/Segmentation/{}_context.txt"}
RELEASE = "VOC2010"
NUM_CLASSES, IGNORE_INDEX = 60, 255
CLASS_NAMES = ("background aeroplane bag bed bedclothes bench bicycle bird boat book bottle building bus cabinet car "
               "cat ceiling chair cloth computer cow cup curtain dog door fence floor flower food grass ground horse "
               "keyboard light motorbike mountain mouse person plate platform pottedplant road rock sheep shelves "
               "sidewalk sign sky snow sofa table track train tree truck tvmonitor wall water window wood").split()


def list_path_of(folder: str, mode: str) -> str:
    """The list file of a mode, whether or not it exists."""
    return os.path.join(folder, LAYOUTS[label_folder_of(folder)].format(mode))


def label_folder_of(folder: str) -> str:
    """The folder of labels that exists.

    Raises:
        DataError: none does.
    """
    for name in LAYOUTS:
        if os.path.isdir(os.path.join(folder, name)):
            return name
    raise DataError(f"{folder} has no folder {' or '.join(LAYOUTS)}; mmsegmentation's "
                    "tools/dataset_converters/pascal_context.py makes it from trainval_merged.json")


def find_pascal_context(root: str, mode: str) -> Listing:
    """List a split from its list file; in mode "test" images alone.

    Raises:
        DataError: a folder or list file is missing or can't be read.
    """
    folder = devkit_folder(root, RELEASE)
    return read_names(folder, list_path_of(folder, mode), label_folder_of(folder), mode)


@manager.DATASETS.add_component
class PascalContext(PublicDataset):
    """PASCAL Context, 59 classes and the background.

    Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.
    """

    num_classes, ignore_index = NUM_CLASSES, IGNORE_INDEX
    class_names, palette = CLASS_NAMES, color_map(NUM_CLASSES)
    label_values = {"": LabelValues.indices(NUM_CLASSES)}
    find = staticmethod(find_pascal_context)


@manager.DATASETS.add_component
class PascalContext59(PascalContext):
    """PASCAL Context without its background, which is ignored: 59 classes; the files are those of PascalContext."""

    num_classes = NUM_CLASSES - 1
    class_names, palette = CLASS_NAMES[1:], color_map(NUM_CLASSES)[1:]
    label_values = {"": LabelValues.indices_from_one(NUM_CLASSES - 1)}
