"""Watchdog process of a rank; `peers.py` starts it.

It is a process, not a thread, because Paddle keeps Python's lock during waits that a dead rank makes endless: the
start of a process group, and `Tensor.item` on a GPU behind an all-reduce. It imports the standard library alone.

The watchdogs of a run form a star around the one of rank 0, the hub. One that sees its own rank die tells the others;
each prints the reason and ends its rank. TCP's keep-alive notices a machine that vanished. Messages are JSON objects,
one a line.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Dict, List, Optional

TICK_SEC = 0.25  # between two checks of the processes
CONNECT_SEC = 2  # for one attempt to reach the hub
WARN_SEC = 60  # until a watchdog says that it can't reach the hub
EXCUSE_SEC = 1  # for a rank to end by the error that another one ended by
END_SEC = 3  # for a rank to end itself when asked to
FAREWELL_SEC = 15  # for watchdogs to find each other after their ranks' end
LAUNCHER_SEC = 60  # for a rank to save and stop when its launcher is gone
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a vanished machine shows after 25 s


class Guard:
    """State of one watchdog; the main thread watches the rank, each connection has a thread that reads from it.

    Args:
        facts: run (a name that its ranks alone share), world (its number of ranks), pid (of the rank), name and log
            (of the rank, for messages), launcher (its pid), hub ([host, port], or None in a run of one process), fix
            (the end of the line that tells of a death).
        rank: the connection to the rank.
        listener: where the others connect to, for the hub.
    """

    def __init__(self, facts: Dict, rank: socket.socket, listener: Optional[socket.socket]):
        self.facts, self.rank, self.listener = facts, rank, listener
        self.name, self.pid = facts["name"], facts["pid"]
        self.hello = {key: facts[key] for key in ("run", "name", "log")}
        self.links: List[socket.socket] = []
        self.unmet = 0 if facts["hub"] is None else facts["world"] - 1 if listener else 1
        self.reason: Optional[Dict] = None  # why the run ends: a message
        self.end_at = self.kill_at = float("inf")  # when to end the rank for it; when to kill a rank without a launcher
        self.leaving = False

    def run(self) -> None:
        """Watch the rank until it ends."""
        if self.facts["hub"] is not None:
            start_thread(self.connect if self.listener is None else self.accept)
        report = self.rank.makefile()
        while True:
            alive = self.rank_lives()
            if select.select([self.rank], [], [], TICK_SEC if alive else 0)[0]:
                line = report.readline()
                if line:
                    self.on_report(json.loads(line))
                alive = False
            if not alive:
                self.on_death()
            self.check_launcher()
            if time.monotonic() >= self.end_at:
                self.end_rank()

    # ---- the rank -------------------------------------------------------------------------------------------------

    def rank_lives(self) -> bool:
        return os.getppid() == self.pid

    def signal_rank(self, number: int) -> None:
        if self.rank_lives():
            os.kill(self.pid, number)

    def on_report(self, message: Dict) -> None:
        """Pass on how the rank ends; a rank sends this once, when it does."""
        if "error" in message:
            self.end_run(f"{self.name} stopped with {message['error']}{log_of(self.facts)}", EXCUSE_SEC)
        else:
            self.tell({"left": True})
        self.leave()

    def on_death(self) -> None:
        if self.reason is None:
            print_stderr(f"RunError: {self.name} died")
            self.end_run(f"{self.name} died{log_of(self.facts)}")
        else:
            self.print_reason()  # a launcher was quicker
        self.leave()

    def check_launcher(self) -> None:
        """Stop a rank whose launcher died as SIGTERM does, and kill it if it doesn't stop."""
        launcher, now = self.facts["launcher"], time.monotonic()
        if self.kill_at == float("inf") and parent_of(self.pid) not in (None, launcher):
            self.kill_at = now + LAUNCHER_SEC
            print_stderr(f"RunError: {self.name} stops, for its launcher (pid {launcher}) died")
            self.signal_rank(signal.SIGTERM)
        if now >= self.kill_at:
            self.signal_rank(signal.SIGKILL)

    def print_reason(self) -> None:
        print_stderr("; ".join(filter(None, ["RunError: " + self.reason["reason"], self.facts["fix"]])))

    def end_rank(self) -> None:
        """Print the reason and end the rank, which is given the chance to choose its exit code."""
        self.print_reason()
        send(self.rank, {})
        deadline = time.monotonic() + END_SEC
        while self.rank_lives() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.signal_rank(signal.SIGKILL)
        self.leave()

    def leave(self) -> None:
        """End this process when the others know the reason, if there is one."""
        deadline = time.monotonic() + FAREWELL_SEC
        while self.reason and self.unmet > 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.leaving = True
        for link in list(self.links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + CONNECT_SEC
        while self.links and time.monotonic() < deadline:  # an exit at once could destroy what they haven't read yet
            time.sleep(0.01)
        os._exit(0)

    # ---- the others -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Reach the hub, with as many attempts as it takes."""
        warn_at = time.monotonic() + WARN_SEC
        while True:
            with contextlib.suppress(OSError):
                link = socket.create_connection(tuple(self.facts["hub"]), CONNECT_SEC)
                # A port that nobody listens on may connect to itself.
                if link.getsockname() != link.getpeername() and self.talk(link):
                    return
                link.close()
            if time.monotonic() >= warn_at:
                warn_at = float("inf")
                print_stderr(f"{self.name} can't reach rank 0 at {':'.join(map(str, self.facts['hub']))} yet; until it "
                             f"can, the death of a rank may leave it waiting")
            time.sleep(TICK_SEC)

    def accept(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                start_thread(self.talk, self.listener.accept()[0])

    def talk(self, link: socket.socket) -> bool:
        """Read what another watchdog sends until it is gone; returns whether it was one of this run."""
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if self.listener is None:
            self.introduce(link)
        other = None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # gone, or a stranger that talks otherwise
            for message in map(json.loads, link.makefile()):
                if other is None:
                    if message["run"] != self.facts["run"]:
                        break
                    other = message
                    if self.listener is not None:
                        self.introduce(link)
                    self.unmet -= 1
                elif "left" in message:
                    other = {**other, "left": True}
                    break
                else:
                    self.end_run(message["reason"], message["excuse_sec"], link)
        if link in self.links:
            self.links.remove(link)
        link.close()
        if other and "left" not in other:
            self.end_run(f"{other['name']} can't be reached any more{log_of(other)}")
        return other is not None

    def introduce(self, link: socket.socket) -> None:
        send(link, self.hello)
        self.links.append(link)
        if self.reason:
            send(link, self.reason)

    def end_run(self, reason: str, excuse_sec: float = 0, source: Optional[socket.socket] = None) -> None:
        """Tell the others why the run ends, once, and end the rank; later if it may have the same error itself."""
        if self.reason is None and not self.leaving:
            self.reason = {"reason": reason, "excuse_sec": excuse_sec}
            self.end_at = time.monotonic() + excuse_sec
            self.tell(self.reason, source)

    def tell(self, message: Dict, source: Optional[socket.socket] = None) -> None:
        for link in list(self.links):
            if link is not source:
                send(link, message)


def send(sock: socket.socket, message: Dict) -> None:
    """Send if the other end is there; if it isn't, reading from it shows that."""
    with contextlib.suppress(OSError):
        sock.sendall(json.dumps(message).encode() + b"\n")


def start_thread(function, *args) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()


def log_of(facts: Dict) -> str:
    return f"; its log is {facts['log']}" if facts["log"] else ""


def print_stderr(text: str) -> None:
    """Write a line in one piece, whatever the rank is writing."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def parent_of(pid: int) -> Optional[int]:
    """Return the parent's pid, or None where that can't be known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def main() -> None:
    facts = json.loads(sys.argv[1])
    listener = None if facts["listener"] is None else socket.socket(fileno=facts["listener"])
    Guard(facts, socket.socket(fileno=0), listener).run()


if __name__ == "__main__":
    main()
