"""Run a script on a machine that fails at a certain step of its work on files.

    python faulty_machine.py fill PATTERN BYTES script.py argument …
    python faulty_machine.py kill PATTERN COUNT script.py argument …
    python faulty_machine.py terminate PATTERN COUNT script.py argument …

PATTERN is a regular expression for a change in the file system, as in "os.rename .*/iter_\\d+": the name of Python's
audit event and the path. "open" is only meant to write.

fill: from that change on no file grows beyond BYTES; the kernel refuses the writes.
kill, terminate: SIGKILL or SIGTERM before that change (COUNT 1), or before the COUNTth, counted from it.
"""

import os
import re
import resource
import runpy
import signal
import sys

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}


def add_fault(fault: str, pattern: "re.Pattern[str]", number: int) -> None:
    process, seen = os.getpid(), []

    def hook(event: str, args: tuple) -> None:
        if event not in CHANGES or not isinstance(args[0], str) or os.getpid() != process:  # workers inherit the hook
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if not seen and not pattern.fullmatch(f"{event} {args[0]}"):
            return
        seen.append(event)
        if fault == "fill":
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif len(seen) == number:
            os.write(2, f"{SIGNALS[fault].name} before {event} {args}\n".encode())
            os.kill(process, SIGNALS[fault])

    sys.addaudithook(hook)


def main() -> None:
    fault, pattern, number = sys.argv[1:4]
    sys.argv = sys.argv[4:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    add_fault(fault, re.compile(pattern), int(number))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
