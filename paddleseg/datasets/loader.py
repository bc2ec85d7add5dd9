"""Batches, the same ones for any number of worker processes.

Which samples a batch holds, and every random number spent on them, follow from (seed, epoch, index) alone: nothing
depends on who draws a sample, or on what was drawn before.

A worker gets tasks over a pipe of its own and answers them one by one. What it read is pickled, with the arrays out of
band: they lie in shared memory, in one of the worker's PREFETCH buffers. Paddle's DataLoader isn't used: while it
waits, no signal handler of Python's runs, not even for Ctrl-C; it waits for ever for a worker that hangs; and it can't
tell which sample a worker was reading.

N images in a batch, each (3, H, W).
"""

import atexit
import contextlib
import copy
import ctypes
import faulthandler
import gc
import logging
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from paddleseg.cvlibs.errors import ConfigError, DataError, RunError, SegError
from paddleseg.utils.parallel import PR_SET_PDEATHSIG

PREFETCH = 2  # batches that a worker holds, read or being read
# Longer than a file server takes to come back, shorter than the half hour after which a collective of the other
# processes gives up: so the error that names the file comes first.
TIMEOUT_SEC = 600.0
NOTICE_SEC = 60.0  # a wait that is worth a line in the log
STOP_SEC = 1.0  # that a worker gets to end, at each of two askings
SLICE_SEC = 1.0  # waits are added up from these

_SHOWN_NAMES = 3  # in a message
_ALIGNMENT, _PAGE = 64, 4096  # bytes, of arrays in shared memory and of tensors
_STOPS = (signal.SIGTERM, signal.SIGINT)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

Task = Tuple[int, List[int]]  # (epoch, indices)
Collate = Callable[[List[dict]], Any]  # samples -> what is read of a task
Finish = Callable[[Any], Any]  # what was read -> what is yielded; copies the arrays, whose memory is used again


# ---- batches ---------------------------------------------------------------------------------------------

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
    return _iterate(_Reader(dataset, seed, stack_samples), tasks, _to_tensors, num_workers, timeout_sec)


def _train_tasks(samples: int, per_epoch: int, batch_size: int, seed: int, start_iter: int, rank: int,
                 world: int) -> Iterator[Task]:
    """The task of each batch of this rank, for ever."""
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
    reader = _Reader(dataset, 0, _stack_by_size)
    with contextlib.closing(_iterate(reader, tasks, _to_eval_tensors, num_workers, timeout_sec)) as batches:
        for _, of_one_size in batches:
            yield from of_one_size


def preview_batches(dataset, batches: Sequence[List[int]], seed: int = 0, num_workers: int = 0) -> Iterator[dict]:
    """The batches of these indices, read as those of epoch 0 are, as numpy arrays.

    Each is as `stack_samples` returns it. Raises as `train_batches` does while iterating.
    """
    tasks = [(0, list(indices)) for indices in batches]
    reader = _Reader(dataset, seed, stack_samples)
    with contextlib.closing(_iterate(reader, tasks, copy.deepcopy, num_workers, TIMEOUT_SEC)) as batches:
        for _, batch in batches:
            yield batch


def _iterate(reader: "_Reader", tasks: Iterable[Task], finish: Finish, num_workers: int,
             timeout_sec: float) -> Iterator[Tuple[int, Any]]:
    """Read the tasks in order, here or in workers; yields the epoch of each and what it gives, finished."""
    if num_workers and not sys.platform.startswith("linux"):
        logging.getLogger("paddleseg").warning("num_workers 0 instead of %d: they are for Linux alone", num_workers)
        num_workers = 0
    if isinstance(tasks, list):
        num_workers = min(num_workers, len(tasks))
    if num_workers:
        return iter_workers(reader, tasks, finish, num_workers, timeout_sec)
    return iter_serial(reader, tasks, finish)


# ---- reading a batch -------------------------------------------------------------------------------------

@contextlib.contextmanager
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
class _Reader:
    """Reads the samples of a task as numpy arrays and puts them together."""

    dataset: Any
    seed: int
    collate: Collate

    def read(self, task: Task, progress: np.ndarray) -> Any:
        """Read the samples of the task, collated.

        Args:
            progress: is set to the place in the task of the sample that is about to be read.

        Raises:
            SegError: as the data set raises it, or a DataError that names the sample.
        """
        epoch, indices = task
        samples = []
        for place, index in enumerate(indices):
            progress[0] = place
            number = index % len(self.dataset)  # `index` counts through the repeats of the data set
            try:
                with seeded_globals(self.seed, epoch, index):
                    samples.append(self.dataset.sample(number, np.random.default_rng([self.seed, epoch, index])))
            except SegError:
                raise
            except Exception as error:
                raise DataError(f"{self.dataset.name_of(number)}: {type(error).__name__}: {error}") from error
        return self.collate(samples)

    def describe(self, task: Task, place: int) -> str:
        """The sample at a place of the task by its path and line, or the first of all of them for -1."""
        indices = task[1] if place < 0 else task[1][place:place + 1]
        names = [self.dataset.name_of(index % len(self.dataset)) for index in indices[:_SHOWN_NAMES]]
        more = len(indices) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")


def stack_samples(samples: List[dict]) -> dict:
    """{'img': (N, 3, H, W) float32, 'label': (N, H, W) uint8 if any, 'path' and 'trans_info': lists}."""
    arrays = {key: _stack(samples, key) for key in ("img", "label") if any(key in sample for sample in samples)}
    return {**arrays, **{key: [sample[key] for sample in samples] for key in ("path", "trans_info")}}


def _stack_by_size(samples: List[dict]) -> List[dict]:
    """A batch for each size of images, as `stack_samples`; labels are a list, as they keep sizes of their own."""
    of_size: dict = {}
    for sample in samples:
        of_size.setdefault((sample["img"].shape, "label" in sample), []).append(sample)
    return [{**{key: [sample[key] for sample in of_one_size] for key in ("label", "path", "trans_info") if
                key in of_one_size[0]}, "img": _stack(of_one_size, "img")} for of_one_size in of_size.values()]


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


# ---- finishing a batch -----------------------------------------------------------------------------------

def _to_tensors(batch: dict) -> dict:
    dtypes = {"img": "float32", "label": "int64"}  # labels travel in 8 bits
    return {key: _to_tensor(value, dtypes[key]) if key in dtypes else value for key, value in batch.items()}


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


def _to_eval_tensors(batches: List[dict]) -> List[dict]:
    import paddle

    return [{key: paddle.to_tensor(value) if key == "img" else copy.deepcopy(value) for key, value in batch.items()}
            for batch in batches]


# ---- in this process -------------------------------------------------------------------------------------

def iter_serial(reader: _Reader, tasks: Iterable[Task], finish: Finish) -> Iterator[Tuple[int, Any]]:
    """Yield what each task gives, read in this process.

    Nothing can end a read in the midst of it; one that takes long is named in the log.
    """
    for task in tasks:
        progress = np.full(1, -1)
        notice = threading.Timer(NOTICE_SEC, _log_slow_read, (reader, task, progress))
        notice.daemon = True
        notice.start()
        try:
            batch = reader.read(task, progress)
        finally:
            notice.cancel()
        yield task[0], finish(batch)


def _log_slow_read(reader: _Reader, task: Task, progress: np.ndarray) -> None:
    logging.getLogger("paddleseg").warning(
        "still reading %s after %.0f s; num_workers 0 waits for ever, with 1 or more the run would end with an error",
        reader.describe(task, int(progress[0])), NOTICE_SEC)


# ---- in worker processes ---------------------------------------------------------------------------------

def iter_workers(reader: _Reader, tasks: Iterable[Task], finish: Finish, num_workers: int,
                 timeout_sec: float) -> Iterator[Tuple[int, Any]]:
    """Yield what each task gives in the order of the tasks, read in worker processes.

    Raises:
        RunError: a worker died or didn't deliver in time; it names the sample.
    """
    tasks = iter(tasks)
    workers = _start(reader, num_workers)
    stop = partial(_stop, workers)
    atexit.register(stop)  # for one that isn't closed: before multiprocessing asks its processes once, and waits
    pending = deque()

    def give(worker: _Worker, slot: int) -> None:
        task = next(tasks, None)
        if task is not None:
            pending.append((worker, slot, task))
            with contextlib.suppress(OSError):  # it is dead, and its missing answer will tell
                worker.pipe.send((task, slot))

    try:
        for slot in range(PREFETCH):
            for worker in workers:
                give(worker, slot)
        while pending:
            worker, slot, task = pending.popleft()
            read = worker.buffers[slot].load(_receive(worker, reader, task, timeout_sec))
            if isinstance(read, Exception):
                raise read
            batch = finish(read)
            give(worker, slot)
            yield task[0], batch
    finally:
        if workers:  # there are none any more when the process itself ends
            stop()
            atexit.unregister(stop)


class SharedBuffer:
    """Shared memory for the arrays of one batch, made before the fork; it grows as batches need it.

    It is a file without a name, in no mounted file system: nothing can stay behind, and /dev/shm, which containers keep
    small, doesn't bound it.
    """

    def __init__(self):
        self._file = os.fdopen(os.memfd_create("batch"), "r+b", 0)
        self._map = None

    def dump(self, batch: Any) -> Tuple[bytes, List[Tuple[int, int]]]:
        """Pickle an object, its arrays into this memory; returns what `load` needs."""
        arrays, places, size = [], [], 0
        pickled = pickle.dumps(batch, protocol=5, buffer_callback=arrays.append)
        for array in arrays:
            places.append((size, size + array.raw().nbytes))
            size += -(-array.raw().nbytes // _ALIGNMENT) * _ALIGNMENT
        if size > os.fstat(self._file.fileno()).st_size:
            os.ftruncate(self._file.fileno(), size)
        for array, memory in zip(arrays, self._views(places)):
            memory[:] = array.raw()
        return pickled, places

    def load(self, dumped: Tuple[bytes, List[Tuple[int, int]]]) -> Any:
        """The object; its arrays are not copied, and change when the buffer is written to again."""
        pickled, places = dumped
        return pickle.loads(pickled, buffers=self._views(places))

    def _views(self, places: List[Tuple[int, int]]) -> List[memoryview]:
        size = os.fstat(self._file.fileno()).st_size
        if size and (self._map is None or len(self._map) < size):
            self._map = mmap.mmap(self._file.fileno(), size)
        return [memoryview(self._map)[start:end] for start, end in places]


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: Connection
    buffers: List[SharedBuffer]
    progress: np.ndarray


def _start(reader: _Reader, num_workers: int) -> List[_Worker]:
    context = multiprocessing.get_context("fork")
    progress = np.ndarray(num_workers, np.int64, mmap.mmap(-1, 8 * num_workers))
    # The kernel ends a worker with the thread that forked it; any but the main one may end before the reading does.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else None
    workers = []
    with block_signals():
        for number in range(num_workers):
            buffers = [SharedBuffer() for _ in range(PREFETCH)]
            pipe, far_end = context.Pipe()
            process = context.Process(target=_work, daemon=True,
                                      args=(reader, far_end, pipe, buffers, progress[number:number + 1], parent))
            try:
                process.start()
            except OSError as error:
                _stop(workers)
                raise RunError(f"only {number} of {num_workers} processes that read data could be started ({error}); "
                               f"lower num_workers") from error
            far_end.close()  # the worker alone holds it, so that the pipe ends with the worker
            workers.append(_Worker(process, pipe, buffers, progress[number:number + 1]))
    return workers


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Fork inside: no signal handler of the parent's and no garbage collector runs in a child before it is set up.

    The collector would run the destructors of what the child only inherits: remove files, or wait for threads that
    a forked process doesn't have.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up(parent: Optional[int]) -> None:
    """Make a worker of one thread that leaves signals to its parent and dies with it."""
    # Launchers and terminals signal the whole process group, and a cluster every process of a job; the parent has to
    # reach its checkpoint with the workers alive, and ends them itself.
    os.setsid()
    gc.freeze()
    gc.enable()
    # Neither the parent's handlers nor Paddle's, which print that a signal came; of a crash the parent tells more.
    crashes = () if faulthandler.is_enabled() else _CRASHES
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    for number in crashes:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    if parent is not None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    cv2.setNumThreads(0)


def _work(reader: _Reader, pipe: Connection, parents_end: Connection, buffers: List[SharedBuffer],
          progress: np.ndarray, parent: Optional[int]) -> None:
    """Answer tasks until the parent closes the pipe or is gone."""
    parents_end.close()
    _set_up(parent)
    with contextlib.suppress(EOFError, OSError):
        while True:
            progress[0] = -1
            task, slot = pipe.recv()
            try:
                batch = reader.read(task, progress)
            except Exception as error:  # of this package's, which pickle knows; its cause travels as a text
                batch = ExceptionWithTraceback(error, error.__traceback__)
            pipe.send(buffers[slot].dump(batch))


def _receive(worker: _Worker, reader: _Reader, task: Task, timeout_sec: float) -> tuple:
    """The worker's answer to a task; signals are handled while it is waited for."""
    waited = noticed = 0.0
    while not wait([worker.pipe, worker.process.sentinel], min(SLICE_SEC, timeout_sec)):
        # Not by the clock, which goes on while a machine or a container is suspended.
        waited += min(SLICE_SEC, timeout_sec)
        if waited >= timeout_sec:
            raise RunError(f"no batch came for {waited:.0f} s; what hangs is the reading of "
                           f"{reader.describe(task, int(worker.progress[0]))}; see whether the disk or the network "
                           f"mount that holds it answers, then start again")
        if waited - noticed >= NOTICE_SEC:
            noticed = waited
            logging.getLogger("paddleseg").warning(
                "still waiting for %s after %.0f s; the run ends if it isn't read after %.0f s",
                reader.describe(task, int(worker.progress[0])), waited, timeout_sec)
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except (EOFError, OSError):
        pass  # it died in the midst of an answer, or before one
    raise RunError(f"the process that was reading {reader.describe(task, int(worker.progress[0]))} died: "
                   f"{_cause_of_death(worker.process)}")


def _cause_of_death(process: multiprocessing.Process) -> str:
    process.join(STOP_SEC)
    code = process.exitcode
    if code is None or code >= 0:
        return f"it ended with exit code {code}; what it printed stands above"
    name = f"signal {-code} ({signal.strsignal(-code)})"
    if -code == signal.SIGKILL:
        return f"{name}, often for want of memory; lower num_workers, or set it to 0 to read in the main process"
    return f"{name}; if it happens again at this file, leave the file out"


def _stop(workers: List[_Worker]) -> None:
    """End the workers, whatever they are doing, and empty the list."""
    for worker in workers:
        worker.pipe.close()
        worker.process.kill()  # SIGTERM is for the parent alone, see `_set_up`; a worker leaves nothing half-written
    for worker in workers:
        worker.process.join(STOP_SEC)
        if worker.process.is_alive():
            # It is stuck in the kernel, on a dead FUSE mount, say. At exit multiprocessing would wait for it for ever.
            multiprocessing.process._children.discard(worker.process)
            logging.getLogger("paddleseg").warning("process %d reads data and can't be killed; it is left behind",
                                                   worker.process.pid)
    workers.clear()
