"""Fail-fast checks before training.

Nothing here changes the run's directory, nor any state that the run depends on.
"""

import os
import tempfile
from typing import Dict, Iterator, Set

import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core.options import TrainOptions
from paddleseg.core.run_dir import RunDir
from paddleseg.core.state import TrainState
from paddleseg.cvlibs.errors import DataError, RunError
from paddleseg.datasets.loader import batches_per_epoch, preview_batches
from paddleseg.utils import distributed, logger

SAMPLES = 4  # that are read of each data set
PROGRESS_SEC = 2.0  # a check that takes longer shows its progress
_SHOWN = 3  # missing files named in a message


def check_run(state: TrainState, datasets: Dict[str, object], run_dir: RunDir, options: TrainOptions) -> None:
    """Refuse a run that can't go well, and warn of one that may not.

    Every process looks at the numbers, rank 0 alone at files. Its error ends the others too.

    Args:
        datasets: "train_dataset", and "val_dataset" of a run that evaluates.
        run_dir: locked by rank 0.

    Raises:
        DataError: too few samples, a file is missing, or one of the samples read can't be used.
        RunError: the run's directory can't be written to, or not even two checkpoints fit there.
    """
    batches_per_epoch(datasets["train_dataset"], options.batch_size, distributed.world_size(), options.repeats)
    val_dataset = datasets.get("val_dataset")
    if val_dataset is not None and (len(val_dataset) == 0 or val_dataset.mode == "test"):
        what = "is in mode test, without labels" if len(val_dataset) else "has no samples"
        raise DataError(f"val_dataset {what}, so nothing can be scored; give it some, or train without --do_eval")
    if distributed.rank() > 0:
        return
    check_writable(run_dir.path)
    check_disk_space(state, run_dir, options)
    check_files(datasets)
    check_samples("train_dataset", datasets["train_dataset"], options.batch_size, options)
    if val_dataset is not None:  # sizes may differ there, so one at a time
        check_samples("val_dataset", val_dataset, 1, options)


def check_writable(save_dir: str) -> None:
    """Write and remove a file there: permissions alone don't tell.

    Raises:
        RunError: it can't be written.
    """
    try:
        with tempfile.TemporaryFile(dir=save_dir) as file:
            file.write(b"0")
    except OSError as error:
        raise RunError(f"--save_dir {save_dir} can't be written to ({error.strerror or error}); name another "
                       f"--save_dir") from error


# ---- disk space -----------------------------------------------------------------------------------

def check_disk_space(state: TrainState, run_dir: RunDir, options: TrainOptions) -> None:
    """Compare the checkpoints kept, the one being written and the best model with the room for them.

    Raises:
        RunError: they don't fit even where one is kept.
    """
    interval = options.save_interval
    saves = -(-options.iters // interval) - state.iteration // interval  # the last iteration is saved too
    weights = weights_bytes(state.model) * (2 if options.use_ema else 1)
    checkpoint, best = weights + slots_bytes(state.model, state.optimizer), weights if options.do_eval else 0
    existing = len(run_dir.checkpoints(state.iteration)) if state.resumed else 0
    room = free_bytes(run_dir.path) + run_dir.size()  # the run keeps or deletes all that is there

    def needed(keep: int) -> int:
        return min(max(keep, existing) + 1, existing + saves) * checkpoint + best

    where, keep = f"--save_dir {run_dir.path} has room for {_gib(room)}", options.keep_checkpoint_max
    size = f"a checkpoint takes {_gib(checkpoint)}" + (f", the best model {_gib(best)}" if best else "")
    if needed(1) > room:
        raise RunError(f"{where}, but the run needs {_gib(needed(1))} even with --keep_checkpoint_max 1 ({size}); make "
                       f"room, or name another --save_dir")
    if needed(keep) > room:
        fitting = max(number for number in range(1, keep) if needed(number) <= room)
        logger.warning(f"{where}, but the run needs {_gib(needed(keep))} for keep_checkpoint_max {keep} and one being "
                       f"written ({size}), and will stop where it is full; --keep_checkpoint_max {fitting} fits, or "
                       f"name another --save_dir")


def _gib(size: int) -> str:
    return f"{size / 2 ** 30:.3g} GiB"


def free_bytes(folder: str) -> int:
    """Return what this user may still write on the file system of a folder."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def weights_bytes(model: nn.Layer) -> int:
    """Return the bytes of parameters and buffers."""
    return sum(value.size * value.element_size() for value in model.state_dict().values())


def slots_bytes(model: nn.Layer, optimizer) -> int:
    """Return the bytes of the optimizer's state once it has made a step; one that isn't known counts as Adam does."""
    trained = sum(value.size * value.element_size() for value in model.parameters() if not value.stop_gradient)
    return trained * {paddle.optimizer.SGD: 0, paddle.optimizer.Momentum: 1}.get(type(optimizer), 2)


# ---- data -----------------------------------------------------------------------------------------

def check_files(datasets: Dict[str, object]) -> None:
    """Look for every file of the data sets that didn't do so when they were made, as a `Listing` does.

    Raises:
        DataError: with the number of missing files, and the first few.
    """
    files = [(name, *os.path.split(path)) for name, dataset in datasets.items() for path in _unchecked_files(dataset)]
    # Over a network this is much quicker than to ask for each file.
    names_in = {folder: _names_in(folder) for folder in tqdm(
        {folder for _, folder, _ in files}, "looking for files", delay=PROGRESS_SEC, disable=None, leave=False)}
    missing = [f"{os.path.join(folder, base)} of {name}" for name, folder, base in files
               if base not in names_in[folder]]
    if missing:
        shown, others = ", ".join(missing[:_SHOWN]), len(missing) - _SHOWN
        raise DataError(f"{len(missing)} of {len(files)} files don't exist: {shown}"
                        + (f" and {others} more" if others > 0 else "")
                        + "; correct the list of files, or put them there")


def _unchecked_files(dataset) -> Iterator[str]:
    pairs = getattr(dataset, "file_list", ())
    if getattr(dataset, "verified_files", None) is not pairs:
        for pair in pairs:
            yield from map(os.fspath, pair)


def _names_in(folder: str) -> Set[str]:
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def check_samples(name: str, dataset, batch_size: int, options) -> None:
    """Read and transform a few samples, spread over the data set, in batches.

    Raises:
        DataError: as the data set or the stacking of a batch raises it; or a sample has no label.
        RunError: a worker died, or hangs.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)).tolist()
    batches = [places[first:first + batch_size] for first in range(0, len(places), batch_size)]
    with tqdm(total=len(batches), desc=f"reading samples of {name}", delay=PROGRESS_SEC, disable=None,
              leave=False) as bar:
        for batch in preview_batches(dataset, batches, options.seed, options.num_workers):
            if "label" not in batch:
                raise DataError(f"{name}: {batch['path'][0]} has no label; name one for each image")
            bar.update()
