"""The files that are meant: those below a folder, those that a list file names, and the names of results.

deploy/infer.py, which imports nothing of this package, has copies of `list_images`, `result_names` and what they call;
tests/test_deploy.py holds them equal.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable, List, Sequence, Tuple

from paddleseg.cvlibs.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Both paths of a line end in an image suffix, so the separator is what follows the first of them: folders may then
# hold blanks or commas whatever the separator is.
_SUFFIX = r"\.(?:png|jpe?g|bmp|tiff?|webp)"
LIST_LINE = re.compile(rf"(.+?{_SUFFIX})(?:\s*[,;\s]\s*(\S.*{_SUFFIX}))?", re.IGNORECASE)


# ---- images and results ----------------------------------------------------------------------------------

def files_below(folder: str, endings: Sequence[str] = IMAGE_SUFFIXES) -> List[str]:
    """The files in a folder, and in all below it, whose names end so, by path; capitals don't count."""
    found = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
             if name.lower().endswith(tuple(endings))]
    return sorted(found, key=lambda path: path.split(os.sep))


def list_images(path: str) -> Tuple[List[str], str]:
    """The images that `--image_path` means, and the directory that their results' paths are relative to.

    Args:
        path: an image, a directory (with all below it), or a list file with an image a line, relative to
            the list's directory; what follows the first blank or comma of a line (a label) is ignored.

    Raises:
        DataError: nothing is there.
    """
    if os.path.isdir(path):
        images = files_below(path)
        if not images:
            raise DataError(f"{path}: no image below it (looked for {', '.join(IMAGE_SUFFIXES)})")
        return images, path
    if not os.path.exists(path):
        raise DataError(f"--image_path {path}: no such image, directory or list file")
    if path.lower().endswith(IMAGE_SUFFIXES):
        return [path], os.path.dirname(path)
    images = read_image_list(path)
    folders = [os.path.dirname(os.path.abspath(name)) for name in (path, *images)]
    root = folders[0]
    if os.path.commonpath(folders) != root:  # a list may lie elsewhere than its images
        root = os.path.commonpath(folders[1:])
    return images, root


def read_image_list(path: str) -> List[str]:
    """The image of each line of a list file: all of it, or what stands before a comma or a blank and the label."""
    root, images = os.path.dirname(path), []
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in file]
    for number, line in enumerate(lines, 1):
        names = [line, line.split(",")[0].strip(), *line.split()[:1]]
        found = [os.path.join(root, name) for name in names if name and os.path.isfile(os.path.join(root, name))]
        if line and not found:
            raise DataError(f"{path}:{number}: {names[-1]} is not an image below {root or '.'}")
        images += found[:1]
    if not images:
        raise DataError(f"{path}: the list names no image")
    return images


def result_names(images: Sequence[str], root: str) -> List[str]:
    """Return each image's result path below an output directory: its path below `root`, as PNG.

    a.jpg becomes a.png; where a.jpg and a.bmp stand side by side, a.jpg.png and a.bmp.png. If a.jpg.png stands there
    too, every name is made so.
    """
    relative = [os.path.relpath(image, root or ".") for image in images]
    files = set(relative)  # a list may name an image twice
    stems = Counter(os.path.splitext(path)[0] for path in files)
    name_of = {path: (os.path.splitext(path)[0] if stems[os.path.splitext(path)[0]] == 1 else path) + ".png"
               for path in files}
    if len(set(name_of.values())) < len(files):
        name_of = {path: path + ".png" for path in files}
    return [name_of[path] for path in relative]


# ---- samples ---------------------------------------------------------------------------------------------

@dataclass
class Listing:
    """The files of one split, and what is wrong with them.

    Attributes:
        pairs: [image, label] of each sample, or [image] where it has no label.
        lines: `list file:line` of each pair; empty where no list file names them.
        errors: one for each line or file that can't be used, in order.
    """

    pairs: List[List[str]] = field(default_factory=list)
    lines: List[str] = field(default_factory=list)
    errors: List[DataError] = field(default_factory=list)

    def extend(self, other: "Listing") -> None:
        """Add what another list file names."""
        self.pairs += other.pairs
        self.lines += other.lines
        self.errors += other.errors

    def raise_first_error(self) -> None:
        """Raise the first error, with the number of the others."""
        if self.errors:
            first, others = self.errors[0], len(self.errors) - 1
            more = f"; {others} more errors, which tools/check_data.py lists" if others else ""
            raise type(first)(f"{first}{more}")


def read_listing(list_path: str, root: str, mode: str, split_line: Callable[[str], List[str]]) -> Listing:
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
            for path in pair:
                if not os.path.isfile(path):
                    raise ValueError(f"names {path}, which is not a file")
        except ValueError as error:
            listing.errors.append(DataError(f"{list_path}:{number} {error}"))
            continue
        listing.pairs.append(pair)
        listing.lines.append(f"{list_path}:{number}")
    if not listing.pairs and not listing.errors:
        raise DataError(f"{list_path} is empty; write it with tools/create_dataset_list.py")
    return listing


def split_image_line(line: str) -> List[str]:
    """The one or two image files of a line, whatever separates them."""
    match = LIST_LINE.fullmatch(line.rstrip(" ,;\t"))
    if match is None:
        raise ValueError(f"is not `image,label` or `image label` with image files: {line}")
    return [path for path in match.groups() if path is not None]


def split_separated_line(separator: str, line: str) -> List[str]:
    """The one or two paths of a line; a blank separator stands for any run of blanks."""
    is_blank = not separator.strip()
    items = [item.strip() for item in line.split(None if is_blank else separator) if item.strip()]
    if len(items) > 2:
        other = '","' if is_blank else '"|"'
        raise ValueError(f"splits into {len(items)} paths at separator {separator!r}; where paths hold it themselves, "
                         f"write another one between them and set separator: {other}: {line}")
    if len(items) == 1 and is_blank and "," in line:
        raise ValueError(f'has a comma but no blank; set separator: ",": {line}')
    names = line.split()
    if len(items) == 1 and not is_blank and len(names) == 2 and all(os.path.splitext(name)[1] for name in names):
        raise ValueError(f'has a blank but no {separator!r}; set separator: " ": {line}')
    if not items:
        raise ValueError(f"names no file: {line}")
    return items
