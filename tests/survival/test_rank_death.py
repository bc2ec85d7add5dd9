"""Runs of two processes of which one, or their launcher, is killed at any moment, and that go on afterwards."""

import os
import re
import signal
import time
from pathlib import Path
from random import Random
from typing import Dict, List, Optional, Tuple

import pytest
from outcome import Fault, Outcome
from real_run import ITERS, Hit, Moment, Session, Watch, iterations, phase, survive, uninterrupted
from test_kills import draw_moment

from paddleseg.launch.guard import parent_of

GONE_SEC = 30.0  # within which a dead rank, or launcher, takes all others along
RANKS = 2


def kill_rank(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """SIGKILL one rank at any moment of its life."""
    origin = "start" if number % 4 == 1 else "begun"
    victim, moment = random.randrange(RANKS), draw_moment(random, number, RANKS, origin)
    start = len(workerlog(run, 1 - victim))
    session = Session(run, "--resume", "auto", processes=RANKS)
    if not Watch(session).until(moment):
        return session, None
    while victim not in ranks(session):
        if session.code is not None:
            return session, None
        time.sleep(0.001)
    pid = ranks(session)[victim]
    guarded = any("guard.py" in command_of(child) for child in children(session, pid))
    os.kill(pid, signal.SIGKILL)
    kind = phase(session)
    faults = judge_end(session)
    if session.code == 0:
        faults.append("the launcher's exit code is 0")
    log = f"{run.name}_ranks/workerlog.{victim}"
    if guarded:
        said = workerlog(run, 1 - victim)[start:]
        news = rf"^RunError: rank {victim} \(pid {pid}\) died; its log is \S*{log}; .*--resume auto"
        if not re.search(news, said, re.MULTILINE):
            faults.append(f"the other rank doesn't say so: {said[-500:]}")
        if "Traceback" in said:
            faults.append(f"a traceback: {said[-1000:]}")
    elif log not in session.printed:  # it had no guard yet, or none any more: the launcher tells
        faults.append(f"the launcher doesn't say so: {session.printed[-500:]}")
    return session, Hit(f"SIGKILL of rank {victim} number {number}, {moment}", kind, faults)


def kill_launcher(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """SIGKILL the launcher while its ranks train: they save and stop."""
    moment = Moment("begun", 1, random.uniform(0.0, uninterrupted(RANKS).seconds / 2))
    session = Session(run, "--resume", "auto", processes=RANKS)
    if not Watch(session).until(moment):
        return session, None
    launcher = launcher_of(session)
    os.kill(launcher, signal.SIGKILL)
    kind = phase(session)
    faults = judge_end(session)
    if (run / f"iter_{ITERS[RANKS]}" / "score.json").exists():  # it was about to end well, and did
        return session, Hit(f"SIGKILL of the launcher number {number}, {moment}", kind, faults)
    log = workerlog(run, 0)
    if not re.search(rf"its launcher \(pid {launcher}\) died\n(.*\n)?Interrupted: .*--resume auto", log, re.DOTALL):
        faults.append(f"no word of how to go on: {log[-500:]}")
    trained = re.findall(r"\[TRAIN\] epoch: \d+, iter: (\d+)/", session.logged)
    if trained and int(trained[-1]) not in iterations(run):
        faults.append(f"iteration {trained[-1]} was trained and isn't saved")
    return session, Hit(f"SIGKILL of the launcher number {number}, {moment}", kind, faults)


def judge_end(session: Session) -> List[str]:
    """Every process must be gone in time, of itself."""
    deadline = time.monotonic() + GONE_SEC
    session.wait(GONE_SEC)
    left = session.orphans(max(0.0, deadline - time.monotonic()))
    return [f"after {GONE_SEC:.0f} s there still are {', '.join(map(command_of, left))}"] if left else []


def launcher_of(session: Session) -> Optional[int]:
    return next((pid for pid in session.processes() if " paddle.distributed.launch " in command_of(pid)), None)


def ranks(session: Session) -> Dict[int, int]:
    """The pid of each rank that is there: what the launcher started."""
    found = {}
    for pid in children(session, launcher_of(session)):
        rank = re.search(rb"(?:^|\0)PADDLE_TRAINER_ID=(\d+)\0", read(pid, "environ"))
        if rank and " paddle.distributed.launch " not in command_of(pid):  # else it is about to become one
            found[int(rank.group(1))] = pid
    return found


def children(session: Session, parent: Optional[int]) -> List[int]:
    return [pid for pid in session.processes() if parent_of(pid) == parent]


def command_of(pid: int) -> str:
    return read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:  # it has ended
        return b""


def workerlog(run: Path, rank: int) -> str:
    path = run.with_name(f"{run.name}_ranks") / f"workerlog.{rank}"
    return path.read_text(errors="replace") if path.exists() else ""


def survive_rank_death(count: int, folder: Path) -> Outcome:
    return survive("rank death", kill_rank, count, folder, RANKS)


def survive_launcher_death(count: int, folder: Path) -> Outcome:
    return survive("launcher death", kill_launcher, count, folder, RANKS)


FAULTS = [
    Fault("SIGKILL of one rank of two", 1, 10, survive_rank_death),
    Fault("SIGKILL of the launcher", 1, 5, survive_launcher_death),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_run_that_loses_a_process_ends_and_goes_on(fault, tmp_path):
    outcome = fault.survive(fault.small, tmp_path)
    assert outcome.lost == []
    assert outcome.tried == outcome.survived >= fault.small
