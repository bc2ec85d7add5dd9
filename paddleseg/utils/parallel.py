"""One function over many items in processes, with a progress bar."""

import ctypes
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable, Iterator, Sequence

from tqdm import tqdm

from paddleseg.cvlibs.errors import ConfigError, RunError

PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux


def _end_quietly() -> None:
    """Let SIGTERM end this process without the report that Paddle, if the parent imported it, prints.

    And let it end with its parent: it would work off what it has been sent, wait for more for ever, and hold locks
    that it inherited.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def map_parallel(function: Callable, items: Sequence, num_workers: int, title: str) -> Iterator:
    """Yield function(item) in the order of the items.

    Args:
        function: one that pickle can name; it returns its errors, for one that it raises ends everything.
        num_workers: processes, as the flag --num_workers gives them; with 0 or 1 all happens in this one.
        title: what the progress bar says; it shows on a terminal only.

    Raises:
        ConfigError: num_workers is below 0.
        RunError: a process was killed.
    """
    if num_workers < 0:
        raise ConfigError(f"--num_workers {num_workers} is below 0")
    num_workers = min(num_workers, len(items))
    with tqdm(total=len(items), desc=title, disable=None, leave=False) as bar:
        if num_workers < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        with ProcessPoolExecutor(num_workers, initializer=_end_quietly) as pool:
            try:
                for result in pool.map(function, items, chunksize=4):
                    yield result
                    bar.update()
            except BrokenProcessPool as error:
                raise RunError(f"{title}: a process was killed, often for want of memory; "
                               f"lower --num_workers, now {num_workers}") from error
            finally:
                pool.shutdown(cancel_futures=True)
