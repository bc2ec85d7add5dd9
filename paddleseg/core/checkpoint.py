"""Checkpoints: one directory each, complete or absent, optimizer state under the parameters' own names.

    save_dir/iter_N/     model.pdparams  model.pdopt  train_state.json  SHA256SUMS  (score.json once evaluated)
    save_dir/best_model/ model.pdparams  score.json  SHA256SUMS

With averaged weights (core/ema.py) both have an ema_model.pdparams too; that of best_model is the best by its own
score, maybe of another iteration.

No random state is among them: every random number of a run follows from (seed, iteration, rank) or
(seed, epoch, index), and these are in train_state.json.
"""

import contextlib
import json
import os
import re
import shutil
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core.ema import AveragedWeights
from paddleseg.core.precision import float32_weights
from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.utils import files, logger
from paddleseg.weights.load import load_into, read_weights
from paddleseg.weights.write import write_weights

WEIGHTS, OPTIMIZER, STATE, SCORE = "model.pdparams", "model.pdopt", "train_state.json", "score.json"
AVERAGED = "ema_model.pdparams"
BEST = "best_model"
_CONTENT = (WEIGHTS, OPTIMIZER, STATE)


def save_checkpoint(save_dir: str, iteration: int, model: nn.Layer, optimizer, state: Dict,
                    averaged: Optional[AveragedWeights] = None) -> str:
    """Write `iter_N` under a temporary name, then rename it; returns its path.

    Args:
        state: what else a resumed run must know, as JSON takes it; see `resume.train_state`.

    Raises:
        RunError: it can't be written, for want of room, say; earlier checkpoints are as they were.
    """
    path = os.path.join(save_dir, f"iter_{iteration}")
    with _saving(save_dir, path), files.atomic_directory(path) as temporary:
        write_weights(os.path.join(temporary, WEIGHTS), float32_weights(model, optimizer))
        slots = optimizer_state(model, optimizer)
        write_weights(os.path.join(temporary, OPTIMIZER), slots)
        if averaged is not None:
            write_weights(os.path.join(temporary, AVERAGED), averaged.state(model))
        without_slots = sorted(set(_trainable_names(model).values()) - _owners(slots))
        _write_json(os.path.join(temporary, STATE), {"iter": iteration, "without_slots": without_slots, **state})
        files.write_sums(temporary)
    return path


def save_best(save_dir: str, model: nn.Layer, optimizer, score: Dict,
              averaged: Optional[AveragedWeights] = None) -> None:
    """Replace weights and score of `best_model` by the model's, or with `averaged` by these; the others stay.

    Raises:
        RunError: it can't be written; an earlier one is as it was.
    """
    path, before = os.path.join(save_dir, BEST), best_score(save_dir) or {}
    with _saving(save_dir, path), files.atomic_directory(path) as temporary:
        if averaged is None:
            new, old, weights = WEIGHTS, AVERAGED, float32_weights(model, optimizer)
            scores = {**score, **{key: value for key, value in before.items() if key == "ema"}}
        else:
            new, old, weights = AVERAGED, WEIGHTS, averaged.state(model)
            scores = {**before, "ema": score}
        write_weights(os.path.join(temporary, new), weights)
        if os.path.exists(os.path.join(path, old)):
            with files.atomic_path(os.path.join(temporary, old)) as kept:
                shutil.copyfile(os.path.join(path, old), kept)
        _write_json(os.path.join(temporary, SCORE), scores)
        files.write_sums(temporary)


def forget_best_averages(save_dir: str) -> None:
    """Replace `best_model` by one without averaged weights."""
    path, scores = os.path.join(save_dir, BEST), best_score(save_dir)
    with _saving(save_dir, path), files.atomic_directory(path) as temporary:
        with files.atomic_path(os.path.join(temporary, WEIGHTS)) as kept:
            shutil.copyfile(os.path.join(path, WEIGHTS), kept)
        _write_json(os.path.join(temporary, SCORE), {key: value for key, value in scores.items() if key != "ema"})
        files.write_sums(temporary)


def damage_of_best(save_dir: str) -> Optional[str]:
    """What is wrong with `best_model`, see `files.damage`."""
    return _damage(os.path.join(save_dir, BEST), (WEIGHTS, SCORE))


def best_score(save_dir: str) -> Optional[Dict]:
    """The score of `best_model`, or None if there is none yet.

    {"iter", "miou", "accuracy"}, and with averaged weights "ema", which is another such mapping.
    """
    path = os.path.join(save_dir, BEST, SCORE)
    return _read_json(path) if os.path.exists(path) else None


def mark_evaluated(directory: str, score: Dict) -> None:
    """Note beside a checkpoint that it was evaluated, so that a resumed run needn't do it again."""
    path = os.path.join(directory, SCORE)
    with _saving(os.path.dirname(directory), path):
        _write_json(path, score)


def was_evaluated(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, SCORE))


def own_score(directory: str) -> Dict:
    """What `mark_evaluated` noted."""
    return _read_json(os.path.join(directory, SCORE))


@contextlib.contextmanager
def _saving(save_dir: str, path: str) -> Iterator[None]:
    """Inside, what can't be written is a RunError that says what is left."""
    try:
        yield
    except (OSError, WeightsError) as error:
        left = [os.path.basename(whole) for whole in list_checkpoints(save_dir) if is_whole(whole)]
        hint = f"{left[-1]} is whole: make room and go on with --resume auto" if left else "make room and start again"
        raise RunError(f"{path} couldn't be saved: {error}; {hint}") from error


def list_checkpoints(save_dir: str) -> List[str]:
    """The `iter_N` directories of a run, oldest first."""
    found = [(iteration_of(entry), entry) for entry in os.listdir(save_dir) if re.fullmatch(r"iter_\d+", entry)]
    return [os.path.join(save_dir, entry) for _, entry in sorted(found)]


def iteration_of(directory: str) -> int:
    """N of an `iter_N`."""
    return int(directory.rpartition("_")[2])


def prune_checkpoints(save_dir: str, keep: int, iteration: int) -> None:
    """Of the checkpoints up to `iteration`, remove the oldest beyond `keep`; `best_model` stays."""
    behind = [path for path in list_checkpoints(save_dir) if iteration_of(path) <= iteration]
    for path in behind[:-keep]:
        files.remove_directory(path)


def recover(save_dir: str) -> None:
    """Put back what a crash in the midst of a replacement left aside."""
    for name in os.listdir(save_dir):
        if re.fullmatch(rf"(iter_\d+|{BEST}){re.escape(files.BACKUP)}", name):
            files.restore_backup(os.path.join(save_dir, name[:-len(files.BACKUP)]))


def is_whole(directory: str) -> bool:
    return _damage(directory) is None


def _damage(directory: str, content: Sequence[str] = _CONTENT) -> Optional[str]:
    """What is wrong with a checkpoint, see `files.damage`; with its averaged weights too, if it has some."""
    has_averages = files.is_listed(os.path.join(directory, AVERAGED))
    return files.damage(directory, (*content, AVERAGED) if has_averages else content)


def verify(directory: str) -> Dict:
    """Check a checkpoint against its checksums; returns its training state.

    Raises:
        RunError: it isn't one of this toolkit, or isn't as it was saved.
    """
    fault = _damage(directory)
    if fault:
        raise RunError(f"{directory}: can't resume, {fault}; --resume_model takes a directory that training saved, "
                       f"such as output/iter_1000, and --resume auto the newest whole one")
    state = _read_json(os.path.join(directory, STATE))
    if not isinstance(state, dict) or not isinstance(state.get("iter"), int) or state["iter"] < 0:
        raise RunError(f"{os.path.join(directory, STATE)} holds no iteration: can't resume")
    return state


def newest(save_dir: str) -> Optional[str]:
    """The newest checkpoint that verifies, or None where there is none at all; names the damaged ones it skips.

    Raises:
        RunError: there are checkpoints, and all are damaged.
    """
    if not os.path.isdir(save_dir):
        return None
    recover(save_dir)
    found = list_checkpoints(save_dir)
    for path in reversed(found):
        fault = _damage(path)
        if fault is None:
            return path
        logger.warning(f"{path}: {fault}; skipped, an older checkpoint is tried")
    if found:
        raise RunError(f"{save_dir}: none of its {len(found)} checkpoints is whole; --resume_model with a copy of one "
                       f"and another --save_dir goes on from there, --overwrite without --resume begins again")
    return None


def load_checkpoint(directory: str, model: nn.Layer, optimizer) -> Dict:
    """Restore model and optimizer from `iter_N`; returns the saved training state.

    Raises:
        RunError: it isn't a checkpoint of this toolkit, or isn't as it was saved.
        WeightsError: a file doesn't fit the model.
    """
    state = verify(directory)
    load_into(model, read_weights(os.path.join(directory, WEIGHTS)), directory)
    restore_optimizer(model, optimizer, os.path.join(directory, OPTIMIZER), state.get("without_slots", ()))
    return state


def _trainable_names(model: nn.Layer) -> Dict[str, str]:
    """Paddle's generated name of each parameter -> its name in the model."""
    return {parameter.name: name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def optimizer_state(model: nn.Layer, optimizer) -> Dict[str, np.ndarray]:
    """The accumulators as "<parameter>@<slot>", such as "head.weight@velocity_0".

    Paddle's own keys hold generated names, which differ from one process to the next.
    """
    names = _trainable_names(model)
    state = {}
    for key, value in optimizer.state_dict().items():
        owner = max((name for name in names if key.startswith(name + "_")), key=len, default=None)
        if owner is not None:
            state[f"{names[owner]}@{key[len(owner) + 1:]}"] = value.numpy()
    return state


def _owners(slots: Iterable[str]) -> Set[str]:
    """The parameters that the keys of an optimizer's state belong to."""
    return {key.rpartition("@")[0] for key in slots}


def restore_optimizer(model: nn.Layer, optimizer, path: str, without_slots: Sequence[str] = ()) -> None:
    """Give the accumulators in a file back to an optimizer.

    Args:
        without_slots: parameters that never had a gradient, and so have no accumulators.

    Raises:
        WeightsError: the file names a parameter that the model doesn't have, or lacks one.
    """
    generated = {name: unique for unique, name in _trainable_names(model).items()}
    saved = read_weights(path)
    owners = _owners(saved) | set(without_slots)
    if owners != set(generated):
        differing = sorted(owners ^ set(generated))
        raise WeightsError(f"{path}: the optimizer's state belongs to another model; {len(differing)} parameters "
                           f"differ, such as {', '.join(differing[:3])}")
    slots = ((*key.rpartition("@")[::2], value) for key, value in saved.items())
    optimizer.set_state_dict({f"{generated[name]}_{slot}": paddle.to_tensor(value) for name, slot, value in slots})


def _write_json(path: str, content: Dict) -> None:
    with files.atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=str)  # a date, which YAML knows and JSON doesn't


def _read_json(path: str) -> Dict:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read ({error})") from error
