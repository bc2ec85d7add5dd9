"""Runs of two processes of which one, or their launcher, is killed at any moment, and that go on afterwards."""

import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional

import pytest
from outcome import Fault, check
from real_run import ITERS, Session, Strike, command_of, iterations, read_proc, survive_strikes

GONE_SEC = 30.0  # within which a dead rank, or launcher, takes all others along
RANKS = 2


def kill_rank(victim: int, session: Session) -> None:
    while session.code is None and victim not in ranks(session):
        time.sleep(0.001)
    if session.code is None:
        os.kill(ranks(session)[victim], signal.SIGKILL)
        session.wait(GONE_SEC)


def judge_rank_death(victim: int, session: Session) -> List[str]:
    faults = judge_end(session)
    if not session.code:
        faults.append(f"the launcher's exit code is {session.code}")
    printed = session.printed + workerlog(session.save_dir, 1 - victim)
    if f"{session.save_dir.name}_ranks/workerlog.{victim}" not in printed:
        faults.append(f"the log of the dead rank isn't named: {printed[-1000:]}")
    return faults


def kill_launcher(session: Session) -> None:
    pid = launcher_of(session)
    if pid:
        os.kill(pid, signal.SIGKILL)
    session.wait(GONE_SEC)


def judge_launcher_death(session: Session) -> List[str]:
    """The ranks save and stop."""
    faults, run = judge_end(session), session.save_dir
    log = workerlog(run, 0)
    finished = (run / f"iter_{ITERS[RANKS]}" / "score.json").exists()  # it was about to end well, and did
    if not finished and "--resume auto" not in log[-1000:]:
        faults.append(f"no word of how to go on: {log[-500:]}")
    if not finished and session.trained and session.trained not in iterations(run):
        faults.append(f"iteration {session.trained} was trained and isn't saved")
    return faults


def judge_end(session: Session) -> List[str]:
    """Every process must be gone in time, of itself."""
    return ([] if session.code is not None else ["the launcher goes on"]) + session.orphans(GONE_SEC)


def launcher_of(session: Session) -> Optional[int]:
    return next((pid for pid in session.processes() if " paddle.distributed.launch " in command_of(pid)), None)


def ranks(session: Session) -> Dict[int, int]:
    """Return the pid of each rank that is there: a child of the launcher."""
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


RANK_DEATHS = [Strike(f"SIGKILL of rank {rank}", partial(kill_rank, rank), partial(judge_rank_death, rank),
                      from_start=True) for rank in range(RANKS)]
LAUNCHER_DEATH = Strike("SIGKILL of the launcher", kill_launcher, judge_launcher_death)
FAULTS = [
    Fault("SIGKILL of one rank of two", 1, 10, partial(survive_strikes, RANK_DEATHS, RANKS)),
    Fault("SIGKILL of the launcher", 1, 5, partial(survive_strikes, [LAUNCHER_DEATH], RANKS)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_run_that_loses_a_process_ends_and_goes_on(fault, tmp_path):
    check(fault, tmp_path)
