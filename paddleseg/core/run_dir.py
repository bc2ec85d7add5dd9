"""Run directory: layout, lock, checkpoints, best model.

    save_dir/            config.yml  train.log  log.jsonl  (VisualDL's files)
    save_dir/iter_N/     model.pdparams  model.pdopt  train_state.json  config.yml  SHA256SUMS
    save_dir/best_model/ model.pdparams  score.json  config.yml  SHA256SUMS

An iter_N that was evaluated has a score.json too. With averaged weights (core/ema.py) both have an
ema_model.pdparams; that of best_model is the best by its own score, maybe of another iteration. Each directory is
complete or absent. No other file of the package knows these names.

No random state is saved: every random number of a run follows from (seed, iteration, rank) or (seed, epoch, index).
"""

import contextlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Mapping, Optional

import numpy as np

from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.utils import files, logger
from paddleseg.utils.recorder import VISUALDL_PREFIX, RunRecorder
from paddleseg.weights.load import read_weights
from paddleseg.weights.write import write_weights

_WEIGHTS, _EMA_WEIGHTS, _OPTIMIZER = "model.pdparams", "ema_model.pdparams", "model.pdopt"
_STATE, _SCORE, _CONFIG, _LOG, _RECORDS, _BEST = (
    "train_state.json", "score.json", "config.yml", "train.log", "log.jsonl", "best_model")
_CHECKPOINT_FILES, _BEST_FILES = (_WEIGHTS, _OPTIMIZER, _STATE), (_WEIGHTS, _SCORE)
_OPTIONAL_FILES = (_EMA_WEIGHTS, _CONFIG)  # older runs and those without averaged weights lack them
_CHECKPOINT_NAME = re.compile(r"iter_(\d+)")
_WEIGHTS_NAME = re.compile(rf"iter_\d+|{_BEST}")
_LEFTOVER_NAME = re.compile(
    rf"({_WEIGHTS_NAME.pattern})({re.escape(files.TEMPORARY)}|{re.escape(files.BACKUP)})")


@dataclass(frozen=True)
class Checkpoint:
    """A saved iteration, verified against its checksums.

    Attributes:
        facts: what was saved beside the arrays; "iter" is the iteration.
    """

    path: str
    facts: Dict

    @property
    def iteration(self) -> int:
        return self.facts["iter"]

    @property
    def score(self) -> Optional[Dict]:
        """The result of its evaluation; None before that."""
        path = os.path.join(self.path, _SCORE)
        return _read_json(path) if os.path.exists(path) else None

    def weights(self) -> Dict[str, np.ndarray]:
        return read_weights(os.path.join(self.path, _WEIGHTS))

    def optimizer(self) -> Dict[str, np.ndarray]:
        return read_weights(os.path.join(self.path, _OPTIMIZER))

    def ema_weights(self) -> Optional[Dict[str, np.ndarray]]:
        path = os.path.join(self.path, _EMA_WEIGHTS)
        return read_weights(path) if os.path.exists(path) else None


class RunDir:
    """The directory of a run.

    In a run of several processes only rank 0 locks it and writes to it.

        run_dir = RunDir("output")
        with run_dir.locked():
            checkpoint = run_dir.choose(resume="auto", resume_model=None)
            run_dir.check(checkpoint, overwrite=False)
            run_dir.open(checkpoint)
            run_dir.save(iteration, weights, slots, facts)

    Args:
        path: it needn't exist yet.
    """

    def __init__(self, path: str):
        self.path = path
        self.log_file = os.path.join(path, _LOG)
        self._config: Optional[str] = None
        self._damages: Dict[str, Optional[str]] = {}  # of checkpoints by path, so that none is read twice

    # ---- before a run ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing a run there; makes the directory, and removes it again if it stays empty.

        Raises:
            RunError: another process writes there, or the directory can't be made.
        """
        with _made(self.path), files.locked_directory(self.path) as is_free:
            if not is_free:
                raise RunError(f"{self.path}: another run is writing there; wait for its end, or name another "
                               f"--save_dir")
            for name in os.listdir(self.path):  # a crash in the midst of a replacement
                if _LEFTOVER_NAME.fullmatch(name) and name.endswith(files.BACKUP):
                    files.restore_backup(os.path.join(self.path, name[:-len(files.BACKUP)]))
            yield

    def choose(self, resume: Optional[str] = None, resume_model: Optional[str] = None) -> Optional[Checkpoint]:
        """Return the checkpoint that the flags mean, or None for a new run.

        Args:
            resume: "auto" for the latest valid checkpoint in this directory, if there is any.
            resume_model: the directory of a checkpoint; with "auto", where to begin when there is none.

        Raises:
            RunError: it isn't valid; or there are checkpoints here, and all are damaged.
        """
        found = self.latest() if resume == "auto" else None
        if found is None and resume_model:
            path = os.path.normpath(resume_model)
            # A link such as `last` stands for the checkpoint that it leads to.
            return self.checkpoint(os.path.realpath(path) if os.path.islink(path) else path)
        if found is None and resume == "auto":
            logger.info(f"--resume auto: {self.path} holds no checkpoint; the run starts from the beginning")
        return found

    def latest(self) -> Optional[Checkpoint]:
        """Return the latest valid checkpoint, or None where there is none at all; name the damaged ones.

        Raises:
            RunError: there are checkpoints, and all are damaged.
        """
        found = self.checkpoints()
        for path in reversed(found):
            damage = self._damage(path)
            if damage is None:
                return self.checkpoint(path)
            logger.warning(f"{path}: {damage}; skipped, an older checkpoint is tried")
        if found:
            raise RunError(f"{self.path}: none of its {len(found)} checkpoints is valid; --resume_model with a copy of "
                           f"one and another --save_dir goes on from there, --overwrite without --resume begins again")
        return None

    def checkpoint(self, path: str) -> Checkpoint:
        """Verify a checkpoint, of this run or another one.

        Raises:
            RunError: it isn't one of this toolkit, or isn't as it was saved.
        """
        damage = self._damage(path)
        if damage:
            raise RunError(f"{path}: can't resume, {damage}; --resume_model takes a directory that training saved, "
                           f"such as output/iter_1000, and --resume auto the latest valid one")
        facts = _read_json(os.path.join(path, _STATE))
        if not isinstance(facts, dict) or not isinstance(facts.get("iter"), int) or facts["iter"] < 0:
            raise RunError(f"{os.path.join(path, _STATE)} holds no iteration: can't resume")
        return Checkpoint(path, facts)

    def check(self, resumed: Optional[Checkpoint], overwrite: bool, config_file: Optional[str] = None) -> None:
        """Refuse a directory that holds another run; nothing in it is lost or changed by a refusal.

        Args:
            config_file: the file that the configuration was read from.

        Raises:
            RunError: that file would be overwritten; or neither resuming that run nor overwriting it was asked for.
        """
        if self._is_own(resumed):
            later = self._later(resumed)
            if later and not overwrite:
                raise RunError(f"{self.path} holds checkpoints newer than {os.path.basename(resumed.path)} "
                               f"({', '.join(map(os.path.basename, later[:4]))}); --resume auto goes on from the "
                               f"latest, another --save_dir keeps them, --overwrite deletes them")
            return
        written = os.path.join(self.path, _CONFIG)
        if config_file and not overwrite and os.path.exists(written) and os.path.samefile(config_file, written):
            raise RunError(f"--config {config_file}: the run writes its own {_CONFIG} there; name another --save_dir, "
                           f"or give the config another name")
        held = [name for name in sorted(os.listdir(self.path)) if _WEIGHTS_NAME.fullmatch(name)]
        if not held or (overwrite and resumed is None):
            return
        hint = "--resume auto goes on with it, " if resumed is None and self.checkpoints() else ""
        raise RunError(f"{self.path} holds another run ({', '.join(held[:4])}); {hint}another --save_dir keeps it, "
                       f"--overwrite without a resume deletes it")

    def open(self, resumed: Optional[Checkpoint]) -> None:
        """Clear away what `check` let pass.

        A new run deletes an old one there. A resumed run deletes valid checkpoints that come after the one it goes on
        from (damaged ones stay until their iteration is saved again), and brings its best model along.
        """
        names = os.listdir(self.path)
        for name in filter(_LEFTOVER_NAME.fullmatch, names):
            files.remove_tree(os.path.join(self.path, name))
        if resumed is None:
            # All are renamed before one is deleted: of a deletion that is cut off nothing can be resumed.
            old = [os.path.join(self.path, name) for name in names if _WEIGHTS_NAME.fullmatch(name)]
            for path in old:
                os.rename(path, path + files.TEMPORARY)
            for path in old:
                files.remove_tree(path + files.TEMPORARY)
            for name in names:
                if name in (_CONFIG, _LOG, _RECORDS) or name.startswith(VISUALDL_PREFIX):
                    os.remove(os.path.join(self.path, name))
        for folder in (self.path, *self.checkpoints()):
            files.remove_leftovers(folder)
        if resumed is not None:
            for path in self._later(resumed) if self._is_own(resumed) else ():
                files.remove_directory(path)
            self._keep_best(resumed)

    def _keep_best(self, resumed: Checkpoint) -> None:
        """Bring the best model along from another run; set aside one that is damaged or not of this run's past."""
        best, theirs = self._best, os.path.join(os.path.dirname(os.path.abspath(resumed.path)), _BEST)
        if os.path.isdir(theirs) and not os.path.exists(best):
            with files.atomic_directory(best) as temporary:
                shutil.copytree(theirs, temporary, dirs_exist_ok=True)
        if not os.path.isdir(best):
            return
        reason, aside = _damage(best, _BEST_FILES), f"{best}.damaged"
        score = {} if reason else self.best_score()
        if score.get("iter", 0) > resumed.iteration:
            reason, aside = f"it comes after iteration {resumed.iteration}", f"{best}.of_another_run"
        if reason:
            files.remove_tree(aside)
            os.rename(best, aside)
            logger.warning(f"{best}: {reason}; set aside as {os.path.basename(aside)}")
        elif score.get("ema", {}).get("iter", 0) > resumed.iteration:
            aside = f"{best}.of_another_run"
            files.remove_tree(aside)
            shutil.copytree(best, aside)
            del score["ema"]
            self._replace_best({name: best for name in (_WEIGHTS, _CONFIG)}, score)
            logger.warning(f"{best}: its averaged weights come after iteration {resumed.iteration}; they are set aside "
                           f"in {os.path.basename(aside)}")

    # ---- what there is -----------------------------------------------------------------------------

    def checkpoints(self, until: float = math.inf) -> List[str]:
        """Return the paths of the checkpoints up to an iteration, oldest first, valid or not."""
        found = [match for match in map(_CHECKPOINT_NAME.fullmatch, os.listdir(self.path))
                 if match and int(match[1]) <= until]
        return [os.path.join(self.path, match[0]) for match in sorted(found, key=lambda match: int(match[1]))]

    def checkpoint_path(self, iteration: int) -> str:
        return os.path.join(self.path, f"iter_{iteration}")

    def best_score(self) -> Dict:
        """Return the score of the best model, {} if there is none yet.

        {"iter", "miou", "accuracy"}, and with averaged weights "ema", which is another such mapping.
        """
        path = os.path.join(self._best, _SCORE)
        return _read_json(path) if os.path.exists(path) else {}

    def size(self) -> int:
        """Return the bytes of all checkpoints, of the best model, and of leftovers of either."""
        return sum(os.path.getsize(os.path.join(folder, name)) for entry in os.scandir(self.path)
                   if _WEIGHTS_NAME.fullmatch(entry.name) or _LEFTOVER_NAME.fullmatch(entry.name)
                   for folder, _, names in os.walk(entry.path) for name in names)

    @property
    def _best(self) -> str:
        return os.path.join(self.path, _BEST)

    def _is_own(self, checkpoint: Optional[Checkpoint]) -> bool:
        return checkpoint is not None and os.path.realpath(
            os.path.dirname(os.path.abspath(checkpoint.path))) == os.path.realpath(self.path)

    def _damage(self, path: str) -> Optional[str]:
        if path not in self._damages:
            self._damages[path] = _damage(path, _CHECKPOINT_FILES)
        return self._damages[path]

    def _later(self, resumed: Checkpoint) -> List[str]:
        """Return the valid checkpoints of later iterations."""
        return [path for path in self.checkpoints()
                if _iteration(path) > resumed.iteration and self._damage(path) is None]

    # ---- in a run ------------------------------------------------------------------------------------

    def write_config(self, text: str) -> None:
        """Save the resolved configuration, from now on beside each set of weights too.

        Raises:
            RunError: it can't be written.
        """
        path, self._config = os.path.join(self.path, _CONFIG), text
        try:
            _write_text(path, text)
        except OSError as error:
            raise RunError(f"{path} can't be written: {error.strerror or error}; make room there, or name another "
                           f"--save_dir") from error

    def recorder(self, use_vdl: bool, keep: Optional[Callable[[Dict], bool]] = None) -> RunRecorder:
        """Open the record of the run, see `RunRecorder`."""
        return RunRecorder(os.path.join(self.path, _RECORDS), self.path if use_vdl else None, keep)

    def save(self, weights: Mapping, optimizer: Mapping, facts: Dict, ema_weights: Optional[Mapping] = None,
             keep: Optional[int] = None) -> Checkpoint:
        """Write a checkpoint under a temporary name, then rename it.

        Args:
            weights, optimizer, ema_weights: arrays by name.
            facts: what else a resumed run must know, as JSON takes it; "iter" is the iteration.
            keep: remove the oldest checkpoints up to this iteration beyond so many; None removes none.

        Raises:
            RunError: it can't be written, for want of room, say; earlier checkpoints are as they were.
        """
        path = self.checkpoint_path(facts["iter"])
        with self._saving(path), files.atomic_directory(path) as temporary:
            for name, arrays in ((_WEIGHTS, weights), (_OPTIMIZER, optimizer), (_EMA_WEIGHTS, ema_weights)):
                if arrays is not None:
                    write_weights(os.path.join(temporary, name), arrays)
            _write_json(os.path.join(temporary, _STATE), facts)
            if self._config is not None:
                _write_text(os.path.join(temporary, _CONFIG), self._config)
            files.write_sums(temporary)
        for other in self.checkpoints(facts["iter"])[:-keep] if keep else ():
            files.remove_directory(other)
        return Checkpoint(path, facts)

    def save_best(self, checkpoint: Checkpoint, scores: Dict, ema: bool = False) -> None:
        """Replace the weights of the best model by a checkpoint's, or its averaged weights; the others stay.

        Args:
            scores: see `best_score`.

        Raises:
            RunError: it can't be written; an earlier one is as it was.
        """
        new, other = (_EMA_WEIGHTS, _WEIGHTS) if ema else (_WEIGHTS, _EMA_WEIGHTS)
        self._replace_best({new: checkpoint.path, other: self._best, _CONFIG: checkpoint.path}, scores)

    def _replace_best(self, sources: Mapping[str, str], scores: Dict) -> None:
        """Write the best model anew from files in other folders, those that are there."""
        with self._saving(self._best), files.atomic_directory(self._best) as temporary:
            for name, folder in sources.items():
                if os.path.exists(os.path.join(folder, name)):
                    with files.atomic_path(os.path.join(temporary, name)) as copy:
                        shutil.copyfile(os.path.join(folder, name), copy)
            _write_json(os.path.join(temporary, _SCORE), scores)
            files.write_sums(temporary)

    def write_score(self, checkpoint: Checkpoint, score: Dict) -> None:
        """Note beside a checkpoint of this run that it was evaluated, so that a resumed run needn't do it again."""
        if self._is_own(checkpoint):
            path = os.path.join(checkpoint.path, _SCORE)
            with self._saving(path):
                _write_json(path, score)

    @contextlib.contextmanager
    def _saving(self, path: str) -> Iterator[None]:
        """Inside, what can't be written is a RunError that says what is left."""
        try:
            yield
        except (OSError, WeightsError) as error:
            left = next((other for other in reversed(self.checkpoints())
                         if _damage(other, _CHECKPOINT_FILES) is None), None)
            hint = (f"{os.path.basename(left)} is valid: make room and go on with --resume auto" if left
                    else "make room and start again")
            raise RunError(f"{path} couldn't be saved: {error}; {hint}") from error


@contextlib.contextmanager
def _made(path: str) -> Iterator[None]:
    """Make a directory for the block; afterwards remove what was made and is still empty."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise RunError(f"--save_dir {path} is a file; name a directory")
    made, parent = [], os.path.abspath(path)
    while not os.path.lexists(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    try:
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise RunError(f"--save_dir {path}: {parent} can't be written to ({error.strerror}); name another "
                           f"--save_dir") from error
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _iteration(path: str) -> int:
    return int(_CHECKPOINT_NAME.fullmatch(os.path.basename(path))[1])


def _damage(path: str, required) -> Optional[str]:
    """Say what is wrong with the files of a checkpoint or best model, see `files.damage`."""
    there = {*files.listed(path), *(os.listdir(path) if os.path.isdir(path) else ())}
    return files.damage(path, (*required, *(name for name in _OPTIONAL_FILES if name in there)))


def _write_json(path: str, content: Dict) -> None:
    _write_text(path, json.dumps(content, indent=1, default=str))  # a date, which YAML knows and JSON doesn't


def _write_text(path: str, text: str) -> None:
    with files.atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _read_json(path: str) -> Dict:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read ({error})") from error
