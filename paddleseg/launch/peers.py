"""No process of a run waits for a dead one: what a rank does about it; `guard.py` does the rest."""

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Iterator, Optional, Tuple

from paddleseg.cvlibs.errors import Interrupted, LostPeer, RunError, SegError
from paddleseg.launch import guard
from paddleseg.utils.signals import StopSignals

# What Paddle, gloo and NCCL say when the other end of a collective is gone.
_LOST_CONNECTION = re.compile(r"gloo|nccl|tcp_?store|tcp_utils|(reset|closed) by peer|broken pipe", re.IGNORECASE)
_NEWS_SEC = 10  # for the guard to learn whose death broke a collective


@contextlib.contextmanager
def watch_peers(way_out: str = "", stop: Optional[StopSignals] = None) -> Iterator[None]:
    """End this process soon after another rank of its run dies, whatever this one is waiting for.

    Also stop it as SIGTERM does when its launcher dies. A rank that leaves the block well, or by Interrupted, isn't
    missed. Enter it before anything that can fail. In a process that no launcher started, it does nothing.

    Args:
        way_out: what to do after the death of a rank; ends the line that tells of it.
        stop: where a signal to stop shows; then it is why other ranks leave.

    Raises:
        RunError: the port where the ranks meet is taken; or, in place of Paddle's error, a collective broke and the
            guards don't know why.
    """
    if "PADDLE_TRAINER_ID" not in os.environ or os.name != "posix":
        yield
        return
    watch = _Watch(way_out)
    try:
        yield
    except BaseException as error:
        if isinstance(error, Interrupted) or (isinstance(error, SystemExit) and not error.code):
            watch.leave({"left": True})
        else:
            _report(watch, error, stop)
        raise
    watch.leave({"left": True})


def _report(watch: "_Watch", error: BaseException, stop: Optional[StopSignals]) -> None:
    """Tell the others of this rank's error, unless it is only the echo of another rank's death."""
    lost = (watch.has_peers and isinstance(error, Exception) and not isinstance(error, SegError)
            and _LOST_CONNECTION.search(str(error)))
    if lost:
        until = time.monotonic() + _NEWS_SEC  # the guard ends this process meanwhile if a rank died
        while time.monotonic() < until and not (stop and stop.requested):
            time.sleep(0.1)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    watch.leave({"error": text if len(text) < 1000 else text[:500] + " … " + text[-500:]})
    if lost:
        raise LostPeer(f"the connection to another process broke ({text[-300:]}); "
                       f"the logs of the other ranks may tell why") from error


class _Watch:
    """This rank's guard, and the thread that obeys it."""

    def __init__(self, way_out: str):
        from paddleseg.utils import distributed

        world = distributed.world_size()
        self.has_peers = world > 1 and "PADDLE_TRAINER_ENDPOINTS" in os.environ
        if world > 1 and not self.has_peers:
            guard.say("PADDLE_TRAINER_ENDPOINTS isn't set, so the ranks of this run can't watch each other")
        hub = meeting_point() if self.has_peers else None
        listener = _listen(*hub) if hub and distributed.rank() == 0 else None
        facts = {
            "run": hashlib.sha256(os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").encode()).hexdigest(), "world": world,
            "pid": os.getpid(), "name": rank_name(), "log": own_log(), "launcher": os.getppid(),
            "hub": hub, "listener": None if listener is None else listener.fileno(), "way_out": way_out}
        self._socket, theirs = socket.socketpair()
        # In a session of its own: launchers signal a rank's process group.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(facts)], stdin=theirs, stdout=subprocess.DEVNULL,
            pass_fds=[] if listener is None else [listener.fileno()], start_new_session=True)
        for sock in filter(None, (theirs, listener)):
            sock.close()
        self._leaving = False
        threading.Thread(target=self._obey, name="peers", daemon=True).start()

    def _obey(self) -> None:
        """End the process when the guard says so, or is no more."""
        said = self._socket.recv(1)
        if not self._leaving:
            if not said:
                guard.say(f"RunError: the process that watches the other ranks for {rank_name()} died")
            os._exit(RunError.exit_code)

    def leave(self, last_words: dict) -> None:
        """Let the guard tell the others how this rank ends, and go."""
        self._leaving = True
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(last_words).encode() + b"\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(guard.END_SEC)


def meeting_point() -> Tuple[str, int]:
    """Where rank 0's guard listens: host and port, the same on every rank without asking.

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
        try:
            return socket.create_server((host, port), backlog=512)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return socket.create_server(("", port), backlog=512)  # the address is one of a router in between
    except OSError as error:
        raise RunError(f"port {port} of {host}, where the processes of this run meet, can't be used "
                       f"({error.strerror}); start the run again, the launcher will choose another") from error


def rank_name() -> str:
    """This rank as the others' messages call it."""
    from paddleseg.utils import distributed

    hosts = {endpoint.rpartition(":")[0] for endpoint in os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")}
    place = f" on {socket.gethostname()}" if len(hosts) > 1 else ""
    return f"rank {distributed.rank()} (pid {os.getpid()}{place})"


def own_log() -> Optional[str]:
    """The file that standard error goes to, None if it isn't one."""
    try:
        path = os.readlink("/proc/self/fd/2")
    except OSError:
        return None
    near = os.path.relpath(path)
    return (path if near.startswith("..") else near) if os.path.isfile(path) else None
