"""Files and directories that are whole or absent, after a crash or a power cut too; checksums; locks.

Checksums lie beside the files of a directory, in the format of sha256sum(1):

    cd output/iter_1000 && sha256sum -c SHA256SUMS
"""

import contextlib
import hashlib
import os
import re
import shutil
from typing import Collection, Dict, Iterator, Optional, Sequence, Set

TEMPORARY, BACKUP = ".tmp", ".old"
SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """Yield a temporary name to write to; it becomes `path` when the block succeeds, and is removed otherwise.

    Whoever reads `path`, after a crash too, finds the old file or the whole new one.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def atomic_directory(path: str) -> Iterator[str]:
    """Yield a temporary directory to fill; it becomes `path`, in place of an older one, when the block succeeds.

    The files in it are synced by whoever writes them, as `atomic_path` does. A crash between the two renames
    leaves the older one as `path`.old: see `restore_backup`.
    """
    temporary = path + TEMPORARY
    restore_backup(path)
    remove_tree(temporary)
    os.makedirs(temporary)
    try:
        yield temporary
        _sync(temporary)
        if os.path.exists(path):
            os.rename(path, path + BACKUP)
        os.rename(temporary, path)
        _sync(os.path.dirname(os.path.abspath(path)))
    except BaseException:
        remove_tree(temporary)
        restore_backup(path)
        raise
    remove_tree(path + BACKUP)


def restore_backup(path: str) -> None:
    """Undo the replacement of a directory that was cut off, or remove what it left."""
    if os.path.isdir(path + BACKUP):
        if os.path.exists(path):
            remove_tree(path + BACKUP)
        else:
            os.rename(path + BACKUP, path)


def remove_directory(path: str) -> None:
    """Remove a directory so that a crash halfway leaves no part of it under its name."""
    remove_tree(path + TEMPORARY)
    os.rename(path, path + TEMPORARY)
    remove_tree(path + TEMPORARY)


def remove_tree(path: str) -> None:
    """Remove a directory if it is there; of a link to one, the link."""
    if os.path.islink(path):
        os.remove(path)
    elif os.path.exists(path):
        shutil.rmtree(path)


def remove_leftovers(folder: str) -> None:
    """Remove what a crash within `atomic_path` left in a folder that nobody writes to now."""
    for name in os.listdir(folder):
        if re.fullmatch(rf"\..+\.\d+{re.escape(TEMPORARY)}", name):
            os.remove(os.path.join(folder, name))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, wait: bool = False) -> bool:
    """Lock an open file or directory until it is closed; returns False if another process holds it.

    The system releases the lock when this process ends, however it ends. Raises OSError on a file system without locks.
    """
    import fcntl  # not on Windows, where everything but downloads, caches and training works

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_locked: Set[int] = set()  # descriptors of this process's locked directories


@contextlib.contextmanager
def locked_directory(path: str) -> Iterator[bool]:
    """Lock a directory inside the block; yields False if another process holds it.

    Processes that this one forks don't hold it, so that one that outlives it for a moment keeps nobody out.
    """
    folder = os.open(path, os.O_RDONLY)
    _locked.add(folder)
    try:
        try:
            is_free = lock(folder)
        except OSError:  # a file system without locks
            is_free = True
        yield is_free
    finally:
        _locked.discard(folder)
        os.close(folder)


def _unlock_in_child() -> None:
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unlock_in_child)


def sha256(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_sums(directory: str) -> None:
    """List the files of a directory with their SHA-256."""
    names = sorted(name for name in os.listdir(directory) if name != SUMS and not name.startswith("."))
    with atomic_path(os.path.join(directory, SUMS)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{sha256(os.path.join(directory, name))}  {name}\n" for name in names)


def damage(directory: str, names: Sequence[str]) -> Optional[str]:
    """Say what is wrong with these files, as text to follow the directory's name; None if nothing is."""
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


def listed(directory: str) -> Collection[str]:
    """Return the names of the files in a directory that have checksums there."""
    try:
        return _read_sums(directory).keys()
    except (OSError, UnicodeDecodeError):
        return ()


def _read_sums(directory: str) -> Dict[str, str]:
    with open(os.path.join(directory, SUMS), encoding="utf-8") as file:
        found = (_LINE.fullmatch(line.rstrip("\n")) for line in file)
        return {match.group(2): match.group(1) for match in found if match}
