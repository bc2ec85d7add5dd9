"""Checksums beside the files of a checkpoint, in the format of sha256sum(1).

    cd output/iter_1000 && sha256sum -c SHA256SUMS
"""

import hashlib
import os
import re
from typing import Dict, Optional, Sequence

from paddleseg.utils.atomic import atomic_path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


def write_sums(directory: str) -> None:
    """List the files of a directory with their SHA-256."""
    names = sorted(name for name in os.listdir(directory) if name != SUMS and not name.startswith("."))
    with atomic_path(os.path.join(directory, SUMS)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{sha256(os.path.join(directory, name))}  {name}\n" for name in names)


def damage(directory: str, names: Sequence[str]) -> Optional[str]:
    """What is wrong with these files, in words to stand behind the directory's name; None if nothing is."""
    for name in (*names, SUMS):
        if not os.path.isfile(os.path.join(directory, name)):
            return f"{name} is missing"
    try:
        sums = _read_sums(directory)
        for name in names:
            if name not in sums:
                return f"{SUMS} doesn't list {name}"
            if sha256(os.path.join(directory, name)) != sums[name]:
                return f"{name} is damaged: it isn't the file whose checksum {SUMS} holds"
    except (OSError, UnicodeDecodeError) as error:
        return f"can't be read ({error})"
    return None


def is_listed(path: str) -> bool:
    """Whether checksums lie beside a file that name it."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        return name in _read_sums(folder)
    except (OSError, UnicodeDecodeError):
        return False


def sha256(path: str) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_sums(directory: str) -> Dict[str, str]:
    with open(os.path.join(directory, SUMS), encoding="utf-8") as file:
        found = (_LINE.fullmatch(line.rstrip("\n")) for line in file)
        return {match.group(2): match.group(1) for match in found if match}
