"""Run the commands a thousand times, each in a fork of a server that has imported Paddle and done nothing else."""

import faulthandler
import json
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import ClassVar, Dict, List, Sequence

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT_SEC = 60
# What a command may allocate beyond what an import takes, so that a bomb ends itself and not the machine.
ADDRESS_SPACE_BYTES = 4 << 30


@dataclass
class Ended:
    """End of a command."""

    TIMED_OUT: ClassVar[int] = -1000
    CRASHED: ClassVar[int] = -1001

    code: int
    out: str
    err: str
    peak_bytes: int
    seconds: float

    @property
    def printed(self) -> str:
        return self.out + self.err


def run_forked(command: Sequence, folder: Path, **environment: str) -> Ended:
    """Run [script, argument, …] in `folder`, with `environment` added; several threads may."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preload"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")  # semaphores that the server's imports made end with it
        resource_tracker.ensure_running()
        patch.undo()
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{Path(__file__).parent}")  # for the server's own imports
        forkserver.ensure_running()
    files = {name: f"{folder}.{name}" for name in ("out", "err", "ended")}
    start = time.perf_counter()
    process = context.Process(target=_become, args=(list(map(str, command)), str(folder), environment, files))
    process.start()
    process.join(TIME_LIMIT_SEC)
    ended = {"code": Ended.CRASHED, "peak_bytes": 0}
    if process.is_alive():
        ended["code"] = Ended.TIMED_OUT
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    elif os.path.exists(files["ended"]):
        ended = json.loads(Path(files["ended"]).read_text())
    ended.update(seconds=time.perf_counter() - start, **{
        name: Path(files[name]).read_bytes().decode(errors="backslashreplace") for name in ("out", "err")})
    for path in files.values():
        Path(path).unlink(missing_ok=True)
    return Ended(**ended)


def _become(command: List[str], folder: str, environment: Dict[str, str], files: Dict[str, str]) -> None:
    """Run a script in the fork as Python would, under limits, and write how it ended."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.update(environment)
    with open("/proc/self/statm", encoding="ascii") as file:
        used_bytes = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + ADDRESS_SPACE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.dump_traceback_later(TIME_LIMIT_SEC - 2, file=2)
    sys.argv = [str(ROOT / command[0]), *command[1:]]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    Path(files["ended"]).write_text(json.dumps({"code": code, "peak_bytes": peak_bytes}))
    os._exit(0)  # Paddle's own end takes its time
