"""The log of a run, for programs: a JSON object a line, and VisualDL's files on request."""

import json
import math
import os
from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from paddleseg.utils.files import atomic_path
from paddleseg.utils.logger import LineFile

VISUALDL_PREFIX = "vdlrecords"  # of the names of VisualDL's files
_GROUPS = {"train": "Train", "eval": "Evaluate"}  # mode -> group of VisualDL's tags


class RunRecorder:
    """Append each record to a file, and its numbers to VisualDL when asked.

    Args:
        path: of the JSON lines; None records nothing (ranks other than 0).
        visualdl_dir: the folder of VisualDL's files; None writes none.
        keep: which records of an earlier attempt stay; the others are about to be made again. VisualDL's files are
            written anew from those that stay, so pictures of an earlier attempt are in them no more.
    """

    def __init__(self, path: Optional[str], visualdl_dir: Optional[str] = None,
                 keep: Optional[Callable[[Dict], bool]] = None):
        self._file = self._visualdl = None
        if path is None:
            return
        kept = _trim(path, keep) if keep is not None and os.path.exists(path) else []
        self._file = LineFile(path)
        if visualdl_dir is not None:
            from visualdl import LogWriter

            for name in os.listdir(visualdl_dir):
                if name.startswith(VISUALDL_PREFIX):
                    os.remove(os.path.join(visualdl_dir, name))
            self._visualdl = LogWriter(visualdl_dir)
            for record in kept:
                self._add_scalars(record.pop("mode"), record.pop("iter"), record)

    def record(self, mode: str, iteration: int, **values) -> None:
        """Write one line; `mode` is train or eval."""
        if self._file is None:
            return
        # JSON has no NaN.
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                  for name, value in values.items()}
        self._file.write(json.dumps({"mode": mode, "iter": iteration, **finite}))
        self._add_scalars(mode, iteration, values)

    def _add_scalars(self, mode: str, iteration: int, values: Dict) -> None:
        for name, value in values.items() if self._visualdl is not None else ():
            if isinstance(value, (int, float)):
                self._visualdl.add_scalar(f"{_GROUPS[mode]}/{name}", value, iteration)

    def show_pictures(self, iteration: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Show (H, W, 3) uint8 RGB pictures in VisualDL, where it is written, by their names."""
        for name, picture in pictures.items() if self._visualdl is not None else ():
            self._visualdl.add_image("Evaluate/" + name.replace("%", "_"), picture, iteration)

    def close(self) -> None:
        for writer in filter(None, (self._file, self._visualdl)):
            writer.close()


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
