"""Graceful stop on SIGTERM and SIGINT, so that a preempted run saves before it ends."""

import contextlib
import os
import signal
import threading
from typing import Iterator, Optional, Tuple

from paddleseg.cvlibs.errors import Interrupted, LostPeer, SegError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GO_ON = "the same command with --resume auto goes on"


class StopSignals:
    """Inside, SIGTERM and Ctrl-C only set `requested`, the signal's name; a second Ctrl-C stops at once.

    `paddle` puts a handler of its own in place when it is imported, so enter this after the import. Launchers
    repeat SIGTERM, so a second one says nothing new. The one that was entered is `active`, as signals belong to the
    process.
    """

    def __init__(self):
        self.requested: Optional[str] = None
        self._raise_with: Optional[Tuple[str, str]] = None
        self._before = {}

    def __enter__(self) -> "StopSignals":
        global active
        active = self
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind, error, traceback) -> None:
        global active
        active = StopSignals()
        for number, handler in self._before.items():
            # A launcher repeats SIGTERM; it must not end a stopped process before its exit code.
            ignored = self.requested and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL if handler is None else handler)
        # Other processes may have left first, and then what this one shares with them fails.
        own = isinstance(error, SegError) and not isinstance(error, LostPeer)
        if self.requested and isinstance(error, Exception) and not own:
            raise self.interrupted(f"it failed while stopping ({error})") from error

    @contextlib.contextmanager
    def interruptible(self, detail: str, hint: str = _GO_ON) -> Iterator[None]:
        """Inside, the first signal raises Interrupted wherever the process is, an earlier one at entry."""
        self._raise_with = detail, hint
        try:
            if self.requested:
                raise self.interrupted(detail, hint)
            yield
        finally:
            self._raise_with = None

    def interrupted(self, detail: str, hint: str = _GO_ON) -> Interrupted:
        self.requested = self.requested or "a signal to another process"
        return Interrupted(f"stopped by {self.requested}: {detail}; {hint}")

    def _handle(self, number: int, frame) -> None:
        first, self.requested = self.requested is None, self.requested or signal.Signals(number).name
        if not first and number == signal.SIGINT:
            raise KeyboardInterrupt
        if first and self._raise_with:
            raise self.interrupted(*self._raise_with)
        if first:  # not through the log, which may be in the midst of a line
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            with contextlib.suppress(OSError):  # the same Ctrl-C has ended `2>&1 | tee log`
                os.write(2, f"\n{self.requested}: finishing this iteration, then saving{again}\n".encode())


active = StopSignals()  # asks nobody to stop until one is entered
