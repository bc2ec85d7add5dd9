"""The log of a run: lines for people, JSON lines for programs, VisualDL on request.

    2026-01-31 12:00:00 [INFO]  [TRAIN] epoch: 1, iter: 10/80000, loss: 2.1301, …
"""

import json
import logging
import logging.handlers
import math
import os
import sys
import time
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from tqdm import tqdm

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils.files import atomic_path

_FORMAT = logging.Formatter("%(asctime)s [%(levelname)s]\t%(message)s", "%Y-%m-%d %H:%M:%S")

logger = logging.getLogger("paddleseg")


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


class _AppendedFile:
    """Whole lines at the end of a file. On a full disk a line is dropped, and the first time it is said.

    The run goes on without it: whether there is room is for the next checkpoint to say.
    """

    def __init__(self, path: str):
        self._path = path
        self._file = open(path, "ab", buffering=0)
        self._failed = False

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(data) == len(data):
                return
            reason = "no room for a whole line"
        except OSError as error:
            reason = error.strerror
        self._file.truncate(end)
        if not self._failed:
            self._failed = True
            print(f"{self._path} can't be written ({reason}); its lines are lost until there is room", file=sys.stderr,
                  flush=True)

    def close(self) -> None:
        self._file.close()


class _FileHandler(logging.Handler):
    """Write to a file, which a full disk doesn't tear."""

    def __init__(self, path: str):
        super().__init__()
        try:
            self._file = _AppendedFile(path)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error.strerror})") from error

    def emit(self, record):
        self._file.write(self.format(record))

    def close(self):
        self._file.close()
        super().close()


class _EarlyRecords(logging.handlers.BufferingHandler):
    """Keeps what is logged before there is a file for it."""

    def __init__(self):
        super().__init__(capacity=1000)

    def flush(self):
        """Nobody reads them before the file is there."""


def setup_logging(rank: int = 0, log_file: Optional[str] = None) -> None:
    """Send the lines of rank 0 to standard output, and to `log_file` too with those of earlier calls without one.

    Raises:
        RunError: the file can't be written.
    """
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    early = [record for handler in logger.handlers if isinstance(handler, _EarlyRecords) for record in handler.buffer]
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers = [_ConsoleHandler(log_file is not None), _EarlyRecords() if log_file is None else _FileHandler(log_file)]
    for handler in handlers if rank == 0 else handlers[:1]:
        handler.setFormatter(_FORMAT)
        logger.addHandler(handler)
    for record in early if log_file is not None and rank == 0 else ():
        handlers[1].handle(record)


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
        keep: which records of an earlier attempt stay; the others are about to be made again.
    """

    def __init__(self, save_dir: Optional[str], use_vdl: bool = False,
                 keep: Optional[Callable[[Dict], bool]] = None):
        self._file = self._vdl = None
        if save_dir is None:
            return
        path = os.path.join(save_dir, "log.jsonl")
        kept = _trim(path, keep) if keep is not None and os.path.exists(path) else []
        self._file = _AppendedFile(path)
        if use_vdl:
            from visualdl import LogWriter

            pictures = []
            for name in sorted(os.listdir(save_dir)):  # written anew from the records that are kept
                if name.startswith("vdlrecords"):
                    pictures += _shown_pictures(os.path.join(save_dir, name)) if kept else []
                    os.remove(os.path.join(save_dir, name))
            self._vdl = LogWriter(save_dir)
            for tag, iteration, time_ms, png in pictures:
                if keep({"mode": "eval", "iter": iteration}):
                    self._add_picture(tag, iteration, time_ms, png)
            for record in kept:
                self._show(record.pop("mode"), record.pop("iter"), record)

    def record(self, mode: str, iteration: int, **values) -> None:
        """Write one line; `mode` is train or eval."""
        if self._file is None:
            return
        # JSON has no NaN.
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                  for name, value in values.items()}
        self._file.write(json.dumps({"mode": mode, "iter": iteration, **finite}))
        self._show(mode, iteration, values)

    def _show(self, mode: str, iteration: int, values: Dict) -> None:
        if self._vdl is None:
            return
        group = {"train": "Train", "eval": "Evaluate"}[mode]
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._vdl.add_scalar(f"{group}/{name}", value, iteration)

    def show_pictures(self, iteration: int, files: Mapping[str, bytes]) -> None:
        """Show PNG files in VisualDL, where it is written, by their names."""
        for name, png in files.items() if self._vdl is not None else ():
            self._add_picture("Evaluate/" + name.replace("%", "_"), iteration, round(time.time() * 1000), png)

    def _add_picture(self, tag: str, iteration: int, time_ms: int, png: bytes) -> None:
        # LogWriter.add_image takes pixels alone, and those of an earlier attempt are in PNG files already.
        from visualdl.proto.record_pb2 import Record

        picture = Record.Image(encoded_image_string=png)
        value = Record.Value(id=iteration, tag=tag, timestamp=time_ms, image=picture)
        self._vdl._get_file_writer().add_record(Record(values=[value]))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._vdl is not None:
            self._vdl.close()


def _shown_pictures(path: str) -> List[Tuple[str, int, int, bytes]]:
    """(tag, iteration, time in ms, PNG file) of each picture in a file of VisualDL; says so if it is damaged."""
    from visualdl import LogReader

    try:
        reader = LogReader(file_path=path)
        values = [value for tag in reader.get_tags().get("image", ()) for value in reader.get_data("image", tag)]
    except Exception as error:  # whatever a file that a crash cut off leads to
        warning(f"{path}: can't be read ({type(error).__name__}: {error}); VisualDL shows no pictures from before")
        return []
    return [(value.tag, value.id, value.timestamp, value.image.encoded_image_string) for value in values]


def _trim(path: str, keep: Callable[[Dict], bool]) -> List[Dict]:
    """Rewrite a file of records without those that `keep` refuses and a line that a crash cut off; returns the rest."""
    kept, lines = [], []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and keep(record):
                kept.append(record)
                lines.append(line.rstrip("\n") + "\n")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return kept
