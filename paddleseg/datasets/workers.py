"""Processes that read ahead, for batches that come in the order of their tasks.

A worker gets tasks over a pipe of its own and answers them one by one. The arrays of an answer lie in shared memory,
in one of the worker's PREFETCH places, or travel through the pipe where that memory is full.

Paddle's DataLoader isn't used: while it waits, no signal handler of Python's runs, not even for Ctrl-C; it waits for
ever for a worker that hangs; and it can't tell which sample a worker was reading.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import logging
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import distributed
from paddleseg.utils.parallel import PR_SET_PDEATHSIG

PREFETCH = 2  # batches that a worker holds, read or being read
SHARED_MEMORY = "/dev/shm"
# Longer than a file server takes to come back, shorter than the half hour after which a collective of the other
# processes gives up: so the error that names the file comes first.
TIMEOUT_SEC = 600.0
NOTICE_SEC = 60.0  # a wait that is worth a line in the log
STOP_SEC = 1.0  # that a worker gets to end, at each of two askings
SLICE_SEC = 1.0  # waits are added up from these

_ALIGNMENT = 64  # bytes, of arrays in shared memory
_STOPS = (signal.SIGTERM, signal.SIGINT)
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

Arrays = Dict[str, np.ndarray]
# read(task, progress) -> arrays and all else there is to say of a batch. It writes to progress[0] the place in the
# task of the sample that it is about to read.
Read = Callable[[Any, np.ndarray], Tuple[Arrays, Any]]
# describe(task, place) names the sample at this place, or all of the task's for -1.
Describe = Callable[[Any, int], str]
Finish = Callable[[Arrays, Any], Any]


def shared_memory_needed(batch_bytes: int, num_workers: int) -> int:
    """Bytes that the workers of one process hold at most."""
    return batch_bytes * num_workers * PREFETCH


def shared_memory_free() -> int:
    """Free bytes of shared memory for each process of this machine; 0 where there is none."""
    try:
        state = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return state.f_bavail * state.f_frsize // distributed.local_world_size()


def read_here(read: Read, describe: Describe, tasks: Iterable, finish: Finish) -> Iterator:
    """Yield finish(*read(task, ...)) of each task, read in this process.

    Nothing can end a read in the midst of it; one that takes long is named in the log.
    """
    for task in tasks:
        progress = np.full(1, -1)
        notice = threading.Timer(NOTICE_SEC, _log_slow_read, (describe, task, progress))
        notice.daemon = True
        notice.start()
        try:
            result = read(task, progress)
        finally:
            notice.cancel()
        yield finish(*result)


def _log_slow_read(describe: Describe, task, progress: np.ndarray) -> None:
    logging.getLogger("paddleseg").warning(
        "still reading %s after %.0f s; num_workers 0 waits for ever, with 1 or more the run would end with an error",
        describe(task, int(progress[0])), NOTICE_SEC)


def read_ahead(read: Read, describe: Describe, tasks: Iterable, finish: Finish, num_workers: int,
               timeout_sec: float) -> Iterator:
    """Yield finish(*read(task, ...)) of each task in their order, read in worker processes.

    Args:
        read: runs in a worker and returns its errors; one that it raises ends the worker.
        finish: runs in this process, and copies the arrays, whose memory is used again.
        timeout_sec: the longest wait for a batch.

    Raises:
        RunError: a worker died or didn't deliver in time; it names the sample.
    """
    tasks = iter(tasks)
    workers = _start(read, num_workers)
    stop = partial(_stop, workers)
    atexit.register(stop)  # for one that isn't closed: before multiprocessing asks its processes once, and waits
    under_way = deque()

    def give(worker: _Worker, place: int) -> None:
        task = next(tasks, None)
        if task is not None:
            under_way.append((worker, place, task))
            with contextlib.suppress(OSError):  # it is dead, and its missing answer will tell
                worker.pipe.send((task, place))

    try:
        for place in range(PREFETCH):
            for worker in workers:
                give(worker, place)
        full = False
        while under_way:
            worker, place, task = under_way.popleft()
            layout, arrays, facts = _receive(worker, describe, task, timeout_sec)
            if arrays is not None and not full:
                full = True
                logging.getLogger("paddleseg").warning("%s is full: batches come through pipes, which is slower",
                                                       SHARED_MEMORY)
            batch = finish(worker.places[place].read(layout) if arrays is None else arrays, facts)
            give(worker, place)
            yield batch
    finally:
        if workers:  # there are none any more when the process itself ends
            stop()
            atexit.unregister(stop)


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: Connection
    places: List["_Place"]
    progress: np.ndarray


class _Place:
    """Shared memory for the arrays of one batch, made before the fork; it grows as batches need it."""

    def __init__(self):
        self._map = None
        try:
            self._file = tempfile.TemporaryFile(dir=SHARED_MEMORY)  # without a name: nothing can stay behind
        except OSError:
            self._file = None

    def write(self, arrays: Arrays) -> Optional[Dict[str, tuple]]:
        """Store arrays; returns their layout for `read`, or None if there is no room."""
        layout, size = {}, 0
        for key, array in arrays.items():
            layout[key] = size, array.shape, array.dtype.str
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if not self._reserve(size):
            return None
        for key, stored in self.read(layout).items():
            stored[...] = arrays[key]
        return layout

    def _reserve(self, size: int) -> bool:
        if self._file is None:
            return False
        if size > os.fstat(self._file.fileno()).st_size:
            try:
                # Memory that is only promised would kill with SIGBUS when there is none left.
                os.posix_fallocate(self._file.fileno(), 0, size)
            except OSError:
                return False
        return True

    def read(self, layout: Dict[str, tuple]) -> Arrays:
        """The arrays themselves, not copies; they change when the place is written to again."""
        if not layout:
            return {}
        size = os.fstat(self._file.fileno()).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._file.fileno(), size)
        return {key: np.ndarray(shape, dtype, self._map, offset) for key, (offset, shape, dtype) in layout.items()}


def _start(read: Read, num_workers: int) -> List[_Worker]:
    context = multiprocessing.get_context("fork")
    progress = np.ndarray(num_workers, np.int64, mmap.mmap(-1, 8 * num_workers))
    # The kernel ends a worker with the thread that forked it; any but the main one may end before the reading does.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else None
    workers = []
    with _undisturbed():
        for number in range(num_workers):
            places = [_Place() for _ in range(PREFETCH)]
            pipe, far_end = context.Pipe()
            process = context.Process(target=_work, daemon=True,
                                      args=(read, far_end, pipe, places, progress[number:number + 1], parent))
            try:
                process.start()
            except OSError as error:
                _stop(workers)
                raise RunError(f"only {number} of {num_workers} processes that read data could be started ({error}); "
                               f"lower num_workers") from error
            far_end.close()  # the worker alone holds it, so that the pipe ends with the worker
            workers.append(_Worker(process, pipe, places, progress[number:number + 1]))
    return workers


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
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

    import cv2

    cv2.setNumThreads(0)


def _work(read: Read, pipe: Connection, parents_end: Connection, places: List[_Place], progress: np.ndarray,
          parent: Optional[int]) -> None:
    """Answer tasks until the parent closes the pipe or is gone."""
    parents_end.close()
    _set_up(parent)
    while True:
        progress[0] = -1
        try:
            task, place = pipe.recv()
        except (EOFError, OSError):
            return
        arrays, facts = read(task, progress)
        layout = places[place].write(arrays)
        try:
            pipe.send((layout, arrays if layout is None else None, facts))
        except OSError:
            return


def _receive(worker: _Worker, describe: Describe, task, timeout_sec: float) -> tuple:
    """The worker's answer to a task; signals are handled while it is waited for."""
    waited = noticed = 0.0
    while not wait([worker.pipe, worker.process.sentinel], min(SLICE_SEC, timeout_sec)):
        # Not by the clock, which goes on while a machine or a container is suspended.
        waited += min(SLICE_SEC, timeout_sec)
        if waited >= timeout_sec:
            raise RunError(f"no batch came for {waited:.0f} s; what hangs is the reading of "
                           f"{describe(task, int(worker.progress[0]))}; see whether the disk or the network mount that "
                           f"holds it answers, then start again")
        if waited - noticed >= NOTICE_SEC:
            noticed = waited
            logging.getLogger("paddleseg").warning(
                "still waiting for %s after %.0f s; the run ends if it isn't read after %.0f s",
                describe(task, int(worker.progress[0])), waited, timeout_sec)
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except (EOFError, OSError):
        pass  # it died in the midst of an answer, or before one
    raise RunError(f"the process that was reading {describe(task, int(worker.progress[0]))} died: "
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
