"""Runs that are killed or told to stop at any moment, and go on with `--resume auto`."""

import re
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Callable, List, Optional, Sequence, Tuple

import pytest
from outcome import Fault, Outcome
from real_run import (
    FAULTY_MACHINE,
    ITERS,
    SAVE_INTERVAL,
    Hit,
    Moment,
    Session,
    Watch,
    iterations,
    phase,
    send_to,
    survive,
    uninterrupted,
)

RESUMABLE = 75  # EX_TEMPFAIL
STOP_SEC = 15.0  # that a run gets to stop in: an iteration and a save take a tenth of a second
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
# The same for a signal that is only a wish.
STOP_STEPS = [
    (r"open .*/log\.jsonl", 1),  # after the start, before the first iteration
    (r"open .*/train\.log", 1), (r"open .*/\.config\.yml.*", 1), (r"open .*/\.log\.jsonl.*", 1),
    (r"os.mkdir .*/iter_{n}\.tmp", 1), (r"os.rename .*/iter_{n}\.tmp", 1), ("os.rename .*/iter_{old}", 3),
    ("os.mkdir .*/best_model.tmp", 1), ("os.rename .*/best_model", 2), (r"open .*/iter_{n}/\.score\.json.*", 1),
]
LAUNCHER_STOP_SEC = 60.0  # Paddle's launcher waits for a rank for 30 s, then kills it


@dataclass
class Strike:
    """What is done to a session.

    Attributes:
        judge: what the session did wrong in answer.
        origin: the event from which on any moment may be the strike's.
    """

    name: str
    deliver: Callable[[Session], None]
    judge: Callable[[Session], List[str]]
    origin: str = "begun"


def survive_strikes(strikes: Sequence[Strike], processes: int, count: int, folder: Path) -> Outcome:
    """Strike runs in turn with these."""
    def disturb(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
        turn, place = divmod(number, len(strikes))
        strike, moment = strikes[place], draw_moment(random, turn + place, processes, strikes[place].origin)
        session = Session(run, "--resume", "auto", processes=processes)
        if not Watch(session).until(moment):
            return session, None
        strike.deliver(session)
        if session.code == 0:  # it was at its very end
            return session, None
        kind = phase(session)
        return session, Hit(f"{strike.name} {moment}, try {number}", kind, strike.judge(session))

    return survive(strikes[0].name, disturb, count, folder, processes)


def draw_moment(random: Random, turn: int, processes: int, origin: str) -> Moment:
    """Every other moment is in a save or just after one, the others are any from the origin on."""
    if turn % 2:
        seconds = uninterrupted(processes).seconds
        earliest, latest = (seconds / 4, seconds) if origin == "start" else (0.0, seconds / 2)
        return Moment(origin, 1, random.uniform(earliest, latest))
    event, longest_sec = (("saving", 0.03), ("saved", 0.12), ("best", 0.03))[turn // 2 % 3]
    nth = 1 if event == "best" else random.randint(1, 3)
    return Moment(event, nth, random.uniform(0.0, longest_sec))


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


# ---- strikes -----------------------------------------------------------------------------------------

def kill_main(session: Session) -> None:
    session.send(signal.SIGKILL)
    session.wait()


def judge_kill(session: Session) -> List[str]:
    """A run is dead, and its workers end by themselves."""
    faults = [] if session.code == -signal.SIGKILL else [f"exit code {session.code}: {session.printed[-1000:]}"]
    return faults + judge_orphans(session)


def judge_orphans(session: Session) -> List[str]:
    orphans = session.orphans()
    return [f"processes {orphans} outlive the run"] if orphans else []


def terminate_slow_readers(session: Session) -> None:
    """SIGTERM to every process, as Slurm and systemd send it, while the workers are in the midst of a picture."""
    workers = session.workers()
    for pid in workers:
        send_to(pid, signal.SIGSTOP)
    time.sleep(0.2)  # now the run waits for them, if it is training
    session.send(signal.SIGTERM, everyone=True)
    for pid in workers:
        send_to(pid, signal.SIGCONT)


def judge_stop(session: Session) -> List[str]:
    """A run that was told to stop saves, says how to go on, and ends with 75."""
    code = session.wait(STOP_SEC)
    if code is None:
        return [f"it goes on for more than {STOP_SEC:.0f} s"]
    faults = []
    if not is_finished(session):
        faults += [] if code == RESUMABLE else [f"exit code {code}"]
        if "--resume auto" not in "".join(session.printed.splitlines()[-1:]):
            faults.append(f"no word of how to go on: {session.printed.strip()[-300:]}")
    if "Traceback" in session.printed:
        faults.append(f"a traceback: {session.printed.strip()[-1000:]}")
    return faults + judge_saved(session) + judge_orphans(session)


def is_finished(session: Session) -> bool:
    """Whether nothing was left to do when the signal came."""
    return (session.save_dir / f"iter_{ITERS[1]}" / "score.json").exists()


def judge_saved(session: Session) -> List[str]:
    """The last iteration of which the log tells is saved."""
    trained = re.findall(r"\[TRAIN\] epoch: \d+, iter: (\d+)/", session.logged)
    if trained and int(trained[-1]) not in iterations(session.save_dir):
        return [f"iteration {trained[-1]} was trained and isn't saved"]
    return []


def judge_launcher(session: Session) -> List[str]:
    """Paddle's launcher passes the signal on and ends with its number."""
    code = session.wait(LAUNCHER_STOP_SEC)
    if code is None:
        return [f"it goes on for more than {LAUNCHER_STOP_SEC:.0f} s"]
    return ([] if code else ["exit code 0"]) + judge_saved(session) + judge_orphans(session)


KILL = Strike("SIGKILL", kill_main, judge_kill, origin="start")
KILL_ALL = Strike("SIGKILL of all processes", Session.kill, judge_orphans, origin="start")
TERMINATE = Strike("SIGTERM", lambda session: session.send(signal.SIGTERM), judge_stop)
TERMINATE_ALL = Strike("SIGTERM to all processes", terminate_slow_readers, judge_stop)
INTERRUPT = Strike("Ctrl-C", lambda session: session.send(signal.SIGINT), judge_stop)
TERMINATE_LAUNCHER = Strike("SIGTERM to the launcher", lambda session: session.send(signal.SIGTERM), judge_launcher)

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
    outcome = fault.survive(fault.small, tmp_path)
    assert outcome.lost == []
    assert outcome.tried == outcome.survived >= fault.small
