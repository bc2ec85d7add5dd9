"""Run a script on a machine that fails at a certain step of its work on files.

    python faulty_machine.py fill PATTERN BYTES script.py argument …
    python faulty_machine.py kill PATTERN COUNT script.py argument …
    python faulty_machine.py terminate PATTERN COUNT script.py argument …

PATTERN is a regular expression for a change in the file system, as in "os.rename .*/iter_\\d+": the name of Python's
audit event and the path. "open" is only meant to write.

fill: from that change on no file grows beyond BYTES. The kernel itself refuses the writes, so that nothing of the
script has to be replaced.
kill, terminate: SIGKILL or SIGTERM before that change (COUNT 1), or before the COUNTth, counted from it.
"""

import os
import re
import resource
import runpy
import signal
import sys
from functools import partial
from typing import Callable

_CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR


def fill(pattern: "re.Pattern[str]", limit_bytes: int) -> Callable:
    def hook(event: str, args: tuple) -> None:
        if _is_change(event, args) and pattern.fullmatch(f"{event} {args[0]}"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return hook


def send(number: signal.Signals, pattern: "re.Pattern[str]", count: int) -> Callable:
    process, seen = os.getpid(), []

    def hook(event: str, args: tuple) -> None:
        if not _is_change(event, args) or os.getpid() != process:  # workers inherit the hook
            return
        if seen or pattern.fullmatch(f"{event} {args[0]}"):
            seen.append(event)
            if len(seen) == count:
                os.write(2, f"{number.name} before {event} {args}\n".encode())
                os.kill(process, number)

    return hook


def _is_change(event: str, args: tuple) -> bool:
    return event in _CHANGES and isinstance(args[0], str) and (event != "open" or bool(args[2] & _WRITES))


def main() -> None:
    fault, pattern, number = sys.argv[1:4]
    sys.argv = sys.argv[4:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    faults = {"fill": fill, "kill": partial(send, signal.SIGKILL), "terminate": partial(send, signal.SIGTERM)}
    sys.addaudithook(faults[fault](re.compile(pattern), int(number)))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
