"""The directory of a run: whose it is, which checkpoint to go on from, what a new run clears away."""

import os
import re
import shutil
from typing import Callable, Dict, Optional

from paddleseg.core import checkpoint
from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import files, logger

_WHOLE = re.compile(rf"iter_\d+|{checkpoint.BEST}")
_LEFTOVER = re.compile(rf"({_WHOLE.pattern})({re.escape(files.TEMPORARY)}|{re.escape(files.BACKUP)})")
_locks: Dict[str, int] = {}  # directory -> its descriptor
_RECORDS = re.compile(r"config\.yml|train\.log|log\.jsonl|vdlrecords.*")


def holds_weights(name: str) -> bool:
    """Whether a run's directory has checkpoints and best models, whole, old or half-written, under such a name."""
    return bool(_WHOLE.fullmatch(name) or _LEFTOVER.fullmatch(name))


def choose_checkpoint(save_dir: str, resume: Optional[str], resume_model: Optional[str]) -> Optional[str]:
    """The checkpoint that the flags mean, or None for a new run.

    Args:
        resume: "auto" for the newest whole checkpoint in save_dir, if there is any.
        resume_model: the directory of a checkpoint; with "auto", where to begin when there is none.

    Raises:
        RunError: save_dir holds damaged checkpoints only.
    """
    found = checkpoint.newest(save_dir) if resume == "auto" else None
    if found is None and resume_model:
        path = os.path.normpath(resume_model)
        # A link such as `last` stands for the checkpoint that it leads to.
        return os.path.realpath(path) if os.path.islink(path) else path
    if found is None and resume == "auto":
        logger.info(f"--resume auto: {save_dir} holds no checkpoint; the run starts from the beginning")
    return found


def lock(save_dir: str) -> None:
    """Keep other processes from writing a run to a directory, if it exists, until this process ends.

    Raises:
        RunError: another one does.
    """
    path = os.path.realpath(save_dir)
    if path in _locks or not os.path.isdir(path):
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        is_free = files.lock(folder)
    except OSError:  # a file system without locks
        os.close(folder)
        return
    if not is_free:
        os.close(folder)
        raise RunError(f"{save_dir}: another run is writing there; wait for its end, or name another --save_dir")
    _locks[path] = folder
    # A worker that outlives its killed parent for a moment must not keep the run from being resumed.
    os.register_at_fork(after_in_child=lambda: os.close(folder))


def check_save_dir(save_dir: str, resumed: Optional[str], overwrite: bool, recipe: Optional[str] = None) -> None:
    """Refuse a directory that holds another run; nothing in it is lost or changed by a refusal.

    Args:
        resumed: the checkpoint to go on from.
        recipe: the file that the configuration was read from.

    Raises:
        RunError: the recipe would be overwritten; or neither resuming that run nor overwriting it was asked for.
    """
    if os.path.exists(save_dir) and not os.path.isdir(save_dir):
        raise RunError(f"--save_dir {save_dir} is a file; name a directory")
    if not os.path.isdir(save_dir):
        return
    lock(save_dir)
    checkpoint.recover(save_dir)
    goes_on = resumed is not None and _same(os.path.dirname(os.path.abspath(resumed)), save_dir)
    if goes_on:
        newer = _newer(save_dir, resumed)
        if newer and not overwrite:
            raise RunError(f"{save_dir} holds checkpoints newer than {os.path.basename(resumed)} "
                           f"({', '.join(map(os.path.basename, newer[:4]))}); --resume auto goes on from the newest, "
                           f"another --save_dir keeps them, --overwrite deletes them")
        return
    written = os.path.join(save_dir, "config.yml")
    if recipe is not None and not overwrite and os.path.exists(written) and os.path.samefile(recipe, written):
        raise RunError(f"--config {recipe}: the run writes its own config.yml there; name another --save_dir, or give "
                       f"the recipe another name")
    held = [name for name in sorted(os.listdir(save_dir)) if _WHOLE.fullmatch(name)]
    if not held or (overwrite and not resumed):
        return
    goes_on = "--resume auto goes on with it, " if resumed is None and checkpoint.list_checkpoints(save_dir) else ""
    raise RunError(f"{save_dir} holds another run ({', '.join(held[:4])}); {goes_on}another --save_dir keeps it, "
                   f"--overwrite without a resume deletes it")


def open_save_dir(save_dir: str, resumed: Optional[str]) -> None:
    """Make the run's directory and clear away what `check_save_dir` let pass.

    A new run deletes an old one there. A resumed run deletes checkpoints that come after the one it goes on from
    and are whole (the damaged ones stay until their iteration is saved again), and brings its best model along.
    """
    os.makedirs(save_dir, exist_ok=True)
    lock(save_dir)
    names = [os.path.join(save_dir, name) for name in os.listdir(save_dir)]
    for path in filter(_is(_LEFTOVER), names):
        files.remove_tree(path)
    if resumed is None:
        # All are renamed before one is deleted: of a deletion that is cut off nothing can be resumed.
        old = list(filter(_is(_WHOLE), names))
        for path in old:
            os.rename(path, path + files.TEMPORARY)
        for path in old:
            files.remove_tree(path + files.TEMPORARY)
        for path in filter(_is(_RECORDS), names):
            os.remove(path)
    for folder in (save_dir, *checkpoint.list_checkpoints(save_dir)):
        files.remove_leftovers(folder)
    if resumed is None:
        return
    run = os.path.dirname(os.path.abspath(resumed))
    if _same(run, save_dir):
        for path in _newer(save_dir, resumed):
            files.remove_directory(path)
    _keep_best(run, save_dir, checkpoint.verify(resumed)["iter"])


def _keep_best(run: str, save_dir: str, iteration: int) -> None:
    """Bring the best model along from another directory; set aside one that is damaged or not of this run's past."""
    target = os.path.join(save_dir, checkpoint.BEST)
    if os.path.isdir(os.path.join(run, checkpoint.BEST)) and not os.path.exists(target):
        with files.atomic_directory(target) as temporary:
            shutil.copytree(os.path.join(run, checkpoint.BEST), temporary, dirs_exist_ok=True)
    if not os.path.isdir(target):
        return
    fault, aside = checkpoint.damage_of_best(save_dir), f"{target}.damaged"
    score = {} if fault else checkpoint.best_score(save_dir) or {}
    if score.get("iter", 0) > iteration:
        fault, aside = f"it comes after iteration {iteration}", f"{target}.of_another_run"
    if fault:
        files.remove_tree(aside)
        os.rename(target, aside)
        logger.warning(f"{target}: {fault}; set aside as {os.path.basename(aside)}")
    elif score.get("ema", {}).get("iter", 0) > iteration:
        aside = f"{target}.of_another_run"
        files.remove_tree(aside)
        shutil.copytree(target, aside)
        checkpoint.forget_best_averages(save_dir)
        logger.warning(f"{target}: its averaged weights come after iteration {iteration}; they are set aside in "
                       f"{os.path.basename(aside)}")


def _newer(save_dir: str, resumed: str) -> list:
    """Whole checkpoints of later iterations than the one to go on from."""
    last = checkpoint.verify(resumed)["iter"]
    later = [path for path in checkpoint.list_checkpoints(save_dir) if checkpoint.iteration_of(path) > last]
    return [path for path in later if checkpoint.is_whole(path)]


def _is(pattern: re.Pattern) -> Callable[[str], bool]:
    return lambda path: pattern.fullmatch(os.path.basename(path)) is not None


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
