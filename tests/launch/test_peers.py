"""Ranks without Paddle, which only wait, end and die; pytest is their launcher."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.launch import guard, peers

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LIMIT_SEC = 20.0
RANK = f"""
import argparse, ctypes, os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from paddleseg.cvlibs.errors import DataError, Interrupted
from paddleseg.launch import guard, peers
from paddleseg.utils.cli import run_main

peers._NEWS_SEC = 2.0
RESET = "[gloo/transport/tcp/pair.cc:576] Read error [127.0.0.1]:7579: Connection reset by peer"

def sleep(seconds=60.0):
    time.sleep(seconds)

def hold_the_lock():
    ctypes.PyDLL(None).sleep(60)

def fork_and_sleep():
    if os.fork() == 0:  # as a process that reads data, which inherits every descriptor
        time.sleep(4)
        os._exit(0)
    time.sleep(60)

def told():
    while not os.path.exists("go"):
        time.sleep(0.01)

def fail(error):
    raise error

def on_sigterm(handler):
    signal.signal(signal.SIGTERM, handler)
    time.sleep(60)

def talk():
    import paddle
    paddle.distributed.init_parallel_env()
    number = paddle.ones([1])
    for turn in range(3000):
        paddle.distributed.all_reduce(number)
        time.sleep(0.01)
        if turn == 20 and os.environ["PADDLE_TRAINER_ID"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

@peers.watch_peers("go on with --resume auto")
def main(args):
    print("here", flush=True)
    eval(sys.argv[1])
    return 0

if len(sys.argv) > 2:
    guard.__file__ = sys.argv[2]
sys.exit(run_main(main, argparse.Namespace(debug=False)))
"""


class Run:
    """Ranks that a test starts, and ends at its end."""

    def __init__(self, folder: Path, world: int):
        self.folder, self.world, self.ranks = folder, world, {}
        self.port = free_port()
        (folder / "rank.py").write_text(RANK)

    def command(self, behaviour: str, *more) -> list:
        return [sys.executable, str(self.folder / "rank.py"), behaviour, *map(str, more)]

    def environment(self, rank: int) -> dict:
        endpoints = ",".join(f"127.0.0.1:{self.port if number == 0 else 1}" for number in range(self.world))
        return {**os.environ, "PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(self.world),
                "PADDLE_TRAINER_ENDPOINTS": endpoints, "PADDLE_MASTER": "127.0.0.1:2"}

    def start(self, rank: int, behaviour: str, *more, launched: bool = False) -> subprocess.Popen:
        """Start a rank, or a process that starts it."""
        command = self.command(behaviour, *more)
        if launched:
            command = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
        with open(self.folder / f"workerlog.{rank}", "w") as log:
            self.ranks[rank] = subprocess.Popen(command, env=self.environment(rank), stdout=log,
                                                stderr=log, cwd=self.folder)
        return self.ranks[rank]

    def start_all(self, *behaviours) -> list:
        """Start the ranks and wait until they, and their watchdogs, know each other."""
        started = [self.start(rank, behaviour) for rank, behaviour in enumerate(behaviours)]
        for rank in self.ranks:
            eventually(lambda rank=rank: "here" in self.log(rank))
        eventually(lambda: len(self.connections()) >= 2 * (self.world - 1))
        return started

    def tell(self) -> None:
        (self.folder / "go").touch()

    def connections(self) -> list:
        """Established connections to rank 0's watchdog, once from each end."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ports = ([int(address.rpartition(":")[2], 16) for address in line.split()[1:3]] + line.split()[3:4]
                 for line in lines)
        return [port for *both, state in ports for port in both if port == self.port and state == "01"]

    def guards(self) -> list:
        return processes_with(f'"hub": ["127.0.0.1", {self.port}]')

    def log(self, rank: int) -> str:
        return (self.folder / f"workerlog.{rank}").read_text()

    def news(self, rank: int) -> list:
        return [line for line in self.log(rank).splitlines() if line != "here"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def processes_with(text: str) -> list:
    """The pids of processes that have this text in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found += [int(path.parent.name)] if text.encode() in path.read_bytes() else []
    return found


def eventually(condition, limit_sec: float = LIMIT_SEC) -> None:
    deadline = time.monotonic() + limit_sec
    while not condition():
        assert time.monotonic() < deadline, "it doesn't come to pass"
        time.sleep(0.02)


@pytest.fixture
def start_run(tmp_path):
    """Make runs; at the end none of their processes may be left."""
    runs = []

    def make(world: int = 2) -> Run:
        runs.append(Run(tmp_path, world))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.ranks.values():
            process.kill()
            process.wait()
        eventually(lambda run=run: not run.guards(), guard.FAREWELL_SEC / 2)


@pytest.mark.parametrize("behaviour, code, victim, world", [
    ("sleep()", 1, 0, 2), ("fork_and_sleep()", 1, 1, 2), ("hold_the_lock()", -signal.SIGKILL, 1, 2),
    ("sleep()", 1, 2, 4)])
def test_a_dead_rank_takes_the_others_along(start_run, behaviour, code, victim, world):
    run = start_run(world)
    started = run.start_all(*[behaviour] * world)
    started[victim].kill()
    died = f"RunError: rank {victim} (pid {started[victim].pid}) died"
    for rank in range(world):
        assert started[rank].wait(LIMIT_SEC) == (-signal.SIGKILL if rank == victim else code)
        if rank != victim:
            assert run.news(rank) == [f"{died}; its log is workerlog.{victim}; go on with --resume auto"]
    eventually(lambda: run.news(victim) == [died])


@pytest.mark.parametrize("error, own", [
    ("DataError('a.png is no image')", r"DataError: a.png is no image"),
    ("IndexError('out of range')", r"Traceback.*\nIndexError: out of range"),
    ("RuntimeError(RESET)", r"LostPeer: .*reset by peer.*")])
def test_an_error_of_one_rank_reaches_the_others(start_run, error, own):
    run = start_run()
    started = run.start_all("sleep()", f"told(), fail({error})")
    run.tell()
    assert [process.wait(LIMIT_SEC) for process in started] == [1, 1]
    assert re.fullmatch(own, "\n".join(run.news(1)), re.DOTALL)
    kind = error.partition("(")[0]
    assert re.fullmatch(rf"RunError: rank 1 \(pid {started[1].pid}\) stopped with {kind}: .*; its log is workerlog.1; "
                        r"go on with --resume auto", *run.news(0))


def test_an_error_of_all_ranks_is_told_by_each_itself(start_run):
    run = start_run(world=3)
    started = run.start_all(*["told(), fail(DataError('no images'))"] * 3)
    run.tell()
    assert [process.wait(LIMIT_SEC) for process in started] == [1, 1, 1]
    assert [run.news(rank) for rank in range(3)] == [["DataError: no images"]] * 3


@pytest.mark.parametrize("end, code, news, first", [
    ("True", 0, [], 0), ("sys.exit(0)", 0, [], 1), ("fail(Interrupted('saved'))", 75, ["Interrupted: saved"], 1)])
def test_who_leaves_well_is_not_missed(start_run, end, code, news, first):
    run = start_run()
    behaviours = [f"told(), {end}", "told(), sleep(2.5)"]
    started = run.start_all(*(behaviours if first == 0 else behaviours[::-1]))
    run.tell()
    assert started[first].wait(LIMIT_SEC) == code and started[1 - first].wait(LIMIT_SEC) == 0
    assert run.news(first) == news and run.news(1 - first) == []


def test_a_collective_that_a_death_broke_is_told_as_the_death(start_run):
    run = start_run()
    started = run.start_all("told(), fail(RuntimeError(RESET))", "sleep()")
    run.tell()
    time.sleep(0.1)
    started[1].kill()
    assert started[0].wait(LIMIT_SEC) == 1
    assert [line.split(";")[0] for line in run.news(0)] == [f"RunError: rank 1 (pid {started[1].pid}) died"]


@pytest.mark.parametrize("early", [0, 1])
def test_a_rank_that_comes_late_hears_of_a_death_before(start_run, early):
    run = start_run()
    run.start(early, "sleep()")
    eventually(lambda: run.guards() and "here" in run.log(early))
    time.sleep(0.3)
    run.ranks[early].kill()
    time.sleep(1.0)
    run.start(1 - early, "sleep()")
    assert run.ranks[1 - early].wait(LIMIT_SEC) == 1
    assert f"rank {early} (pid {run.ranks[early].pid}) died; its log is workerlog.{early}" in run.log(1 - early)


def test_strangers_do_no_harm(start_run):
    run = start_run()
    started = run.start_all("told()", "told()")
    for rubbish in (b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"run": "another"}\n', b'{"left": true}\n'):
        with socket.create_connection(("127.0.0.1", run.port), timeout=LIMIT_SEC) as stranger:
            stranger.sendall(rubbish)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    run.tell()
    assert [process.wait(LIMIT_SEC) for process in started] == [0, 0]
    assert run.news(0) == run.news(1) == []


def test_a_rank_whose_watchdog_is_killed_ends_the_run(start_run):
    run = start_run()
    started = run.start_all("sleep()", "sleep()")
    os.kill(next(pid for pid in run.guards() if guard.parent_of(pid) == started[1].pid), signal.SIGKILL)
    assert [process.wait(LIMIT_SEC) for process in started] == [1, 1]
    assert run.news(1) and f"rank 1 (pid {started[1].pid}) can't be reached any more" in run.log(0)


@pytest.mark.parametrize("behaviour, grace_sec, end", [
    ("on_sigterm(lambda *_: fail(Interrupted('saved')))", 60, ["Interrupted: saved"]),
    ("on_sigterm(signal.SIG_IGN)", 1, [])])
def test_no_rank_outlives_its_launcher(start_run, behaviour, grace_sec, end):
    run = start_run(world=1)
    quick = run.folder / "guard.py"
    quick.write_text(Path(guard.__file__).read_text().replace("LAUNCHER_SEC = 60", f"LAUNCHER_SEC = {grace_sec}"))
    launcher = run.start(0, behaviour, quick, launched=True)
    eventually(lambda: "here" in run.log(0))
    time.sleep(0.3)
    launcher.kill()
    launcher.wait()
    eventually(lambda: not processes_with(str(run.folder / "rank.py")))
    first, *news = run.news(0)
    assert re.fullmatch(rf"RunError: rank 0 \(pid \d+\) stops, for its launcher \(pid {launcher.pid}\) died", first)
    assert [line for line in news if not line.endswith(" died")] == end


def test_two_launchers_end_when_a_rank_of_one_dies(start_run):
    run = start_run()
    master, run.port = f"127.0.0.1:{free_port()}", 0  # the launchers choose
    launchers = [subprocess.Popen(
        [sys.executable, "-m", "paddle.distributed.launch", "--nnodes", "2", "--master", master, "--rank", str(node),
         "--nproc_per_node", "1", "--log_dir", f"node{node}", *run.command("talk()")[1:]], cwd=run.folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for node in (0, 1)]
    run.ranks.update(enumerate(launchers))
    log = run.folder / "node0" / "workerlog.0"
    eventually(lambda: log.exists() and "died" in log.read_text(), 90.0)
    assert re.search(r"^RunError: rank 1 \(pid \d+\) died; its log is node1/workerlog.0; go on", log.read_text(), re.M)
    assert "Traceback" not in log.read_text()
    assert all(launcher.wait(LIMIT_SEC) != 0 for launcher in launchers)


@pytest.mark.parametrize("endpoints, master, port", [
    ("10.0.0.1:500,10.0.0.1:501", "10.0.0.1:400", 500),  # as the launcher chooses
    ("10.0.0.1:6070,10.0.0.1:6071,10.0.0.2:6070,10.0.0.2:6071", "10.0.0.1:6070", 6072)])  # with --ips
def test_the_meeting_point_is_not_paddles_own(monkeypatch, endpoints, master, port):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", endpoints)
    monkeypatch.setenv("PADDLE_MASTER", master)
    assert peers.meeting_point() == ("10.0.0.1", port)


def test_a_port_that_is_taken_is_an_error(start_run):
    run = start_run()
    with socket.create_server(("", run.port)):
        process = run.start(0, "sleep()")
        assert process.wait(LIMIT_SEC) == RunError.exit_code
    assert re.fullmatch(rf"RunError: port {run.port} of 127.0.0.1, where .* can't be used \(Address .*; start .*\n",
                        run.log(0))
