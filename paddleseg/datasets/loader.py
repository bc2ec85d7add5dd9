"""Batches, the same ones for any number of worker processes.

Which samples a batch holds, and every random number spent on them, follow from
(seed, epoch, index) alone: nothing depends on who draws a sample, or on what was
drawn before.

N images in a batch, each (3, H, W).
"""

import gc
import logging
import os
import random
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Iterable, Iterator, List, Optional, Tuple

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError, RunError, SegError
from paddleseg.utils import distributed

PREFETCH = 2  # batches a worker prepares ahead; Paddle's own default
SHARED_MEMORY = "/dev/shm"
DEATH_CHECK_SEC = 1  # how long the reader waits before it looks whether a worker died


def batches_per_epoch(dataset, batch_size: int, world: int = 1, repeats: int = 1) -> int:
    """Whole batches that each of `world` processes gets from one epoch.

    Raises:
        ConfigError: batch_size or repeats is below 1.
        DataError: the samples don't fill one batch.
    """
    for name, value in (("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name}: {value} is below 1")
    samples = len(dataset) * repeats
    if samples < batch_size * world:
        raise DataError(
            f"the training set has {samples} samples, fewer than the {batch_size * world} of one batch "
            f"(batch_size {batch_size} x {world} processes); lower batch_size or add samples")
    return samples // (batch_size * world)


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, a permutation of 0..samples-1."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def train_batches(dataset, batch_size: int, seed: int, start_iter: int = 0, num_workers: int = 0,
                  rank: int = 0, world: int = 1, repeats: int = 1,
                  num_batches: Optional[int] = None) -> Iterator[Tuple[int, dict]]:
    """Shuffled training batches as (epoch, batch), epochs counted from 0.

    An epoch goes through the samples `repeats` times in one permutation; what doesn't
    fill a batch at its end is dropped. One step's batches of all ranks are neighbours in
    that permutation, so a step sees the same samples on any number of processes that
    share the same total batch.

    Args:
        batch_size: of this process.
        start_iter: batches to skip; the stream goes on exactly as if they had been drawn.
        num_workers: processes that read; 0 reads in this one.
        num_batches: how many to yield; None never ends, and then the iterator must be
            closed, or the workers are left to the end of the process.

    Raises:
        ConfigError, DataError: see `batches_per_epoch`; at once, not at the first batch.
        DataError: while iterating, from a sample; images of one batch differ in size.
        RunError: while iterating, a worker process died.
    """
    per_epoch = batches_per_epoch(dataset, batch_size, world, repeats)
    if seed < 0:
        raise ConfigError(f"seed: {seed} is below 0")
    tasks = _train_tasks(len(dataset) * repeats, per_epoch, batch_size, seed, start_iter, rank, world)
    if num_batches is not None:
        tasks = islice(tasks, num_batches)
    return _iterate(_BatchReader(dataset, seed), tasks, num_workers)


def _train_tasks(samples, per_epoch, batch_size, seed, start_iter, rank, world):
    """The (epoch, indices) of each batch of this rank, for ever."""
    epoch, batch = divmod(start_iter, per_epoch)
    while True:
        order = epoch_order(samples, seed, epoch)
        for start in range(batch * world * batch_size, per_epoch * world * batch_size, world * batch_size):
            first = start + rank * batch_size
            yield epoch, order[first:first + batch_size].tolist()
        epoch, batch = epoch + 1, 0


def eval_batches(dataset, num_workers: int = 0, rank: int = 0, world: int = 1) -> Iterator[dict]:
    """Batches of one sample in the order of the data set; rank r gets samples r, r + world, ...

    Raises as `train_batches` does while iterating.
    """
    tasks = [(0, [index]) for index in range(rank, len(dataset), world)]
    batches = _iterate(_BatchReader(dataset, seed=0), tasks, min(num_workers, len(tasks)))
    return (batch for _, batch in batches)


@contextmanager
def seeded_globals(seed: int, epoch: int, index: int):
    """Seed `random` and `numpy.random` by the triple inside, and restore them after.

    The project's transforms use their sample's generator; those that users bring
    along often draw from the global ones.
    """
    before = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence([seed, epoch, index], spawn_key=(1,)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@dataclass
class _Facts:
    """What travels beside a batch's arrays. Paddle passes an object as it is."""

    epoch: int
    paths: List[str]
    trans_info: list


@dataclass
class _Failure:
    """An error on its way from a worker, and the traceback it had there."""

    error: SegError
    traceback: str


class _WorkerTraceback(Exception):
    """Shows, as the cause of an error, where in the worker it arose."""

    def __str__(self) -> str:
        return "\n" + self.args[0]


class _BatchReader:
    """Reads the batch of a task (epoch, indices) as numpy arrays."""

    def __init__(self, dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def sample(self, epoch: int, index: int) -> dict:
        """One sample; `index` counts through the repeats of the data set.

        Raises:
            SegError: as the data set raises it, or a DataError that names the sample.
        """
        place = index % len(self.dataset)
        try:
            with seeded_globals(self.seed, epoch, index):
                return self.dataset.sample(place, np.random.default_rng([self.seed, epoch, index]))
        except SegError:
            raise
        except Exception as error:
            raise DataError(f"{self.dataset.name_of(place)}: {type(error).__name__}: {error}") from error

    def read(self, task: Tuple[int, List[int]]) -> dict:
        """{'img': (N, 3, H, W) float32, 'label': (N, H, W) uint8 if any, 'facts'}."""
        epoch, indices = task
        samples = [self.sample(epoch, index) for index in indices]
        batch = {"img": _stack(samples, "img")}
        if "label" in samples[0]:
            batch["label"] = _stack(samples, "label")
        batch["facts"] = _Facts(epoch, [sample["path"] for sample in samples],
                                [sample["trans_info"] for sample in samples])
        return batch

    def __getitem__(self, task: Tuple[int, List[int]]) -> dict:
        # Paddle's loader hangs on an exception in its reader, or loses its text; so none leaves here.
        try:
            return self.read(task)
        except SegError as error:
            failure = _Failure(type(error)(str(error)), traceback.format_exc())
        except Exception as error:
            failure = _Failure(RunError(f"{type(error).__name__}: {error}"), traceback.format_exc())
        # Paddle's queue takes no batch without an array.
        return {"img": np.zeros(1, dtype=np.float32), "facts": failure}


def _stack(samples: List[dict], key: str) -> np.ndarray:
    """Stack one field of the samples; a DataError if their sizes differ."""
    path_of = {}
    for sample in samples:
        path_of.setdefault(tuple(sample[key].shape[-2:]), sample["path"])
    if len(path_of) > 1:
        shown = ", ".join(f"{path} {height}x{width}" for (height, width), path in path_of.items())
        raise DataError(f"{key}s of one batch differ in size (height x width): {shown}; "
                        "end the train transforms with a crop or Padding to one size")
    return np.stack([sample[key] for sample in samples])


def _iterate(reader: _BatchReader, tasks: Iterable, num_workers: int) -> Iterator[Tuple[int, dict]]:
    """Read the tasks in order, here or in workers, and make tensors of them."""
    if num_workers and not sys.platform.startswith("linux"):
        logging.getLogger("paddleseg").warning(
            "num_workers 0 instead of %d: Paddle has them on Linux alone", num_workers)
        num_workers = 0
    raw_batches = _read_in_workers(reader, tasks, num_workers) if num_workers else map(reader.read, tasks)
    for raw in raw_batches:
        yield raw["facts"].epoch, _to_tensors(raw)


def _to_tensors(raw: dict) -> dict:
    import paddle

    batch = {"path": raw["facts"].paths, "trans_info": raw["facts"].trans_info}
    for key in ("img", "label"):
        if key in raw:
            batch[key] = raw[key] if isinstance(raw[key], paddle.Tensor) else paddle.to_tensor(raw[key])
    if "label" in batch:
        batch["label"] = batch["label"].astype("int64")  # it travels in 8 bits
    return batch


def _read_in_workers(reader: _BatchReader, tasks: Iterable, num_workers: int) -> Iterator[dict]:
    """Read the tasks in worker processes; ends them when it ends or is closed."""
    tasks = iter(tasks)
    try:
        first = next(tasks)
    except StopIteration:
        return
    shared = _fits_shared_memory(reader, first, num_workers)
    iterator = _start_workers(reader, _chain_first(first, tasks), num_workers, shared)
    try:
        while True:
            try:
                raw = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise RunError(
                    "a process that reads data died (killed, often for want of memory); lower num_workers, "
                    f"now {num_workers}, or set it to 0 to read in the main process") from error
            if isinstance(raw["facts"], _Failure):
                raise raw["facts"].error from _WorkerTraceback(raw["facts"].traceback)
            yield raw
    finally:
        _stop_workers(iterator)


def _chain_first(first, rest: Iterator) -> Iterator[list]:
    """Each task as a list of one: Paddle's sampler yields the keys of a batch, and a task is one key."""
    yield [first]
    for task in rest:
        yield [task]


def _start_workers(reader: _BatchReader, keys: Iterable, num_workers: int, shared: bool):
    """An iterator of Paddle's DataLoader, its workers started."""
    from paddle.io import DataLoader

    loader = DataLoader(reader, batch_sampler=keys, collate_fn=_only, num_workers=num_workers,
                        use_shared_memory=shared, timeout=DEATH_CHECK_SEC, worker_init_fn=_set_up_worker)
    # Paddle answers a worker's death by an exception from a signal handler, in the midst of
    # whatever runs. Its reader thread sees the death too; so the handler is put back, and the
    # error comes out of the iterator.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if in_main else None
    with _nothing_to_collect():
        iterator = iter(loader)
    if in_main:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator


@contextmanager
def _nothing_to_collect():
    """Fork processes inside in which the garbage collector leaves all that they inherit alone.

    Were an old reader of Paddle's among it, destroying it there would wait for ever for its threads, which a
    forked process doesn't have.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _only(items: list):
    return items[0]


def _set_up_worker(worker_id: int) -> None:
    """Make a worker of one thread that leaves signals to its parent."""
    import cv2

    cv2.setNumThreads(0)
    # Launchers signal the whole process group; the parent has to reach its checkpoint with the
    # workers alive, and ends them itself.
    os.setsid()
    # Neither the parent's handler (which only sets a flag) nor Paddle's (which prints a fatal error).
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop_workers(iterator) -> None:
    """End the workers now. Dropping the iterator doesn't: its own thread keeps it alive."""
    iterator._try_shutdown_all(DEATH_CHECK_SEC)
    for worker in iterator._workers:
        if worker.is_alive():
            worker.terminate()
            worker.join()


def _fits_shared_memory(reader: _BatchReader, task: tuple, num_workers: int) -> bool:
    """Whether the batches under way fit the shared memory; reads one sample to know their size."""
    epoch, indices = task
    sample = reader.sample(epoch, indices[0])
    batch_bytes = len(indices) * sum(sample[key].nbytes for key in ("img", "label") if key in sample)
    # Each worker holds one more than it prepared ahead, and the main process the one in use.
    needed = batch_bytes * (num_workers * (PREFETCH + 1) + 1)
    free = shared_memory_bytes() // distributed.local_world_size()
    if needed <= free:
        return True
    logging.getLogger("paddleseg").warning(
        "%s has %d MiB free and %d workers need %d MiB; reading without shared memory, which is slower",
        SHARED_MEMORY, free >> 20, num_workers, -(-needed >> 20))
    return False


def shared_memory_bytes() -> int:
    """Free bytes of the shared memory; 0 where there is none."""
    try:
        state = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return state.f_bavail * state.f_frsize
