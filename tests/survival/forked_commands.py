"""Run the commands a thousand times: each in a fork of a process that has imported Paddle and done nothing else.

This file is both sides: `Commands` starts it as a script, which reads one job a line and answers each in a line.
"""

import faulthandler
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Sequence

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2
TIME_LIMIT_SEC = 60
# What a job may allocate beyond what an import takes, so that a bomb ends itself and not the machine.
ADDRESS_SPACE_BYTES = 4 << 30


@dataclass
class Ended:
    """How a command ended; `code` is negative for a signal, TIMED_OUT at the time limit."""

    TIMED_OUT = -1000

    code: int
    out: str
    err: str
    peak_bytes: int
    seconds: float

    @property
    def printed(self) -> str:
        return self.out + self.err


class Commands:
    """`train.py`, `val.py`, … as a person types them, up to PROCESSES at a time."""

    def __init__(self):
        self._servers = queue.Queue()
        self._all = []
        for _ in range(PROCESSES):
            server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
            self._servers.put(server)
            self._all.append(server)

    def run(self, command: Sequence, folder: Path, **environment: str) -> Ended:
        """Run [script, argument, …] in `folder`, with `environment` added."""
        server = self._servers.get()
        try:
            job = {"command": list(map(str, command)), "folder": str(folder), "environment": environment}
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            return Ended(**json.loads(server.stdout.readline()))
        finally:
            self._servers.put(server)

    def map(self, function: Callable, items: Sequence) -> List:
        """function(item) of each, several at a time."""
        with ThreadPoolExecutor(PROCESSES) as pool:
            return list(pool.map(function, items))

    def close(self) -> None:
        for server in self._all:
            server.stdin.close()
            server.stdout.close()
            server.wait()


# ---- the other side

def load_scripts() -> Dict[str, Callable]:
    """Each command as a function of its arguments; imports all that they import."""
    warnings.filterwarnings("ignore", message="No ccache found")  # Paddle says this at every import
    import zlib  # noqa: F401  (before Paddle 2.6, whose own zlib would otherwise serve OpenCV, and fail)

    sys.path.insert(0, str(ROOT))
    import paddleseg.builder  # noqa: F401
    import predict
    import train
    import val
    from paddleseg.utils.cli import run_main
    from tools import check_data, convert_weights

    scripts = {f"{module.__name__}.py": lambda arguments, module=module: run_main(
        module.main, module.parse_args(arguments)) for module in (train, val, predict)}
    scripts["tools/check_data.py"] = check_data.main
    scripts["tools/convert_weights.py"] = convert_weights.main
    return scripts


def do(scripts: Dict[str, Callable], job: Dict, out, err) -> None:
    """In the fork: become the command, and end."""
    os.setsid()
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        used_bytes = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + ADDRESS_SPACE_BYTES,) * 2)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    faulthandler.dump_traceback_later(TIME_LIMIT_SEC - 2, file=2)
    script, *arguments = job["command"]
    code = 99
    try:
        code = scripts[script](arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(job: Dict, scripts: Dict[str, Callable]) -> Dict:
    """Fork, wait for the fork's end or for the time limit, and say how it ended."""
    folder = Path(job["folder"])
    with scratch(folder, "stdout") as out, scratch(folder, "stderr") as err:
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            do(scripts, job, out, err)
        deadline, ended, status, usage = start + TIME_LIMIT_SEC, 0, 0, None
        while not ended and time.perf_counter() < deadline:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.killpg(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - start
        code = os.waitstatus_to_exitcode(status) if ended else Ended.TIMED_OUT
        printed = []
        for stream in (out, err):
            stream.seek(0)
            printed.append(stream.read().decode(errors="backslashreplace"))
    return {"code": code, "out": printed[0], "err": printed[1], "peak_bytes": usage.ru_maxrss << 10,
            "seconds": seconds}


@contextmanager
def scratch(folder: Path, name: str):
    """A file without a name in `folder`, so that only what the command writes is there."""
    path = folder / f"{name}.{os.getpid()}"
    with open(path, "w+b") as stream:
        path.unlink()
        yield stream


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints at an import
    scripts = load_scripts()
    for line in sys.stdin:
        answers.write(json.dumps(serve(json.loads(line), scripts)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
