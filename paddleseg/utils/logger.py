"""The log of a run, for people: standard output and a file.

    2026-01-31 12:00:00 [INFO]  [TRAIN] epoch: 1, iter: 10/80000, loss: 2.1301, …
"""

import logging
import logging.handlers
import os
import sys
from typing import Optional

from tqdm import tqdm

from paddleseg.cvlibs.errors import RunError

_FORMAT = logging.Formatter("%(asctime)s [%(levelname)s]\t%(message)s", "%Y-%m-%d %H:%M:%S")

logger = logging.getLogger("paddleseg")


class LineFile:
    """Append lines to a file.

    On a full disk lines are lost and the run goes on: whether there is room is for the next checkpoint to say.
    """

    def __init__(self, path: str):
        try:
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error.strerror})") from error
        self._failed = False

    def write(self, line: str) -> None:
        data, reason = line.encode() + b"\n", "no room for a whole line"
        try:
            if self._file.write(data) == len(data):
                return
        except OSError as error:
            reason = error.strerror
        if not self._failed:
            self._failed = True
            print(f"{self._file.name} can't be written ({reason}); lines of it are lost until there is room",
                  file=sys.stderr, flush=True)

    def close(self) -> None:
        self._file.close()


class _ConsoleHandler(logging.Handler):
    """Write to standard output without tearing a progress bar.

    Args:
        has_file: the lines are in a file too. Then a run goes on without a reader: Ctrl-C ends the tee of
            `train.py | tee log` at once, and the iteration is still to be saved.
    """

    def __init__(self, has_file: bool):
        super().__init__()
        self._has_file = has_file

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            if not self._has_file:
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())


class _FileHandler(logging.Handler):
    """Write to a LineFile."""

    def __init__(self, path: str):
        super().__init__()
        self._file = LineFile(path)

    def emit(self, record):
        self._file.write(self.format(record))

    def close(self):
        self._file.close()
        super().close()


def setup_logging(rank: int = 0, log_file: Optional[str] = None) -> None:
    """Send the lines of rank 0 to standard output, and to `log_file` too with those of earlier calls without one.

    Raises:
        RunError: the file can't be written.
    """
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers = [_ConsoleHandler(log_file is not None)]
    if rank == 0:  # what is logged before there is a file is kept for it
        handlers.append(logging.handlers.MemoryHandler(1000, logging.CRITICAL) if log_file is None
                        else _FileHandler(log_file))
    for handler in handlers:
        handler.setFormatter(_FORMAT)
    for handler in list(logger.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler) and log_file is not None:
            handler.setTarget(handlers[-1])
        logger.removeHandler(handler)
        handler.close()
    for handler in handlers:
        logger.addHandler(handler)


def info(message: str) -> None:
    logger.info(message)


def warning(message: str) -> None:
    logger.warning(message)


def error(message: str) -> None:
    logger.error(message)
