"""Runs that are killed or told to stop at any moment, and go on with `--resume auto`."""

import re
import signal
from functools import partial
from pathlib import Path
from random import Random
from typing import Callable, List, Optional, Sequence, Tuple

import pytest
from outcome import Fault, Outcome, check
from real_run import (
    FAULTY_MACHINE,
    ITERS,
    SAVE_INTERVAL,
    Hit,
    Session,
    Strike,
    iterations,
    survive,
    survive_strikes,
)

RESUMABLE = 75  # EX_TEMPFAIL
# An iteration and a save take a tenth of a second; Paddle's launcher waits 30 s for a rank.
STOP_SEC = {1: 15.0, 2: 60.0}
# The changes in the file system at which most hangs, and which of those from there on; {n} is a later iteration, {old}
# one whose checkpoint goes then. At the end come all in their order from one save to the next.
STEPS = [
    ("os.rename .*/best_model", 2),  # the old best model is aside, the new one isn't there
    ("os.rename .*/best_model", 3),  # both are there
    (r"os.rename .*/iter_{n}\.tmp", 1), (r"os.rename .*/iter_{n}\.tmp", 2),
    ("os.rename .*/iter_{old}", 1), ("os.rename .*/iter_{old}", 3), ("os.rename .*/iter_{old}", 6),
    (r"open .*/iter_{n}/\.score\.json.*", 1), (r"open .*/iter_{n}/\.score\.json.*", 2),
    *((r"os.mkdir .*/iter_{n}\.tmp", count) for count in range(1, 56)),
]
# The same for a signal that only asks to stop.
STOP_STEPS = [
    (r"open .*/log\.jsonl", 1),  # after the start, before the first iteration
    (r"open .*/\.config\.yml.*", 1), (r"os.mkdir .*/iter_{n}\.tmp", 1), (r"os.rename .*/iter_{n}\.tmp", 1),
    ("os.rename .*/iter_{old}", 3), ("os.rename .*/best_model", 2), (r"open .*/iter_{n}/\.score\.json.*", 1),
]


def survive_steps(fault: str, steps: Sequence[Tuple[str, int]], judge: Callable[[Session], List[str]], count: int,
                  folder: Path) -> Outcome:
    """Kill or terminate runs before these changes in the file system, in turn."""
    def disturb(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
        later = max(iterations(run), default=0) // SAVE_INTERVAL * SAVE_INTERVAL + SAVE_INTERVAL * random.randint(3, 4)
        pattern, change = steps[number % len(steps)]
        pattern = pattern.format(n=later, old=later - 2 * SAVE_INTERVAL)
        session = Session(run, "--resume", "auto", through=[FAULTY_MACHINE, fault, pattern, change])
        session.wait()
        struck = re.search(r"^SIG\w+ before (?:os\.)?(\w+) .*", session.printed, re.MULTILINE)
        if not struck:
            return session, None
        return session, Hit(f"{struck[0]}, try {number}", struck[1], judge(session))

    return survive(f"{fault} steps", disturb, count, folder)


def kill_main(session: Session) -> None:
    session.send(signal.SIGKILL)
    session.wait()


def judge_kill(session: Session) -> List[str]:
    """The run is dead, and its workers end by themselves."""
    faults = [] if session.code == -signal.SIGKILL else [f"exit code {session.code}: {session.printed[-1000:]}"]
    return faults + session.orphans()


def judge_stop(session: Session, processes: int = 1) -> List[str]:
    """The run saves, says how to go on and ends with 75; Paddle's launcher ends with the signal's number instead."""
    code = session.wait(STOP_SEC[processes])
    if code is None:
        return [f"it goes on for more than {STOP_SEC[processes]:.0f} s"]
    faults, last_line = [], "".join(session.printed.splitlines()[-1:])
    finished = (session.save_dir / f"iter_{ITERS[processes]}" / "score.json").exists()  # when the signal came
    if processes > 1:
        faults += [] if code else ["exit code 0"]
    elif not finished and (code != RESUMABLE or "--resume auto" not in last_line):
        faults.append(f"exit code {code}, and the last line is {last_line}")
    if "Traceback" in session.printed:
        faults.append(f"a traceback: {session.printed.strip()[-1000:]}")
    if session.trained and session.trained not in iterations(session.save_dir):
        faults.append(f"iteration {session.trained} was trained and isn't saved")
    return faults + session.orphans()


KILL = Strike("SIGKILL", kill_main, judge_kill, from_start=True)
KILL_ALL = Strike("SIGKILL of all processes", Session.kill, Session.orphans, from_start=True)
TERMINATE = Strike("SIGTERM", lambda session: session.send(signal.SIGTERM), judge_stop)
TERMINATE_ALL = Strike("SIGTERM to all processes",  # as Slurm and systemd send it
                       lambda session: session.send(signal.SIGTERM, everyone=True), judge_stop)
INTERRUPT = Strike("Ctrl-C", lambda session: session.send(signal.SIGINT), judge_stop)
TERMINATE_LAUNCHER = Strike("SIGTERM to the launcher", TERMINATE.deliver, partial(judge_stop, processes=2))

FAULTS = [
    Fault("SIGKILL at any moment", 3, 30, partial(survive_strikes, [KILL], 1)),
    Fault("SIGKILL before each step of a save", 1, len(STEPS), partial(survive_steps, "kill", STEPS, judge_kill)),
    Fault("SIGTERM or Ctrl-C at any moment", 3, 30, partial(survive_strikes, [TERMINATE, INTERRUPT, TERMINATE_ALL], 1)),
    Fault("SIGTERM before a step of a start or a save", 1, len(STOP_STEPS),
          partial(survive_steps, "terminate", STOP_STEPS, judge_stop)),
    Fault("SIGKILL or SIGTERM of two processes and their launcher", 2, 10,
          partial(survive_strikes, [KILL_ALL, TERMINATE_LAUNCHER], 2)),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_struck_run_loses_nothing(fault, tmp_path):
    check(fault, tmp_path)
