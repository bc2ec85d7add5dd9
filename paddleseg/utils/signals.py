"""SIGTERM and Ctrl-C as a wish to stop, so that a preempted run saves before it ends."""

import contextlib
import os
import signal
import threading
from typing import Iterator, Optional

from paddleseg.cvlibs.errors import Interrupted, SegError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Inside, SIGTERM and Ctrl-C only set `requested`, the signal's name; a second Ctrl-C stops at once.

    `paddle` puts a handler of its own in place when it is imported, so enter this after the import. Launchers
    repeat SIGTERM, so a second one says nothing new.
    """

    def __init__(self):
        self.requested: Optional[str] = None
        self._raise_with: Optional[str] = None
        self._before = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for number, handler in self._before.items():
            # A launcher repeats SIGTERM; it must not end a stopped process before its exit code.
            ignored = self.requested and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL if handler is None else handler)
        # Other processes may have left first, and then what this one shares with them fails.
        if self.requested and isinstance(error, Exception) and not isinstance(error, SegError):
            raise self.interrupted(f"it failed while stopping ({error})") from error

    @contextlib.contextmanager
    def at_once(self, what_is_lost: str) -> Iterator[None]:
        """Inside, the first signal raises Interrupted wherever the process is, an earlier one at entry."""
        self._raise_with = what_is_lost
        try:
            if self.requested:
                raise self.interrupted(what_is_lost)
            yield
        finally:
            self._raise_with = None

    def interrupted(self, detail: str) -> Interrupted:
        return Interrupted(f"stopped by {self.requested}: {detail}; the same command with --resume auto goes on")

    def _handle(self, number: int, frame) -> None:
        first, self.requested = self.requested is None, self.requested or signal.Signals(number).name
        if not first and number == signal.SIGINT:
            raise KeyboardInterrupt
        if first and self._raise_with:
            raise self.interrupted(self._raise_with)
        if first:  # not through the log, which may be in the midst of a line
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{self.requested}: finishing this iteration, then saving{again}\n".encode())
