"""Terminate all ranks of a run when one dies: the rank's side; `guard.py` is the watchdog process beside it."""

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Dict, Iterator, Optional, Tuple

from paddleseg.cvlibs.errors import Interrupted, LostPeer, RunError, SegError
from paddleseg.launch import guard
from paddleseg.utils import distributed
from paddleseg.utils.signals import StopSignals

# Words of Paddle, gloo and NCCL when the other end of a collective is gone.
_LOST_CONNECTION = re.compile(r"gloo|nccl|tcp_?store|tcp_utils|(reset|closed) by peer|broken pipe", re.IGNORECASE)
_NEWS_SEC = 10  # for the watchdog to learn whose death broke a collective


@contextlib.contextmanager
def watch_peers(fix: str = "", stop: Optional[StopSignals] = None) -> Iterator[None]:
    """End this process soon after another rank of its run dies, whatever this one is waiting for.

    Also stop it as SIGTERM does when its launcher dies. A rank that leaves the block well, or by Interrupted, isn't
    missed. Enter it before anything that can fail. In a process that no launcher started, it does nothing.

    Args:
        fix: what to do after the death of a rank; ends the line that tells of it.
        stop: where a signal to stop shows; then it is why other ranks leave.

    Raises:
        RunError: the port where the ranks meet is taken; or, in place of Paddle's error, a collective broke and the
            watchdogs don't know why.
    """
    if "PADDLE_TRAINER_ID" not in os.environ or os.name != "posix":
        yield
        return
    watchdog = _Watchdog(fix)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Interrupted) or (isinstance(error, SystemExit) and not error.code):
            watchdog.leave({})
            raise
        lost = isinstance(error, Exception) and not isinstance(error, SegError) and _LOST_CONNECTION.search(str(error))
        if lost:  # then the watchdog ends this process meanwhile if a rank died
            until = time.monotonic() + _NEWS_SEC
            while time.monotonic() < until and not (stop and stop.requested):
                time.sleep(0.1)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        watchdog.leave({"error": text if len(text) < 1000 else text[:500] + " … " + text[-500:]})
        if lost:
            raise LostPeer(f"the connection to another process broke ({text[-300:]}); "
                           f"the logs of the other ranks may tell why") from error
        raise
    watchdog.leave({})


class _Watchdog:
    """The watchdog process of this rank, and the thread that obeys it."""

    def __init__(self, fix: str):
        hub = meeting_point() if distributed.world_size() > 1 else None
        listener = _listen(*hub) if hub and distributed.rank() == 0 else None
        facts = {
            "run": hashlib.sha256(os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").encode()).hexdigest(),
            "world": distributed.world_size(), "pid": os.getpid(), "name": rank_name(), "log": own_log(),
            "launcher": os.getppid(), "hub": hub, "listener": listener and listener.fileno(), "fix": fix}
        self._socket, theirs = socket.socketpair()
        # In a session of its own: launchers signal a rank's process group.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(facts)], stdin=theirs, stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()] if listener else [], start_new_session=True)
        for sock in filter(None, (theirs, listener)):
            sock.close()
        self._leaving = False
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        """End the process when the watchdog says so, or is no more."""
        message = self._socket.recv(1)
        if not self._leaving:
            if not message:
                guard.print_stderr(f"RunError: the process that watches the other ranks for {rank_name()} died")
            os._exit(RunError.exit_code)

    def leave(self, report: Dict) -> None:
        """Let the watchdog tell the others how this rank ends, and go."""
        self._leaving = True
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(report).encode() + b"\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(guard.END_SEC)


def meeting_point() -> Tuple[str, int]:
    """Return host and port where rank 0's watchdog listens, the same on every rank without asking.

    The launcher chose a free port for each rank, which Paddle doesn't use any more; only where the first one is
    Paddle's own meeting point, as with `--ips`, it takes the next port after those of that machine.
    """
    endpoints = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")
    host, _, port = endpoints[0].rpartition(":")
    store = os.environ.get("MASTER_PORT") or os.environ.get("PADDLE_MASTER", endpoints[0]).rpartition(":")[2]
    taken = sum(endpoint.startswith(f"{host}:") for endpoint in endpoints) if store == port else 0
    return host, int(port) + taken


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=512)
    except OSError as error:
        raise RunError(f"port {port} of {host}, where the processes of this run meet, can't be used "
                       f"({error.strerror}); start the run again, the launcher will choose another") from error


def rank_name() -> str:
    """Return the name of this rank in messages of the others."""
    hosts = {endpoint.rpartition(":")[0] for endpoint in os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")}
    place = f" on {socket.gethostname()}" if len(hosts) > 1 else ""
    return f"rank {distributed.rank()} (pid {os.getpid()}{place})"


def own_log() -> Optional[str]:
    """Return the file that standard error goes to, None if it isn't one."""
    try:
        path = os.readlink("/proc/self/fd/2")
    except OSError:
        return None
    near = os.path.relpath(path)
    return (path if near.startswith("..") else near) if os.path.isfile(path) else None
