"""Batches, the same ones for any number of worker processes.

Which samples a batch holds, and every random number spent on them, follow from
(seed, epoch, index) alone: nothing depends on who draws a sample, or on what was
drawn before.

N images in a batch, each (3, H, W).
"""

import logging
import random
import sys
import traceback
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError, SegError
from paddleseg.datasets.workers import TIMEOUT_SEC, Arrays, Finish, read_ahead, read_here

_SHOWN_NAMES = 3  # in a message
_PAGE = 4096  # bytes


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
            f"(batch_size {batch_size} x {world} processes); lower --batch_size, start fewer processes, or raise "
            f"--repeats, which counts each sample several times")
    return samples // (batch_size * world)


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, a permutation of 0..samples-1."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def train_batches(dataset, batch_size: int, seed: int, start_iter: int = 0, num_workers: int = 0,
                  rank: int = 0, world: int = 1, repeats: int = 1,
                  num_batches: Optional[int] = None, timeout_sec: float = TIMEOUT_SEC) -> Iterator[Tuple[int, dict]]:
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
        timeout_sec: the longest wait for a batch from a worker.

    Raises:
        ConfigError, DataError: see `batches_per_epoch`; at once, not at the first batch.
        DataError: while iterating, from a sample; images of one batch differ in size.
        RunError: while iterating, a worker died or hangs; it names the sample.
    """
    per_epoch = batches_per_epoch(dataset, batch_size, world, repeats)
    if seed < 0:
        raise ConfigError(f"seed: {seed} is below 0")
    tasks = _train_tasks(len(dataset) * repeats, per_epoch, batch_size, seed, start_iter, rank, world)
    if num_batches is not None:
        tasks = islice(tasks, num_batches)
    reader = _BatchReader(dataset, seed)
    return _iterate(reader, tasks, _with_epoch, num_workers, timeout_sec)


def _train_tasks(samples, per_epoch, batch_size, seed, start_iter, rank, world):
    """The (epoch, indices) of each batch of this rank, for ever."""
    epoch, batch = divmod(start_iter, per_epoch)
    while True:
        order = epoch_order(samples, seed, epoch)
        for start in range(batch * world * batch_size, per_epoch * world * batch_size, world * batch_size):
            first = start + rank * batch_size
            yield epoch, order[first:first + batch_size].tolist()
        epoch, batch = epoch + 1, 0


def eval_batches(dataset, num_workers: int = 0, rank: int = 0, world: int = 1, batch_size: int = 1,
                 timeout_sec: float = TIMEOUT_SEC) -> Iterator[dict]:
    """Batches for an evaluation, which holds every sample once; rank r gets samples r, r + world, ...

    The samples of each `batch_size` in the order of the data set that have one size come together; a batch is smaller
    where sizes differ, and at the end. Labels stay on the host as they are: 'label' is a list of uint8 (H, W) arrays.

    Raises as `train_batches` does while iterating.
    """
    indices = range(rank, len(dataset), world)
    tasks = [(0, list(indices[start:start + batch_size])) for start in range(0, len(indices), batch_size)]
    batches = _iterate(_EvalReader(dataset, seed=0), tasks, _to_eval_batches, num_workers, timeout_sec)
    with closing(batches):
        for of_one_size in batches:
            yield from of_one_size


def trial_batches(dataset, batches: Sequence[List[int]], seed: int = 0, num_workers: int = 0) -> Iterator[dict]:
    """The batches of these indices, read as those of epoch 0 are, as numpy arrays.

    Each is {'img': (N, 3, H, W) float32, 'label': (N, H, W) uint8 if any, 'path': list of str}.

    Raises as `train_batches` does while iterating.
    """
    tasks = [(0, list(indices)) for indices in batches]
    return _iterate(_BatchReader(dataset, seed), tasks, _to_copies, num_workers, TIMEOUT_SEC)


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
    """What a batch is beside its arrays."""

    epoch: int
    paths: List[str]
    trans_info: list


@dataclass
class _Failure:
    """An error, maybe on its way from a worker, and the traceback it had there."""

    error: SegError
    traceback: str


class _Traceback(Exception):
    """Shows, as the cause of an error, where it arose, maybe in a worker."""

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

    def read(self, task: Tuple[int, List[int]], progress: np.ndarray) -> Tuple[Arrays, _Facts]:
        """{'img': (N, 3, H, W) float32, 'label': (N, H, W) uint8 if any}, and the facts."""
        epoch, indices = task
        samples = []
        for place, index in enumerate(indices):
            progress[0] = place
            samples.append(self.sample(epoch, index))
        keys = [key for key in ("img", "label") if any(key in sample for sample in samples)]
        arrays = {key: _stack(samples, key) for key in keys}
        return arrays, _Facts(epoch, [sample["path"] for sample in samples],
                              [sample["trans_info"] for sample in samples])

    def try_read(self, task: Tuple[int, List[int]], progress: np.ndarray) -> tuple:
        """As `read`, but an error is returned, as the facts: it has to pass from process to process."""
        try:
            return self.read(task, progress)
        except SegError as error:
            return {}, _Failure(type(error)(str(error)), traceback.format_exc())
        except Exception as error:
            error = DataError(f"{self.describe(task, -1)}: {type(error).__name__}: {error}")
            return {}, _Failure(error, traceback.format_exc())

    def describe(self, task: Tuple[int, List[int]], place: int) -> str:
        """The sample at a place of the task by its path and line, or the first of all of them for -1."""
        indices = task[1] if place < 0 else task[1][place:place + 1]
        names = [self.dataset.name_of(index % len(self.dataset)) for index in indices[:_SHOWN_NAMES]]
        more = len(indices) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")


class _EvalReader(_BatchReader):
    """Reads the samples of a task into one batch for each size of images; labels keep sizes of their own."""

    def read(self, task: Tuple[int, List[int]], progress: np.ndarray) -> Tuple[Arrays, List[_Facts]]:
        """{'img<b>': (N, 3, H, W) of batch b, 'label<b>.<n>': (H, W) of its sample n, if any}, facts of each batch."""
        epoch, indices = task
        of_size: dict = {}
        for place, index in enumerate(indices):
            progress[0] = place
            sample = self.sample(epoch, index)
            of_size.setdefault((sample["img"].shape, "label" in sample), []).append(sample)
        arrays, facts = {}, []
        for batch, samples in enumerate(of_size.values()):
            arrays[f"img{batch}"] = _stack(samples, "img")
            arrays.update((f"label{batch}.{place}", sample["label"]) for place, sample in enumerate(samples)
                          if "label" in sample)
            facts.append(_Facts(epoch, [sample["path"] for sample in samples],
                                [sample["trans_info"] for sample in samples]))
        return arrays, facts


def _stack(samples: List[dict], key: str) -> np.ndarray:
    """Stack one field of the samples; a DataError if their sizes differ."""
    path_of = {}
    for sample in samples:
        if key not in sample:
            raise DataError(f"{sample['path']} has no {key}, which others of its batch have")
        path_of.setdefault(tuple(sample[key].shape[-2:]), sample["path"])
    if len(path_of) > 1:
        shown = ", ".join(f"{path} {height}x{width}" for (height, width), path in path_of.items())
        raise DataError(f"{key}s of one batch differ in size (height x width): {shown}; "
                        "end the train transforms with a crop or Padding to one size")
    return np.stack([sample[key] for sample in samples])


def _iterate(reader: _BatchReader, tasks: Iterable, finish: Finish, num_workers: int, timeout_sec: float) -> Iterator:
    """Read the tasks in order, here or in workers, and finish what they give."""
    if num_workers and not sys.platform.startswith("linux"):
        logging.getLogger("paddleseg").warning("num_workers 0 instead of %d: they are for Linux alone", num_workers)
        num_workers = 0
    if isinstance(tasks, list):
        num_workers = min(num_workers, len(tasks))
    finish = partial(_unless_failed, finish)
    if num_workers:
        return read_ahead(reader.try_read, reader.describe, tasks, finish, num_workers, timeout_sec)
    return read_here(reader.try_read, reader.describe, tasks, finish)


def _unless_failed(finish: Finish, arrays: Arrays, facts):
    if isinstance(facts, _Failure):
        raise facts.error from _Traceback(facts.traceback)
    return finish(arrays, facts)


def _with_epoch(arrays: Arrays, facts: _Facts) -> Tuple[int, dict]:
    return facts.epoch, _to_tensors(arrays, facts)


def _to_tensors(arrays: Arrays, facts: _Facts) -> dict:
    batch = {"path": facts.paths, "trans_info": facts.trans_info}
    # Labels travel in 8 bits.
    batch.update((key, _to_tensor(array, "int64" if key == "label" else "float32")) for key, array in arrays.items())
    return batch


def _to_tensor(array: np.ndarray, dtype: str):
    """A tensor with a copy of `array` on the present device.

    Paddle asks the system for the memory of every CPU tensor anew, and its thousands of page faults take longer than
    the copy; NumPy keeps what was freed. So on the CPU the copy is NumPy's, and Paddle 3 takes it over as it is.
    """
    import paddle
    from paddle.utils.dlpack import from_dlpack

    if paddle.get_device() != "cpu":
        return paddle.to_tensor(array).astype(dtype)
    memory = np.empty(array.size * np.dtype(dtype).itemsize + _PAGE, np.uint8)
    # Aligned as Paddle's own memory, on which the last bits of a result may depend.
    copy = memory[-memory.ctypes.data % _PAGE:][:len(memory) - _PAGE].view(dtype).reshape(array.shape)
    copy[...] = array
    return from_dlpack(copy.__dlpack__())


def _to_eval_batches(arrays: Arrays, facts: List[_Facts]) -> List[dict]:
    import paddle

    batches = []
    for number, of_batch in enumerate(facts):
        batch = {"path": of_batch.paths, "trans_info": of_batch.trans_info,
                 "img": paddle.to_tensor(arrays[f"img{number}"])}
        labels = [arrays.get(f"label{number}.{place}") for place in range(len(of_batch.paths))]
        if labels[0] is not None:
            batch["label"] = [label.copy() for label in labels]
        batches.append(batch)
    return batches


def _to_copies(arrays: Arrays, facts: _Facts) -> dict:
    return {"path": facts.paths, **{key: array.copy() for key, array in arrays.items()}}
