"""What every data set shares: its list of files, the checked reading of a pair, the sample.

H and W are an image's height and width.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError, LabelValueError, SizeMismatchError
from paddleseg.datasets.cache import Cache
from paddleseg.transforms import Compose
from paddleseg.transforms.fast_png import START as PNG_START
from paddleseg.transforms.image_io import read_image, read_label

MODES = ("train", "val", "test")
# Turns masks of colors or grey values into masks of class indices.
INDEX_MASKS = "tools/index_masks.py"
_FOREGROUND = f"if 255 is the foreground, make it class 1 by `python {INDEX_MASKS} MASKS LABELS --colors 0 255`"
NO_FOREGROUND = f"so nothing but class 0 counts; {_FOREGROUND}"
# What values above the last class may be, in a data set whose classes are its user's.
OWN_CLASSES = (f"; if they are classes, num_classes must be above them; if they are grey values, {INDEX_MASKS} turns "
               "them into classes")
_JPEG_START = b"\xff\xd8\xff"


@dataclass
class Listing:
    """The files of one split, and what is wrong with them.

    Attributes:
        pairs: [image, label] of each sample, or [image] where it has no label.
        lines: `list file:line` of each pair; empty where no list file names them.
        faults: one error per line or file that can't be used, in order.
    """

    pairs: List[List[str]] = field(default_factory=list)
    lines: List[str] = field(default_factory=list)
    faults: List[DataError] = field(default_factory=list)

    def line_of(self, index: int) -> str:
        """`list file:line` of a sample, empty where no list file names it."""
        return self.lines[index] if self.lines else ""

    def extend(self, other: "Listing") -> None:
        """Add what another list file names."""
        self.pairs += other.pairs
        self.lines += other.lines
        self.faults += other.faults

    def raise_first_fault(self) -> None:
        """Raise the first fault, with the number of the others."""
        if not self.faults:
            return
        first, others = self.faults[0], len(self.faults) - 1
        if not others:
            raise first
        raise type(first)(f"{first}; {others} more faults, which tools/check_data.py lists")


def parse_mode(mode: str) -> str:
    """`mode` in lower case; a ConfigError if it is not a split."""
    if str(mode).lower() not in MODES:
        raise ConfigError(f"mode: {mode} is not one of {', '.join(MODES)}")
    return str(mode).lower()


def read_listing(list_path: str, root: str, mode: str,
                 split_line: Callable[[str], List[str]]) -> Listing:
    """Read a list file: one sample a line, paths relative to `root`, blank lines skipped.

    Args:
        split_line: the paths in a line; raises a ValueError that says why it can't tell.
        mode: lines of "train" and "val" must name a label.

    Raises:
        DataError: the list file can't be read, or names nothing.
    """
    try:
        with open(list_path, encoding="utf-8-sig") as lines:
            text = lines.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        hint = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{list_path}: can't be read as a list of files ({error}){hint}") from error
    listing = Listing()
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            pair = [os.path.join(root, path) for path in split_line(line.strip())]
            if len(pair) == 1 and mode != "test":
                raise ValueError(f"names no label, which mode {mode} needs: {line.strip()}")
        except ValueError as error:
            listing.faults.append(DataError(f"{list_path}:{number} {error}"))
            continue
        missing = [path for path in pair if not os.path.isfile(path)]
        if missing:
            listing.faults.append(DataError(f"{list_path}:{number} names {missing[0]}, which is not a file"))
            continue
        listing.pairs.append(pair)
        listing.lines.append(f"{list_path}:{number}")
    if not listing.pairs and not listing.faults:
        raise DataError(f"{list_path} is empty; write it with tools/create_dataset_list.py")
    return listing


def refuse_values(path: str, label: np.ndarray, legal: np.ndarray, meaning: str, remedy: str = "") -> None:
    """Raise a LabelValueError naming the values of `label` that are not legal.

    Args:
        label: (H, W) uint8.
        legal: (256,) bool.
        meaning: the legal values in words.
        remedy: what may be wrong where the file doesn't tell.
    """
    if legal[label].all():
        return
    values = np.unique(label[~legal[label]]).tolist()
    shown = ", ".join(map(str, values[:10])) + (f", ... ({len(values)} values)" if len(values) > 10 else "")
    raise LabelValueError(f"{path} holds {{{shown}}}; legal are {meaning}{_way_out(path, values) or remedy}")


def _way_out(path: str, values: Sequence[int]) -> str:
    """What the values are likely to be instead of classes, and what turns them into classes; empty if unknown."""
    with open(path, "rb") as file:
        header = file.read(26)
    if header.startswith(_JPEG_START):
        return "; JPEG blurs values, so save labels as PNG from the program that made them"
    if header.startswith(PNG_START) and header[25:] == b"\3":  # color type
        return f"; if the indices of its palette aren't classes, {INDEX_MASKS} turns its colors into classes"
    if values == [255]:
        return f"; {_FOREGROUND}"
    return ""


def read_indices_from_one(path: str, num_classes: int) -> np.ndarray:
    """Read a label whose value 0 is no class and whose classes start at 1; (H, W) uint8, 0..num_classes - 1 and 255.

    That is mmsegmentation's reduce_zero_label.
    """
    label = read_label(path)
    table = np.full(256, 255, dtype=np.uint8)
    table[1:num_classes + 1] = np.arange(num_classes)
    legal = np.zeros(256, dtype=bool)
    legal[:num_classes + 1] = legal[255] = True
    refuse_values(path, label, legal, f"0 (no class), 1..{num_classes} and 255 (ignored)")
    return table[label]


def read_class_indices(path: str, num_classes: int, ignore_index: int, remedy: str = "") -> np.ndarray:
    """Read a label whose values are classes or `ignore_index`; (H, W) uint8. For `remedy` see `refuse_values`."""
    label = read_label(path)
    legal = np.zeros(256, dtype=bool)
    legal[:num_classes] = True
    legal[ignore_index] = True
    refuse_values(path, label, legal, f"0..{num_classes - 1} and {ignore_index} (ignored)", remedy)
    return label


def read_pair(pair: Sequence[str], label_reader: Callable[[str], np.ndarray]
              ) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Read [image, label] or [image]; (H, W, 3) RGB and (H, W) uint8, or None for no label.

    Raises:
        SizeMismatchError: the two differ in height or width.
    """
    image = read_image(pair[0])
    if len(pair) == 1:
        return image, None
    label = label_reader(pair[1])
    if label.shape != image.shape[:2]:
        sizes = [f"{height}x{width}" for height, width in (image.shape[:2], label.shape)]
        hint = "write both at one size"
        if label.shape == image.shape[1::-1]:
            hint = ("an EXIF orientation, by which the image may have been shown when it was labelled, isn't applied: "
                    "save the image turned")
        raise SizeMismatchError(f"{pair[0]} is {sizes[0]} (height x width) but its label {pair[1]} is "
                                f"{sizes[1]}; {hint}")
    return image, label


@contextmanager
def naming_line(line: str):
    """Add the `list file:line` of a sample to the DataErrors raised inside."""
    try:
        yield
    except DataError as error:
        if not line:
            raise
        raise type(error)(f"{error} ({line})") from error


class BaseDataset:
    """A list of image and label files, read, checked and transformed one by one.

    A subclass sets the attributes, from a Listing through `set_samples`, or `file_list` by itself, and then may
    `use_cache`. Where the classes don't depend on arguments, their number, ignore index, names and palette are class
    attributes, which others ask for without files.

    Attributes:
        mode: "train", "val" or "test".
        file_list: [image, label] of each sample, or [image].
        transforms: a Compose.
        num_classes, ignore_index, class_names, palette ((num_classes, 3) uint8).
    """

    listing = Listing()
    cached: Optional[Cache] = None

    def set_samples(self, listing: Listing, transforms: Sequence, mode: str) -> None:
        """Take the files of a faultless listing.

        Raises:
            DataError: the listing has faults; the first of them.
        """
        listing.raise_first_fault()
        self.listing = listing
        self.file_list = listing.pairs
        self.transforms = Compose(transforms)
        self.mode = mode

    def use_cache(self, directory: Optional[str], root: str) -> None:
        """Take the samples from a cache in place of their files; None for no cache.

        Args:
            root: the folder of the data set.

        Raises:
            DataError: the cache is missing, damaged, or not made from these files by these rules.
        """
        if directory is not None:
            self.cached = Cache(directory, self, root)

    def reading_rules(self) -> dict:
        """What decides, beside the files, what is read from them; as JSON has it.

        A cache is made by one set of rules. A subclass with a `read_label` of its own adds what that depends on.
        """
        return {"dataset": type(self).__name__, "num_classes": self.num_classes, "ignore_index": self.ignore_index}

    def read_label(self, path: str) -> np.ndarray:
        """The label in `path` as (H, W) uint8 classes, its values checked."""
        return read_class_indices(path, self.num_classes, self.ignore_index, OWN_CLASSES)

    def read_files(self, pair: Sequence[str], line: str = "") -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Image and label from their files, as `read_pair`; errors name the line of the list."""
        with naming_line(line):
            return read_pair(pair, self.read_label)

    def name_of(self, index: int) -> str:
        """The image's path and, where a list file names it, that file and line."""
        line = self.listing.line_of(index)
        return self.file_list[index][0] + (f" ({line})" if line else "")

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """Read and transform one sample.

        In training the geometric transforms move the label too (`gt_fields`); in
        validation it keeps the size of its file, since that is what a score counts.
        Arrays from a cache are read-only.

        Raises:
            DataError: a file is unreadable, its label's values are not legal, or sizes differ; or a cache is damaged.
        """
        if self.cached is None:
            image, label = self.read_files(self.file_list[index], self.listing.line_of(index))
        else:
            image, label = self.cached.read(index)
        data = {"img": image, "path": self.file_list[index][0], "gt_fields": [], "trans_info": [], "rng": rng}
        if label is not None:
            data["label"] = label
            if self.mode == "train":
                data["gt_fields"] = ["label"]
        return self.transforms(data)

    def __getitem__(self, index: int) -> dict:
        return self.sample(index, np.random.default_rng())

    def __len__(self) -> int:
        return len(self.file_list)
