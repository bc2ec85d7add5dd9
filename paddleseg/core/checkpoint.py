"""Checkpoints: one directory each, complete or absent, optimizer state under the parameters' own names.

    save_dir/iter_N/    model.pdparams  model.pdopt  train_state.json
    save_dir/best_model/ model.pdparams  score.json
"""

import contextlib
import json
import os
import re
import shutil
from typing import Dict, Iterator, List, Optional

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.cvlibs.errors import RunError, WeightsError
from paddleseg.utils.weights import atomic_path, load_into, read_weights, write_weights

WEIGHTS, OPTIMIZER, STATE, SCORE = "model.pdparams", "model.pdopt", "train_state.json", "score.json"
BEST = "best_model"


def save_checkpoint(save_dir: str, iteration: int, model: nn.Layer, optimizer, state: Dict) -> str:
    """Write `iter_N` under a temporary name, then rename it; returns its path."""
    with _whole_directory(os.path.join(save_dir, f"iter_{iteration}")) as temporary:
        write_weights(os.path.join(temporary, WEIGHTS), to_numpy(model.state_dict()))
        write_weights(os.path.join(temporary, OPTIMIZER), optimizer_state(model, optimizer))
        _write_json(os.path.join(temporary, STATE), {"iter": iteration, "paddle": paddle.__version__, **state})
    return os.path.join(save_dir, f"iter_{iteration}")


def save_best(save_dir: str, model: nn.Layer, score: Dict) -> None:
    """Replace `best_model` by the model as it is, with its score."""
    with _whole_directory(os.path.join(save_dir, BEST)) as temporary:
        write_weights(os.path.join(temporary, WEIGHTS), to_numpy(model.state_dict()))
        _write_json(os.path.join(temporary, SCORE), score)


def best_score(save_dir: str) -> Optional[Dict]:
    """The score of `best_model`, or None if there is none yet."""
    path = os.path.join(save_dir, BEST, SCORE)
    return _read_json(path) if os.path.exists(path) else None


def mark_evaluated(checkpoint_dir: str, score: Dict) -> None:
    """Note beside a checkpoint that it was evaluated, so that a resumed run needn't do it again."""
    _write_json(os.path.join(checkpoint_dir, SCORE), score)


def was_evaluated(checkpoint_dir: str) -> bool:
    return os.path.exists(os.path.join(checkpoint_dir, SCORE))


def list_checkpoints(save_dir: str) -> List[str]:
    """The `iter_N` directories of a run, oldest first."""
    found = [(int(match.group(1)), entry) for entry in os.listdir(save_dir)
             if (match := re.fullmatch(r"iter_(\d+)", entry))]
    return [os.path.join(save_dir, entry) for _, entry in sorted(found)]


def prune_checkpoints(save_dir: str, keep: int, iteration: int) -> None:
    """Of the checkpoints up to `iteration`, remove the oldest beyond `keep`; `best_model` stays."""
    behind = [path for path in list_checkpoints(save_dir) if int(path.rpartition("_")[2]) <= iteration]
    for path in behind[:-keep]:
        shutil.rmtree(path)


def recover(save_dir: str) -> None:
    """Put back what a crash in the midst of a replacement left aside."""
    for name in os.listdir(save_dir):
        whole = os.path.join(save_dir, name[:-len(".old")])
        if name.endswith(".old") and not os.path.exists(whole):
            os.rename(os.path.join(save_dir, name), whole)


def load_checkpoint(directory: str, model: nn.Layer, optimizer) -> Dict:
    """Restore model and optimizer from `iter_N`; returns the saved training state.

    Raises:
        RunError: it isn't a checkpoint of this toolkit.
        WeightsError: a file is damaged or doesn't fit.
    """
    missing = [name for name in (WEIGHTS, OPTIMIZER, STATE) if not os.path.exists(os.path.join(directory, name))]
    if missing:
        raise RunError(f"{directory}: can't resume, {', '.join(missing)} is missing; --resume_model takes a directory "
                       f"that training saved, such as output/iter_1000")
    load_into(model, read_weights(os.path.join(directory, WEIGHTS)), directory)
    restore_optimizer(model, optimizer, os.path.join(directory, OPTIMIZER))
    return _read_json(os.path.join(directory, STATE))


def to_numpy(state: Dict[str, paddle.Tensor]) -> Dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


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


def restore_optimizer(model: nn.Layer, optimizer, path: str) -> None:
    """Give the accumulators in a file back to an optimizer.

    Raises:
        WeightsError: the file names a parameter that the model doesn't have, or lacks one.
    """
    generated = {name: unique for unique, name in _trainable_names(model).items()}
    saved = read_weights(path)
    owners = {key.rpartition("@")[0] for key in saved}
    if owners != set(generated):
        differing = sorted(owners ^ set(generated))
        raise WeightsError(f"{path}: the optimizer's state belongs to another model; {len(differing)} parameters "
                           f"differ, such as {', '.join(differing[:3])}")
    slots = ((*key.rpartition("@")[::2], value) for key, value in saved.items())
    optimizer.set_state_dict({f"{generated[name]}_{slot}": paddle.to_tensor(value) for name, slot, value in slots})


def _write_json(path: str, content: Dict) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def _read_json(path: str) -> Dict:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read ({error})") from error


@contextlib.contextmanager
def _whole_directory(final: str) -> Iterator[str]:
    """A temporary directory to fill; it becomes `final`, in place of an older one, when the block ends well."""
    temporary, old = final + ".tmp", final + ".old"
    for path in (temporary, old):
        shutil.rmtree(path, ignore_errors=True)
    os.makedirs(temporary)
    yield temporary
    if os.path.exists(final):
        os.rename(final, old)
    os.rename(temporary, final)
    shutil.rmtree(old, ignore_errors=True)
