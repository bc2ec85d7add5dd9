"""Runs of two processes of which one, or their launcher, is killed at any moment, and that go on afterwards."""

import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Dict, List, Optional, Tuple

import pytest
from outcome import Fault, check
from real_run import ITERS, Hit, Session, command_of, iterations, read_proc, survive, uninterrupted

GONE_SEC = 30.0  # within which a dead rank, or launcher, takes all others along
RANKS = 2


def kill_rank(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """SIGKILL one rank at any moment of its life."""
    victim, from_start = random.randrange(RANKS), number % 4 == 1
    session, delay_sec = start(random, run, from_start)
    while session.code is None and victim not in ranks(session):
        time.sleep(0.001)
    if session.code is not None:
        return session, None
    os.kill(ranks(session)[victim], signal.SIGKILL)
    faults = judge_end(session)
    if not session.code:
        faults.append(f"the launcher's exit code is {session.code}")
    said = session.printed + workerlog(run, 1 - victim)
    if f"{run.name}_ranks/workerlog.{victim}" not in said:
        faults.append(f"the log of the dead rank isn't named: {said[-1000:]}")
    return session, Hit(f"SIGKILL of rank {victim} after {delay_sec:.3f} s (try {number})",
                        "starting" if from_start else "training", faults)


def kill_launcher(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """SIGKILL the launcher while its ranks train: they save and stop."""
    session, delay_sec = start(random, run, from_start=False)
    if session.code is not None:
        return session, None
    os.kill(launcher_of(session), signal.SIGKILL)
    faults, log = judge_end(session), workerlog(run, 0)
    finished = (run / f"iter_{ITERS[RANKS]}" / "score.json").exists()  # it was about to end well, and did
    if not finished and "--resume auto" not in log[-1000:]:
        faults.append(f"no word of how to go on: {log[-500:]}")
    if not finished and session.trained and session.trained not in iterations(run):
        faults.append(f"iteration {session.trained} was trained and isn't saved")
    return session, Hit(f"SIGKILL of the launcher after {delay_sec:.3f} s (try {number})", "training", faults)


def start(random: Random, run: Path, from_start: bool) -> Tuple[Session, float]:
    """A session at a random moment of its life, or ended."""
    seconds = uninterrupted(RANKS).seconds
    delay_sec = random.uniform(seconds / 4, seconds) if from_start else random.uniform(0.0, seconds / 2)
    session = Session(run, "--resume", "auto", processes=RANKS)
    session.wait_for(delay_sec, logged=not from_start)
    return session, delay_sec


def judge_end(session: Session) -> List[str]:
    """Every process must be gone in time, of itself."""
    deadline = time.monotonic() + GONE_SEC
    session.wait(GONE_SEC)
    return session.orphans(max(0.0, deadline - time.monotonic()))


def launcher_of(session: Session) -> Optional[int]:
    return next((pid for pid in session.processes() if " paddle.distributed.launch " in command_of(pid)), None)


def ranks(session: Session) -> Dict[int, int]:
    """The pid of each rank that is there: a child of the launcher."""
    found, launcher = {}, launcher_of(session)
    for pid in session.processes():
        rank = re.search(rb"(?:^|\0)PADDLE_TRAINER_ID=(\d+)\0", read_proc(pid, "environ"))
        parent = read_proc(pid, "stat").rpartition(b")")[2].split()[1:2]
        # A child whose command is the launcher's is about to become a rank.
        if rank and parent == [b"%d" % (launcher or 0)] and " paddle.distributed.launch " not in command_of(pid):
            found[int(rank.group(1))] = pid
    return found


def workerlog(run: Path, rank: int) -> str:
    path = run.with_name(f"{run.name}_ranks") / f"workerlog.{rank}"
    return path.read_text(errors="replace") if path.exists() else ""


FAULTS = [
    Fault("SIGKILL of one rank of two", 1, 10, partial(survive, "rank death", kill_rank, processes=RANKS)),
    Fault("SIGKILL of the launcher", 1, 5, partial(survive, "launcher death", kill_launcher, processes=RANKS)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_run_that_loses_a_process_ends_and_goes_on(fault, tmp_path):
    check(fault, tmp_path)
