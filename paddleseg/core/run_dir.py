"""The directory of a run: whose it is, which checkpoint to go on from, what a new run clears away."""

import os
import re
import shutil
from typing import Optional

from paddleseg.core import checkpoint
from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.utils import atomic, checksums, logger

_WHOLE = re.compile(rf"iter_\d+|{checkpoint.BEST}")
_LEFTOVER = re.compile(rf"({_WHOLE.pattern})({re.escape(atomic.TEMPORARY)}|{re.escape(atomic.OLD)})")
_RECORDS = re.compile(r"config\.yml|train\.log|log\.jsonl|vdlrecords.*")


def choose_checkpoint(save_dir: str, resume: Optional[str], resume_model: Optional[str]) -> Optional[str]:
    """The checkpoint that the flags mean, or None for a new run.

    Args:
        resume: "auto" for the newest whole checkpoint in save_dir, if there is any.
        resume_model: the directory of a checkpoint.

    Raises:
        ConfigError: both were given.
        RunError: save_dir holds damaged checkpoints only.
    """
    if resume is None:
        return resume_model and os.path.normpath(resume_model)
    if resume_model:
        raise ConfigError(f"--resume auto and --resume_model {resume_model} exclude each other; give one of them")
    found = checkpoint.newest(save_dir)
    if found is None:
        logger.info(f"--resume auto: {save_dir} holds no checkpoint; the run starts from the beginning")
    return found


def check_save_dir(save_dir: str, resumed: Optional[str], overwrite: bool) -> None:
    """Refuse a directory that holds another run; nothing in it is lost or changed by a refusal.

    Args:
        resumed: the checkpoint to go on from.

    Raises:
        RunError: neither resuming that run nor overwriting it was asked for.
    """
    if os.path.exists(save_dir) and not os.path.isdir(save_dir):
        raise RunError(f"--save_dir {save_dir} is a file; name a directory")
    if not os.path.isdir(save_dir):
        return
    checkpoint.recover(save_dir)
    goes_on = resumed is not None and _same(os.path.dirname(os.path.abspath(resumed)), save_dir)
    if goes_on:
        newer = _newer(save_dir, resumed)
        if newer and not overwrite:
            raise RunError(f"{save_dir} holds checkpoints newer than {os.path.basename(resumed)} "
                           f"({', '.join(map(os.path.basename, newer[:4]))}); --resume auto goes on from the newest, "
                           f"another --save_dir keeps them, --overwrite deletes them")
        return
    held = [name for name in sorted(os.listdir(save_dir)) if _WHOLE.fullmatch(name)]
    if not held or (overwrite and not resumed):
        return
    raise RunError(f"{save_dir} holds another run ({', '.join(held[:4])}); --resume auto goes on with it, another "
                   f"--save_dir keeps it, --overwrite without a resume deletes it")


def open_save_dir(save_dir: str, resumed: Optional[str]) -> None:
    """Make the run's directory and clear away what `check_save_dir` let pass.

    A new run deletes an old one there. A resumed run deletes checkpoints that come after the one it goes on from
    and are whole (the damaged ones stay until their iteration is saved again), and brings its best model along.
    """
    os.makedirs(save_dir, exist_ok=True)
    for name in os.listdir(save_dir):
        path = os.path.join(save_dir, name)
        if _LEFTOVER.fullmatch(name) or (resumed is None and _WHOLE.fullmatch(name)):
            shutil.rmtree(path)
        elif resumed is None and _RECORDS.fullmatch(name):
            os.remove(path)
    for folder in (save_dir, *checkpoint.list_checkpoints(save_dir)):
        atomic.remove_leftovers(folder)
    if resumed is None:
        return
    run = os.path.dirname(os.path.abspath(resumed))
    if _same(run, save_dir):
        for path in _newer(save_dir, resumed):
            atomic.remove_directory(path)
    _keep_best(os.path.join(run, checkpoint.BEST), os.path.join(save_dir, checkpoint.BEST))


def _keep_best(source: str, target: str) -> None:
    """Bring the best model along from another directory; set a damaged one aside, where it does no harm."""
    if os.path.isdir(source) and not os.path.exists(target):
        with atomic.atomic_directory(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    fault = os.path.isdir(target) and checksums.damage(target, (checkpoint.WEIGHTS, checkpoint.SCORE))
    if fault:
        shutil.rmtree(target + ".damaged", ignore_errors=True)
        os.rename(target, target + ".damaged")
        logger.warning(f"{target}: {fault}; set aside as {os.path.basename(target)}.damaged, the next evaluation "
                       f"saves a best model again")


def _newer(save_dir: str, resumed: str) -> list:
    """Whole checkpoints of later iterations than the one to go on from."""
    last = checkpoint.iteration_of(resumed) if re.fullmatch(r"iter_\d+", os.path.basename(resumed)) else -1
    later = [path for path in checkpoint.list_checkpoints(save_dir) if checkpoint.iteration_of(path) > last]
    return [path for path in later if checkpoint.is_whole(path)]


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
