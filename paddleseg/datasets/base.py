"""The base of every data set: reading and checking an image with its label, and the sample made of them.

H and W are an image's height and width.
"""

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError, LabelValueError, SizeMismatchError
from paddleseg.datasets.listing import Listing
from paddleseg.transforms import Compose
from paddleseg.transforms.image_io import JPEG_START, PNG_START, read_image, read_label

MODES = ("train", "val", "test")
# Turns masks of colors or grey values into masks of class indices.
INDEX_MASKS = "tools/index_masks.py"
_FOREGROUND = f"if 255 is the foreground, make it class 1 by `python {INDEX_MASKS} MASKS LABELS --colors 0 255`"
NO_FOREGROUND = f"so nothing but class 0 counts; {_FOREGROUND}"
# A hint at values above the last class, in a data set whose classes are its user's.
OWN_CLASSES = (f"; if they are classes, num_classes must be above them; if they are grey values, {INDEX_MASKS} turns "
               "them into classes")


@dataclass(frozen=True)
class LabelValues:
    """The legal values of label files.

    Attributes:
        legal: (256,) bool.
        meaning: the legal values in words.
        hint: what may be wrong where the file doesn't tell.
        classes: the class index of each value, (256,) uint8; None where values are class indices.
    """

    legal: np.ndarray
    meaning: str
    hint: str = ""
    classes: Optional[np.ndarray] = None

    @classmethod
    def indices(cls, num_classes: int, ignore_index: int = 255, hint: str = "") -> "LabelValues":
        """Values are class indices or `ignore_index`."""
        legal = np.arange(256) < num_classes
        legal[ignore_index] = True
        return cls(legal, f"0..{num_classes - 1} and {ignore_index} (ignored)", hint)

    @classmethod
    def indices_from_one(cls, num_classes: int) -> "LabelValues":
        """Value 0 is no class, and classes start at 1: mmsegmentation's reduce_zero_label."""
        values = np.arange(256)
        classes = np.where((values > 0) & (values <= num_classes), values - 1, 255).astype(np.uint8)
        return cls((values <= num_classes) | (values == 255), f"0 (no class), 1..{num_classes} and 255 (ignored)",
                   classes=classes)

    def read(self, path: str) -> np.ndarray:
        """Read a label as (H, W) uint8 class indices.

        Raises:
            LabelValueError: it holds values that are not legal; names them.
        """
        label = read_label(path)
        if self.legal[label].all():
            return label if self.classes is None else self.classes[label]
        values = np.unique(label[~self.legal[label]]).tolist()
        shown = ", ".join(map(str, values[:10])) + (f", ... ({len(values)} values)" if len(values) > 10 else "")
        raise LabelValueError(f"{path} holds {{{shown}}}; legal are {self.meaning}"
                              f"{_hint_of_file(path, values) or self.hint}")


def _hint_of_file(path: str, values: Sequence[int]) -> str:
    """Guess what the illegal values of a file are, and what turns them into classes; empty if unknown."""
    with open(path, "rb") as file:
        header = file.read(26)
    if header.startswith(JPEG_START):
        return "; JPEG blurs values, so save labels as PNG from the program that made them"
    if header.startswith(PNG_START) and header[25:] == b"\3":  # color type
        return f"; if the indices of its palette aren't classes, {INDEX_MASKS} turns its colors into classes"
    return f"; {_FOREGROUND}" if values == [255] else ""


def own_label_values(num_classes: int, ignore_index: int) -> Dict[str, LabelValues]:
    """`BaseDataset.label_values` where the classes are the user's."""
    return {"": LabelValues.indices(num_classes, ignore_index, OWN_CLASSES)}


def read_classes(label_values: Dict[str, LabelValues], path: str) -> np.ndarray:
    """Read a label as (H, W) uint8 class indices by the LabelValues of the ending of its name."""
    return next(values for ending, values in label_values.items() if path.endswith(ending)).read(path)


def read_pair(pair: Sequence[str], label_reader: Callable[[str], np.ndarray],
              line: str = "") -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Read [image, label] or [image]; (H, W, 3) RGB and (H, W) uint8, or None for no label.

    Args:
        line: `list file:line`, which errors name.

    Raises:
        DataError: a file can't be read.
        SizeMismatchError: the two differ in height or width.
    """
    try:
        image = read_image(pair[0])
        label = label_reader(pair[1]) if len(pair) == 2 else None
        if label is not None and label.shape != image.shape[:2]:
            sizes = [f"{height}x{width}" for height, width in (image.shape[:2], label.shape)]
            hint = "write both at one size"
            if label.shape == image.shape[1::-1]:
                hint = ("an EXIF orientation, by which the image may have been shown when it was labelled, isn't "
                        "applied: save the image turned")
            raise SizeMismatchError(f"{pair[0]} is {sizes[0]} (height x width) but its label {pair[1]} is "
                                    f"{sizes[1]}; {hint}")
    except DataError as error:
        if not line:
            raise
        raise type(error)(f"{error} ({line})") from error
    return image, label


class BaseDataset:
    """A list of image and label files, read, checked and transformed one by one.

    A subclass calls `set_samples`, and states the attributes below. Where the classes don't depend on arguments, those
    are class attributes, which others ask for without files.

    Attributes:
        mode: "train", "val" or "test".
        file_list: [image, label] of each sample, or [image].
        transforms: a Compose.
        num_classes, ignore_index, class_names, palette ((num_classes, 3) uint8).
        label_values: LabelValues by the ending of a label's name; the first that fits holds. Without, values
            are class indices.
    """

    lines = ()  # `list file:line` of each sample, where a list file names them
    cached = None
    label_values: Dict[str, LabelValues] = {}
    # Opens a cache of (folder, data set, root); set by `datasets.cache`, which this file doesn't import.
    open_cache: Callable

    def set_samples(self, listing: Listing, transforms: Sequence, mode: str, root: str,
                    cache: Optional[str] = None) -> None:
        """Take the files of a listing, or in their place the samples of a cache.

        Args:
            root: the folder of the data set.
            cache: a folder of tools/cache_dataset.py.

        Raises:
            DataError: the listing has errors; the first of them. Or the cache is missing, damaged, or not made from
                these files by these rules.
        """
        listing.raise_first_error()
        self.file_list, self.lines = listing.pairs, listing.lines
        self.verified_files = listing.pairs  # known to exist, unlike another list that is put in their place
        self.transforms = Compose(transforms)
        self.mode = mode
        if cache is not None:
            self.cached = self.open_cache(cache, self, root)

    def reading_rules(self) -> dict:
        """The facts, beside the files, that decide what is read from them; as JSON has it.

        A cache is made by one set of rules. A subclass with a `read_label` of its own adds what that depends on.
        """
        return {"dataset": type(self).__name__, "num_classes": self.num_classes, "ignore_index": self.ignore_index}

    def read_label(self, path: str) -> np.ndarray:
        """The label in `path` as (H, W) uint8 classes, its values checked."""
        return read_classes(self.label_values or own_label_values(self.num_classes, self.ignore_index), path)

    def read_files(self, index: int) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Image and label of a sample from their files, as `read_pair`."""
        return read_pair(self.file_list[index], self.read_label, self.lines[index] if self.lines else "")

    def name_of(self, index: int) -> str:
        """The image's path and, where a list file names it, that file and line."""
        return self.file_list[index][0] + (f" ({self.lines[index]})" if self.lines else "")

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """Read and transform one sample.

        In training the geometric transforms move the label too (`gt_fields`); in
        validation it keeps the size of its file, since that is what a score counts.
        Arrays from a cache are read-only.

        Raises:
            DataError: a file is unreadable, its label's values are not legal, or sizes differ; or a cache is damaged.
        """
        image, label = self.read_files(index) if self.cached is None else self.cached.read(index)
        data = {"img": image, "path": self.file_list[index][0], "gt_fields": [], "trans_info": [], "rng": rng}
        if label is not None:
            data["label"] = label
            if self.mode == "train":
                data["gt_fields"] = ["label"]
        return self.transforms.run(data)

    def __getitem__(self, index: int) -> dict:
        return self.sample(index, np.random.default_rng())

    def __len__(self) -> int:
        return len(self.file_list)


class PublicDataset(BaseDataset):
    """A data set whose classes and layout are known; a subclass states both, and `find`.

    Args:
        transforms: applied to each sample in order.
        dataset_root: the folder that the subclass's file describes.
        mode: "train", "val" or "test" (images only).
        cache: the folder in which tools/cache_dataset.py has decoded the files; None reads the files.

    Raises:
        ConfigError: mode is none of the three.
        DataError: a folder, a list, an image or a label is missing, or the cache can't be used.
    """

    find: Callable[[str, str], Listing]  # of (root, mode)

    def __init__(self, transforms: Sequence, dataset_root: str, mode: str = "train", cache: Optional[str] = None):
        mode = parse_mode(mode)
        self.set_samples(self.find(dataset_root, mode), transforms, mode, dataset_root, cache)


def parse_mode(mode: str) -> str:
    """`mode` in lower case; a ConfigError if it is not a split."""
    if str(mode).lower() not in MODES:
        raise ConfigError(f"mode: {mode} is not one of {', '.join(MODES)}")
    return str(mode).lower()
