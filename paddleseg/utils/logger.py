"""The log of a run: lines for people, JSON lines for programs, VisualDL on request.

    2026-01-31 12:00:00 [INFO]  [TRAIN] epoch: 1, iter: 10/80000, loss: 2.1301, …
"""

import json
import logging
import os
import sys
from typing import Optional

from tqdm import tqdm

_FORMAT = logging.Formatter("%(asctime)s [%(levelname)s]\t%(message)s", "%Y-%m-%d %H:%M:%S")

logger = logging.getLogger("paddleseg")


class _ConsoleHandler(logging.Handler):
    """Write to standard output without tearing a progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def setup_logging(rank: int = 0, log_file: Optional[str] = None) -> None:
    """Send the lines of rank 0 to standard output and, from now on, to `log_file` too."""
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers = [_ConsoleHandler()]
    if log_file is not None and rank == 0:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_FORMAT)
        logger.addHandler(handler)


def info(message: str) -> None:
    logger.info(message)


def warning(message: str) -> None:
    logger.warning(message)


def error(message: str) -> None:
    logger.error(message)


class RunRecorder:
    """Append each record to `log.jsonl`, and its numbers to VisualDL when asked.

    Args:
        save_dir: the run's directory; None records nothing (ranks other than 0).
        use_vdl: write VisualDL's files to `save_dir` as well.
    """

    def __init__(self, save_dir: Optional[str], use_vdl: bool = False):
        self._file = open(os.path.join(save_dir, "log.jsonl"), "a", encoding="utf-8") if save_dir else None
        self._vdl = None
        if save_dir and use_vdl:
            from visualdl import LogWriter

            self._vdl = LogWriter(save_dir)

    def record(self, mode: str, iteration: int, **values) -> None:
        """Write one line; `mode` is train or eval."""
        if self._file is None:
            return
        self._file.write(json.dumps({"mode": mode, "iter": iteration, **values}) + "\n")
        self._file.flush()
        if self._vdl is not None:
            group = {"train": "Train", "eval": "Evaluate"}[mode]
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._vdl.add_scalar(f"{group}/{name}", value, iteration)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._vdl is not None:
            self._vdl.close()
