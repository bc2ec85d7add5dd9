"""Files and directories that are whole or absent, after a crash or a power cut too."""

import contextlib
import os
import re
import shutil
from typing import Iterator

TEMPORARY, OLD = ".tmp", ".old"


@contextlib.contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """A temporary name to write to; it becomes `path` when the block ends well, and goes otherwise.

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
    """A temporary directory to fill; it becomes `path`, in place of an older one, when the block ends well.

    The files in it are synced by whoever writes them, as `atomic_path` does. A crash between the two renames
    leaves the older one as `path`.old: see `put_back`.
    """
    temporary, old = path + TEMPORARY, path + OLD
    put_back(path)
    remove_tree(temporary)
    os.makedirs(temporary)
    try:
        yield temporary
        _sync(temporary)
        if os.path.exists(path):
            os.rename(path, old)
        os.rename(temporary, path)
        _sync(os.path.dirname(os.path.abspath(path)))
    except BaseException:
        remove_tree(temporary)
        put_back(path)
        raise
    remove_tree(old)


def put_back(path: str) -> None:
    """Undo a replacement of a directory that was cut off, or remove what it left."""
    if os.path.isdir(path + OLD):
        if os.path.exists(path):
            remove_tree(path + OLD)
        else:
            os.rename(path + OLD, path)


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
