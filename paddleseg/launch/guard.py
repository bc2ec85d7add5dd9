"""The process beside a rank that ends it when another rank dies; `peers.py` starts it.

It is a process, not a thread, because Paddle keeps Python's lock during waits that a dead rank makes endless: the
start of a process group, and `Tensor.item` on a GPU behind an all-reduce. It imports the standard library alone.

The guards of a run form a star around the one of rank 0, the hub. A guard that sees its own rank die tells the
others; each prints the news and ends its rank. TCP's keep-alive notices a machine that vanished with its guards.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Callable, Dict, List, Optional, Union

TICK_SEC = 0.5  # between two looks at the processes
CONNECT_SEC = 2  # for one attempt to reach the hub
WARN_SEC = 60  # until a guard says that it can't reach the hub
EXCUSE_SEC = 1  # for a rank to end by the error that another one ended by
END_SEC = 3  # for a rank to end itself when told to
FAREWELL_SEC = 15  # for guards to find each other after their ranks' end
LAUNCHER_SEC = 60  # for a rank to save and stop when its launcher is gone
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a vanished machine shows after 25 s
LINE_BYTES = 1 << 16


class Link:
    """A connection that carries JSON objects, one a line.

    Attributes:
        name, log: of the rank at the other end; None until it introduced itself.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.sock = sock
        self.name: Optional[str] = None
        self.log: Optional[str] = None
        self._rest = b""

    def send(self, message: Dict) -> None:
        """Send if the other end is there; if it isn't, `receive` says so."""
        with contextlib.suppress(OSError):
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Optional[List[Dict]]:
        """The messages that have arrived; None if the other end is gone or talks rubbish."""
        try:
            data = self.sock.recv(LINE_BYTES)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except BlockingIOError:
            return []
        except (OSError, ValueError):
            return None
        sound = len(self._rest) <= LINE_BYTES and all(isinstance(message, dict) for message in messages)
        return messages if data and sound else None


class Guard:
    """What one guard knows and does.

    Args:
        facts: run (a name that its ranks alone share), world (its number of ranks), pid (of the rank), name and log
            (of the rank, for the news), launcher (its pid), hub ([host, port], or None in a run of one process),
            way_out (the end of a line of news).
        rank: the connection to the rank.
        listener: where the others connect to, for the hub.
    """

    def __init__(self, facts: Dict, rank: Link, listener: Optional[socket.socket]):
        self.facts, self.rank, self.listener = facts, rank, listener
        self.rank_sources: List[Union[int, socket.socket]] = [rank.sock]
        self.start = time.monotonic()
        self.links: List[Link] = []
        self.met = 0  # ranks that introduced themselves
        self.hub_wanted = facts["hub"] is not None and listener is None
        self.warned = False
        self.last_words: Optional[Dict] = None  # why the run ends, for those who come late too
        self.end_at: Optional[float] = None  # when to end the rank for it
        self.kill_at: Optional[float] = None  # when to kill a rank without a launcher
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # without it a death may show at the next tick only
            self.rank_sources.append(os.pidfd_open(self.facts["pid"]))
        for source in self.rank_sources:
            self.watch(source, self.hear_rank)
        if self.listener is not None:
            self.listener.setblocking(False)
            self.watch(self.listener, self.accept)
        while True:
            self.tick()
            for key, _ in self.selector.select(TICK_SEC):
                key.data()

    def watch(self, source: Union[int, socket.socket], handler: Callable[[], None]) -> None:
        self.selector.register(source, selectors.EVENT_READ, handler)

    def tick(self) -> None:
        """Do what no event asks for."""
        now = time.monotonic()
        if not self.rank_lives():
            self.hear_rank()
        if self.end_at is not None and now >= self.end_at:
            self.end_rank()
        launcher = self.facts["launcher"]
        if self.kill_at is None and parent_of(self.facts["pid"]) not in (None, launcher):
            self.kill_at = now + LAUNCHER_SEC
            say(f"RunError: {self.facts['name']} stops, for its launcher (pid {launcher}) died")
            self.signal_rank(signal.SIGTERM)
        if self.kill_at is not None and now >= self.kill_at:
            self.signal_rank(signal.SIGKILL)
        if self.hub_wanted and not self.links:
            self.connect()
            if not self.links and not self.warned and now >= self.start + WARN_SEC:
                self.warned = True
                say(f"{self.facts['name']} can't reach rank 0 at {':'.join(map(str, self.facts['hub']))} yet; "
                    f"until it can, the death of a rank may leave it waiting")

    # ---- the star -------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Try once to reach the hub."""
        try:
            sock = socket.create_connection(tuple(self.facts["hub"]), CONNECT_SEC)
        except OSError:
            return
        if sock.getsockname() == sock.getpeername():  # a port that nobody listens on may connect to itself
            sock.close()
            return
        self.introduce(self.add(sock))

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            self.add(self.listener.accept()[0])

    def add(self, sock: socket.socket) -> Link:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        link = Link(sock)
        self.links.append(link)
        self.watch(sock, lambda: self.hear(link))
        return link

    def drop(self, link: Link) -> None:
        self.selector.unregister(link.sock)
        link.sock.close()
        self.links.remove(link)
        if link.name is not None:
            self.hub_wanted = False  # to a guard other than the hub, it was the hub

    def introduce(self, link: Link) -> None:
        link.send({"run": self.facts["run"], "name": self.facts["name"], "log": self.facts["log"]})
        if self.last_words:
            link.send(self.last_words)

    def hear(self, link: Link) -> None:
        """Read what another guard says."""
        messages = link.receive()
        if messages is None:
            self.drop(link)
            if link.name is not None:
                self.spread(f"{link.name} can't be reached any more{log_of(link.log)}")
            return
        for message in messages:
            if link.name is None:
                if message.get("run") != self.facts["run"]:
                    return self.drop(link)  # a stranger
                link.name, link.log = message["name"], message["log"]
                self.met += 1
                if self.listener is not None:
                    self.introduce(link)
            elif "left" in message:
                return self.drop(link)
            else:
                self.spread(message["news"], message["may_be_common"], link)

    def spread(self, news: str, may_be_common: bool = False, source: Optional[Link] = None) -> None:
        """Tell the others why the run ends, once, and end the rank; later if it may have the same error itself."""
        if self.last_words is None:
            self.last_words = {"news": news, "may_be_common": may_be_common}
            self.tell(self.last_words, source)
            self.end_at = time.monotonic() + (EXCUSE_SEC if may_be_common else 0)

    def tell(self, message: Dict, source: Optional[Link] = None) -> None:
        for link in self.links:
            stranger = self.listener is not None and link.name is None
            if not stranger and link is not source:
                link.send(message)

    # ---- the rank -------------------------------------------------------------------------------------------------

    def rank_lives(self) -> bool:
        return os.getppid() == self.facts["pid"]

    def signal_rank(self, number: int) -> None:
        if self.rank_lives():
            os.kill(self.facts["pid"], number)

    def hear_rank(self) -> None:
        """Read the rank's last words, or see that it died without; it says nothing before."""
        messages = self.rank.receive()
        if messages:
            if "error" in messages[0]:
                self.spread(f"{self.facts['name']} stopped with {messages[0]['error']}{log_of(self.facts['log'])}",
                            may_be_common=True)
            else:
                self.tell({"left": True})
            self.leave()
        if messages is None or not self.rank_lives():
            if self.last_words is None:
                say(f"RunError: {self.facts['name']} died")
                self.spread(f"{self.facts['name']} died{log_of(self.facts['log'])}")
            self.leave()

    def end_rank(self) -> None:
        """Print the news and end the rank, which is given the chance to choose its exit code."""
        say("; ".join(filter(None, ["RunError: " + self.last_words["news"], self.facts["way_out"]])))
        self.rank.send({})
        deadline = time.monotonic() + END_SEC
        while self.rank_lives() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.signal_rank(signal.SIGKILL)
        self.leave()

    def leave(self) -> None:
        """End this process when the others have its last words."""
        for source in self.rank_sources:
            self.selector.unregister(source)
        deadline = time.monotonic() + FAREWELL_SEC
        while self.last_words and self.some_are_missing() and time.monotonic() < deadline:
            if self.hub_wanted:
                self.connect()
            for key, _ in self.selector.select(TICK_SEC):
                key.data()
        for link in self.links:  # a close at once could destroy what they haven't read yet
            with contextlib.suppress(OSError):
                link.sock.shutdown(socket.SHUT_WR)
                link.sock.settimeout(CONNECT_SEC)
                while link.sock.recv(LINE_BYTES):
                    pass
        os._exit(0)

    def some_are_missing(self) -> bool:
        """Whether a guard that should hear the last words hasn't been met."""
        if self.listener is not None:
            return self.met < self.facts["world"] - 1
        return self.hub_wanted and not self.links


def log_of(path: Optional[str]) -> str:
    return f"; its log is {path}" if path else ""


def say(text: str) -> None:
    """Write a line to standard error in one piece, whatever the rank is writing."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def parent_of(pid: int) -> Optional[int]:
    """The parent's pid, or None where that can't be known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def main() -> None:
    facts = json.loads(sys.argv[1])
    listener = None if facts["listener"] is None else socket.socket(fileno=facts["listener"])
    Guard(facts, Link(socket.socket(fileno=0)), listener).run()


if __name__ == "__main__":
    main()
