"""A data set of one's own: a list file for each split."""

import contextlib
import logging
import os
from functools import partial
from typing import List, Optional, Sequence

import numpy as np

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.datasets.base import NO_FOREGROUND, BaseDataset, parse_mode
from paddleseg.datasets.listing import Listing, read_listing, split_separated_line
from paddleseg.utils.palette import color_map

_PROBED = 4  # labels


def find_listed(root: str, mode: str, list_path: Optional[str], separator: str) -> Listing:
    """List a split from its list file, given as `<mode>_path`.

    Raises:
        ConfigError: the list file isn't given or doesn't exist.
        DataError: the root doesn't exist, or the list is empty.
    """
    if not os.path.isdir(root):
        raise DataError(f"dataset_root: {root} is not a folder")
    key = f"{mode}_path"
    if list_path is None:
        raise ConfigError(f"{key} is missing; mode {mode} needs the list file of its images and labels")
    if not os.path.isfile(list_path):
        inside = os.path.join(root, list_path)
        hint = "write it with tools/create_dataset_list.py"
        if os.path.isfile(inside):
            hint = f"did you mean {inside}?"
        raise ConfigError(f"{key}: {list_path} is not a file; {hint}")
    if not separator:
        raise ConfigError('separator is empty; give what stands between image and label, like "," or " "')
    return read_listing(list_path, root, mode, partial(split_separated_line, separator))


def name_classes(num_classes: int, ignore_index: int, class_names: Optional[Sequence[str]]) -> List[str]:
    """The given names of the classes, by default their numbers.

    Raises:
        ConfigError: a value doesn't fit into a label of 8 bits, or there are more or fewer names than classes.
    """
    if not 1 <= num_classes <= 256:
        raise ConfigError(f"num_classes: {num_classes} is not within 1..256: labels have 8 bits")
    if not 0 <= ignore_index <= 255:
        raise ConfigError(f"ignore_index: {ignore_index} is not within 0..255: labels have 8 bits")
    if class_names is None:
        return [str(index) for index in range(num_classes)]
    if len(class_names) != num_classes:
        raise ConfigError(f"class_names: {len(class_names)} names for num_classes {num_classes}; name each class, the "
                          "background among them")
    return list(class_names)


@manager.DATASETS.add_component
class Dataset(BaseDataset):
    """Images and labels named by a list file: an image and its label a line, relative to the root.

    Labels are one-channel files of class indices.

    Args:
        transforms: applied to each sample in order.
        dataset_root: the folder that the paths in the lists start from.
        num_classes: how many classes the labels have, the background among them.
        mode: "train", "val" or "test"; in "test" a line may name an image alone.
        train_path, val_path, test_path: the list files; that of `mode` is needed.
        separator: what stands between image and label in a line.
        ignore_index: the label value that counts as no class.
        img_channels: 3; grey images are read as three equal channels.
        class_names: of each class, for tables; by default its number.
        cache: the folder in which tools/cache_dataset.py has decoded the files; None reads the files.

    Raises:
        ConfigError: an argument is missing or wrong.
        DataError: a list line is faulty or names a file that doesn't exist, or the cache can't be used.
    """

    def __init__(self, transforms: Sequence, dataset_root: str, num_classes: int, mode: str = "train",
                 train_path: Optional[str] = None, val_path: Optional[str] = None,
                 test_path: Optional[str] = None, separator: str = " ", ignore_index: int = 255,
                 img_channels: int = 3, class_names: Optional[Sequence[str]] = None, cache: Optional[str] = None):
        mode = parse_mode(mode)
        names = name_classes(num_classes, ignore_index, class_names)
        if img_channels != 3:
            raise ConfigError(f"img_channels: {img_channels} is not offered; set 3: grey images are read as "
                              "three equal channels")
        list_path = {"train": train_path, "val": val_path, "test": test_path}[mode]
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.img_channels = img_channels
        self.class_names = names
        self.palette = color_map(num_classes)
        listing = find_listed(dataset_root, mode, list_path, separator)
        self.set_samples(listing, transforms, mode, dataset_root, cache)
        if mode != "test" and ignore_index == 255 and num_classes > 1:
            self.warn_of_foreground()

    def warn_of_foreground(self) -> None:
        """Warn if the first labels hold 0 and 255 alone: as masks of two classes they teach and test nothing.

        Nothing else of the labels is checked here; a faulty one is an error when it is read.
        """
        held = set()
        for pair in self.file_list[:_PROBED]:
            with contextlib.suppress(DataError):
                held.update(np.unique(self.read_label(pair[1])).tolist())
        if held == {0, 255}:
            logging.getLogger("paddleseg").warning(
                "%s: the first labels of %s hold 0 and 255 alone; 255 is ignored, %s", self.file_list[0][1], self.mode,
                NO_FOREGROUND)
