"""A split of a data set, decoded once into a file that is mapped into memory.

    <cache>/<mode>/pixels.bin   each sample's image, (H, W, 3) RGB, and label, (H, W), as bytes
    <cache>/<mode>/index.json   what they were made from, where they lie, and their checksums
    <cache>/<mode>/SHA256SUMS   of both

It is made by tools/cache_dataset.py and belongs to the files, sizes and times of change that it was made from, in
their order, and to the rules by which their labels are read. When it is opened, all that is compared; a sample's
bytes are compared with their checksum when a run reads it first.
"""

import copy
import json
import mmap
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.errors import DataError, RunError, SegError
from paddleseg.datasets.base import BaseDataset, read_pair
from paddleseg.transforms.image_io import image_size
from paddleseg.utils import files
from paddleseg.utils.files import atomic_directory, atomic_path, damage, write_sums
from paddleseg.utils.parallel import map_parallel

INDEX, PIXELS = "index.json", "pixels.bin"
FORMAT = 1  # of the files; raise it too when image_io makes other pixels of a file
_PAGE = 4096  # bytes; each array begins at a multiple


@dataclass
class Entry:
    """One sample.

    Attributes:
        files: [path relative to the data set's root, bytes, time of change in ns] of the image, and the label if any.
        size: (height, width).
        offsets: in bytes, of image and label.
        sums: their CRC-32.
    """

    files: List[list]
    size: List[int]
    offsets: List[int]
    sums: List[int]


def facts_of(pair: Sequence[str], root: str) -> List[list]:
    """Return the facts that identify a sample's files; a missing file has no size."""
    facts = []
    for path in pair:
        state = os.stat(path) if os.path.isfile(path) else None
        facts.append([os.path.relpath(path, root), state and state.st_size, state and state.st_mtime_ns])
    return facts


# ---- reading --------------------------------------------------------------------------------------

class Cache:
    """The cache of a data set's split, known to be made from its files.

    Args:
        directory: that holds a folder for each mode.
        dataset: with `mode`, `file_list` and `reading_rules()`.
        root: the data set's folder.

    Raises:
        DataError: it is missing, damaged, cut off, or made from something else; says how to make it.
    """

    def __init__(self, directory: str, dataset, root: str):
        self.folder = os.path.join(directory, dataset.mode)
        self.remedy = (f"make it by `python tools/cache_dataset.py --config FILE --split {dataset.mode} --cache_dir "
                       f"{directory}`")
        if not os.path.isdir(self.folder):
            raise DataError(f"cache: {self.folder} is not there; {self.remedy}")
        error = damage(self.folder, [INDEX]) or self._open(dataset, root)
        if error:
            raise DataError(f"cache: {self.folder}: {error}; {self.remedy}")
        # Shared by the processes that are forked from this one, so that a sample is compared once in a run.
        self.compared = np.ndarray(len(self.entries), np.uint8, mmap.mmap(-1, max(1, len(self.entries))))

    def _open(self, dataset, root: str) -> Optional[str]:
        """Map the file if it fits the data set, or say why it doesn't."""
        with open(os.path.join(self.folder, INDEX), encoding="utf-8") as file:
            index = json.load(file)
        if index.get("format") != FORMAT:
            return f"it was made by another version of this toolkit (format {index.get('format')}, not {FORMAT})"
        self.entries = [Entry(**entry) for entry in index["entries"]]
        change = (_changed_rule(index["rules"], dataset.reading_rules())
                  or _changed_file([entry.files for entry in self.entries], dataset.file_list, root))
        if change:
            return f"it is stale: {change}"
        try:
            with open(os.path.join(self.folder, PIXELS), "rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != index["bytes"]:
                    return f"{PIXELS} is truncated or damaged: it has {found} of {index['bytes']} bytes"
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            return f"{PIXELS} can't be read ({error.strerror or error})"
        return None

    def read(self, place: int) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """The image, (H, W, 3) RGB, and the label, (H, W), or None; uint8, read-only, mapped and not copied.

        Raises:
            DataError: the bytes aren't those that were written.
        """
        entry = self.entries[place]
        shapes = ((*entry.size, 3), tuple(entry.size))
        arrays = [np.frombuffer(self.bytes, np.uint8, np.prod(shape), offset).reshape(shape)
                  for shape, offset in zip(shapes, entry.offsets)]
        if not self.compared[place]:
            if [zlib.crc32(array) for array in arrays] != entry.sums:
                raise DataError(f"cache: {os.path.join(self.folder, PIXELS)} is damaged: the bytes of "
                                f"{entry.files[0][0]} are not those that were written; {self.remedy}")
            self.compared[place] = 1
        return arrays[0], arrays[1] if len(arrays) == 2 else None


BaseDataset.open_cache = Cache


def _changed_rule(before: dict, now: dict) -> Optional[str]:
    """The first rule for reading labels that has changed since the files were cached, or None."""
    return next((f"{key} was {before.get(key)} and is {now.get(key)}" for key in {**before, **now}
                 if before.get(key) != now.get(key)), None)


def _changed_file(cached: List[List[list]], file_list: Sequence[Sequence[str]], root: str) -> Optional[str]:
    """The first file that has changed since, or None."""
    for before, pair in zip(cached, file_list):
        now = facts_of(pair, root)
        names_before, names_now = ([path for path, _, _ in facts] for facts in (before, now))
        if names_before != names_now:
            return f"it holds {' '.join(names_before)} where the data set lists {' '.join(names_now)}"
        if before != now:
            return f"{next(path for path, fact, old in zip(pair, now, before) if fact != old)} has changed since"
    if len(cached) != len(file_list):
        return f"it holds {len(cached)} samples, and the data set lists {len(file_list)}"
    return None


# ---- writing --------------------------------------------------------------------------------------

def write_cache(dataset, directory: str, root: str, num_workers: int) -> int:
    """Decode a data set's files into a cache, in place of an older one; returns its bytes.

    A crash leaves the older one, or none.

    Raises:
        DataError: a file is unreadable, its label's values are not legal, or sizes differ.
        RunError: the disk has too little room or can't be written to, or another process writes there.
    """
    folder = os.path.join(directory, dataset.mode)
    entries, total = _lay_out(dataset, root)
    try:
        os.makedirs(directory, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY)
        try:
            if not files.lock(lock):
                raise RunError(f"--cache_dir {directory}: another process writes a cache there; wait for it, or name "
                               f"another")
            with atomic_directory(folder) as temporary:
                _reserve(temporary, folder, total)
                _fill(dataset, os.path.join(temporary, PIXELS), entries, num_workers)
                with atomic_path(os.path.join(temporary, INDEX)) as path, open(path, "w", encoding="utf-8") as file:
                    json.dump({"format": FORMAT, "rules": dataset.reading_rules(), "bytes": total,
                               "entries": [asdict(entry) for entry in entries]}, file)
                write_sums(temporary)
        finally:
            os.close(lock)
    except OSError as error:
        raise RunError(f"--cache_dir {directory} can't be written to ({error.strerror or error}); make room there, "
                       f"or name another") from error
    return total


def _lay_out(dataset, root: str) -> Tuple[List[Entry], int]:
    """Return the position of each sample, and the bytes of all."""
    entries, end = [], 0
    for pair in dataset.file_list:
        height, width = image_size(pair[0])
        offsets = []
        for size in (3 * height * width, height * width)[:len(pair)]:
            offsets.append(end)
            end += -(-size // _PAGE) * _PAGE
        entries.append(Entry(facts_of(pair, root), [height, width], offsets, []))
    return entries, end


def _reserve(temporary: str, folder: str, total: int) -> None:
    """Make the file of the pixels at its full size, so that a full disk shows before the work, not after.

    Raises:
        RunError: there is too little room.
    """
    free = shutil.disk_usage(temporary).free
    if total > free:
        needed, room = (f"{size / 2 ** 30:.3g} GiB" for size in (total, free))
        raise RunError(f"{folder} needs {needed}, and its disk has {room} free; make room, or name another --cache_dir")
    with open(os.path.join(temporary, PIXELS), "wb") as file:
        file.truncate(total)
        if hasattr(os, "posix_fallocate"):  # macOS has none, and finds a full disk while it writes
            os.posix_fallocate(file.fileno(), 0, total)


def _fill(dataset, path: str, entries: List[Entry], num_workers: int) -> None:
    """Write every sample to its place, and its checksums into its entry."""
    reader = copy.copy(dataset)
    for name in ("file_list", "verified_files", "lines", "transforms"):  # each process is sent the rest, with its tasks
        vars(reader).pop(name, None)
    lines = dataset.lines or [""] * len(dataset)
    tasks = [(pair, line, entry.size, entry.offsets) for pair, line, entry in zip(dataset.file_list, lines, entries)]
    results = list(map_parallel(partial(_store, reader, path), tasks, num_workers, "decoding"))
    errors = [result for result in results if isinstance(result, SegError)]
    if errors:
        others = f"; {len(errors) - 1} more errors, which tools/check_data.py lists" if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{others}; no cache was written")
    for entry, sums in zip(entries, results):
        entry.sums = sums
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _store(reader, path: str, task: tuple):
    """Decode one sample and write it to its place; returns its checksums, or its error."""
    pair, line, size, offsets = task
    try:
        found = read_pair(pair, reader.read_label, line)
        arrays = [np.ascontiguousarray(array) for array in found if array is not None]
        if list(arrays[0].shape[:2]) != size:
            raise DataError(f"{pair[0]} is {arrays[0].shape[0]}x{arrays[0].shape[1]} (height x width), but its header "
                            f"says {size[0]}x{size[1]}")
        with open(path, "r+b") as file:
            for array, offset in zip(arrays, offsets):
                file.seek(offset)
                file.write(array)
        return [zlib.crc32(array) for array in arrays]
    except SegError as error:
        return error
    except OSError as error:
        return RunError(f"{path} can't be written ({error.strerror or error})")
