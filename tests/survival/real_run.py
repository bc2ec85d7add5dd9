"""A real run of train.py that is over in seconds, made to be disturbed; and how to tell that nothing was lost of it."""

import atexit
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from random import Random
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from outcome import Outcome, choices

ROOT = Path(__file__).resolve().parents[2]
FAULTY_MACHINE = Path(__file__).with_name("faulty_machine.py")
ITERS = {1: 24, 2: 10}  # by the number of processes
SAVE_INTERVAL = 2
TIME_LIMIT_SEC = 120
MOST_MISSES = 10
# Files of a checkpoint, and of the best model, that a run and its repetition share bit for bit.
CHECKPOINT = ("model.pdparams", "model.pdopt", "train_state.json")
BEST = ("best_model/model.pdparams", "best_model/score.json")
# Options that a run may change without becoming another one.
FREE_KEYS = ("keep_checkpoint_max", "log_iters", "num_workers", "save_interval")
TIMES = ("batch_cost", "reader_cost", "ips", "eta_sec")
MARK = "SURVIVAL_SESSION"  # a variable in the environment of each process of a session


@functools.cache
def shared_folder() -> Path:
    """The folder of what all faults share, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="survival_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def scenes() -> Path:
    """Twelve synthetic scenes to train on, three to evaluate on."""
    root = shared_folder() / "scenes"
    subprocess.run([sys.executable, "tools/make_scenes.py", root, "--train", "12", "--val", "3", "--test", "0",
                    "--size", "64", "128", "--num_workers", "1"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return root


def arguments(save_dir: Path, *flags) -> List[str]:
    """train.py and its flags; later ones override the usual ones."""
    return [str(ROOT / "train.py"), "--config", str(ROOT / "configs/quick_start/encnet_resnet18_scenes.yml"), "--opts",
            f"train_dataset.dataset_root={scenes()}", f"val_dataset.dataset_root={scenes()}",
            "train_dataset.transforms.0.crop_size=[64, 48]", "model.backbone.base_channels=4", "model.mid_channels=8",
            "model.aux_channels=8", "model.num_codes=4", "lr_scheduler.warmup_iters=4", "--device", "cpu", "--do_eval",
            "--batch_size", "2", "--accum_iters", "2", "--num_workers", "1", "--log_iters", "1",
            "--save_interval", str(SAVE_INTERVAL), "--keep_checkpoint_max", "2", "--save_dir", str(save_dir),
            *map(str, flags)]


class Session:
    """One start of train.py, from its first process to the end of its last.

    Args:
        processes: that train together; more than one come from Paddle's launcher.
        through: a script that runs train.py, with its arguments.
    """

    def __init__(self, save_dir: Path, *flags, processes: int = 1, through: Sequence = (), cwd: Path = ROOT):
        self.save_dir, self._mark = save_dir, uuid.uuid4().hex
        self._log = save_dir / "train.log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self.newest_at_start = max(iterations(save_dir), default=0)
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_dir",
                    save_dir.with_name(save_dir.name + "_ranks")] if processes > 1 else []
        command = [sys.executable, *launcher, *through, *arguments(save_dir, "--iters", ITERS[processes], *flags)]
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: self._mark}, preexec_fn=_heed_ctrl_c)
        self._printed: List[bytes] = []
        atexit.register(self.kill)  # should an error or Ctrl-C end the trial before the session
        self._reader = threading.Thread(target=lambda: self._printed.extend(self._process.stdout), daemon=True)
        self._reader.start()

    @property
    def printed(self) -> str:
        return b"".join(self._printed).decode(errors="replace")

    @property
    def logged(self) -> str:
        """The session's part of train.log; there is none before everything is read and the directory open."""
        return self._log.read_bytes()[self._log_start:].decode() if self._log.exists() else ""

    @property
    def trained(self) -> int:
        """The last iteration of which the log tells."""
        return max(map(int, re.findall(r"\[TRAIN\] epoch: \d+, iter: (\d+)/", self.logged)), default=0)

    @property
    def code(self) -> Optional[int]:
        return self._process.poll()

    def wait(self, limit_sec: float = TIME_LIMIT_SEC) -> Optional[int]:
        """The exit code of the first process, or None if it is still there after so long."""
        try:
            self._process.wait(limit_sec)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(1.0)
        return self.code

    def wait_for(self, delay_sec: float, logged: bool = True) -> bool:
        """Wait so long from the start, or from the first line in the log; False if the session ended before."""
        while logged and not self.logged and self.code is None and time.monotonic() < self.started + TIME_LIMIT_SEC:
            time.sleep(0.002)
        return self.wait(delay_sec) is None

    def send(self, number: int, everyone: bool = False) -> None:
        """A signal to the first process's group, as a terminal sends it, or to every process of the session."""
        if not everyone:
            os.killpg(self._process.pid, number)
            return
        for pid in self.processes():
            send_to(pid, number)

    def processes(self) -> List[int]:
        """The session's processes, orphans included, the youngest first: a signal finds the parents unprepared."""
        mark = f"{MARK}={self._mark}".encode()
        return [pid for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True)
                if mark in read_proc(pid, "environ")]

    def kill(self) -> None:
        """Kill every process, and those that they have started meanwhile."""
        atexit.unregister(self.kill)
        while self.processes():
            self.send(signal.SIGKILL, everyone=True)
            time.sleep(0.01)
        self.wait()

    def orphans(self, limit_sec: float = 10.0) -> List[str]:
        """A line if processes are there so long after the first one has ended."""
        deadline = time.monotonic() + limit_sec
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [command_of(pid) for pid in self.processes()]
        return [f"these outlive the run: {', '.join(left)}"] if left else []


def read_proc(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:  # it has ended
        return b""


def command_of(pid: int) -> str:
    return read_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def send_to(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells start what runs in the background without it


def iterations(save_dir: Path) -> List[int]:
    """N of each iter_N that is there, ascending."""
    names = os.listdir(save_dir) if save_dir.is_dir() else []
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"iter_\d+", name))


# ---- what a run should have come to ------------------------------------------------------------------

class Reference(NamedTuple):
    """A run that nothing disturbed, with all of its checkpoints."""

    save_dir: Path
    seconds: float


@functools.cache
def uninterrupted(processes: int) -> Reference:
    save_dir = shared_folder() / f"uninterrupted{processes}"
    session = Session(save_dir, "--keep_checkpoint_max", 1000, processes=processes)
    code = session.wait()
    seconds = time.monotonic() - session.started
    session.kill()
    assert code == 0, session.printed[-3000:]
    assert iterations(save_dir) == list(range(SAVE_INTERVAL, ITERS[processes] + 1, SAVE_INTERVAL))
    return Reference(save_dir, seconds)


def damages(save_dir: Path) -> List[str]:
    """Name the files of checkpoints that are missing, or aren't what SHA256SUMS says."""
    found = []
    for directory in [*save_dir.glob("iter_*"), save_dir / "best_model"]:
        if directory.suffix or not directory.is_dir():  # iter_N.tmp
            continue
        sums = directory / "SHA256SUMS"
        lines = sums.read_text().splitlines() if sums.exists() else []
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        needed = CHECKPOINT if directory.name != "best_model" else ("model.pdparams",)
        found += [f"{directory.name} has no {name}, or no sum of it" for name in needed if name not in expected]
        found += [f"{directory.name}/{name} is damaged" for name, digest in expected.items()
                  if not (directory / name).exists()
                  or hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest]
    return found


def differences(save_dir: Path, whole: Path) -> List[str]:
    """Name what of the checkpoints of a run differs from the undisturbed one, bit by bit."""
    found = []
    for iteration in iterations(save_dir):
        directory, expected = save_dir / f"iter_{iteration}", whole / f"iter_{iteration}"
        names = [*CHECKPOINT, *(["score.json"] if (directory / "score.json").exists() else [])]
        if expected.is_dir():  # otherwise saved because of a signal
            found += [f"{directory.name}/{name} differs" for name in names
                      if _content(directory / name) != _content(expected / name)]
    return found


def final_differences(save_dir: Path, whole: Path, same_log: bool = True) -> List[str]:
    """Name the same of a finished run: its last checkpoint, its best model and its record, and what is left over."""
    names = [f"iter_{iterations(whole)[-1]}/score.json", *BEST, *(["log.jsonl"] if same_log else [])]
    return [*differences(save_dir, whole), *leftovers(save_dir), *(
        f"{name} is missing or differs" for name in names if _content(save_dir / name) != _content(whole / name))]


def leftovers(save_dir: Path) -> List[str]:
    """Temporary names that nobody will come back for."""
    return sorted(f"{path.relative_to(save_dir)} is left over" for path in save_dir.rglob("*")
                  if path.name.endswith((".tmp", ".old")))


def _content(path: Path) -> Union[bytes, List[Dict], None]:
    """Content of a file without times and without what may change; None if there is no file."""
    if not path.exists():
        return None
    if path.name == "log.jsonl":
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES}
                for line in path.read_text().splitlines()]
    if path.name == "train_state.json":
        state = json.loads(path.read_text())
        return [{**state, "config": {key: value for key, value in state["config"].items() if key not in FREE_KEYS}}]
    return path.read_bytes()


# ---- disturbing it -----------------------------------------------------------------------------------

class Hit(NamedTuple):
    """One disturbance: in words, of which kind, and what was wrong at once."""

    what: str
    kind: str
    faults: List[str]


# Starts a session of a run and disturbs it, unless it ends too early; the number is that of the try.
Disturb = Callable[[Random, int, Path], Tuple[Session, Optional[Hit]]]


def survive(name: str, disturb: Disturb, count: int, folder: Path, processes: int = 1,
            same_log: bool = True) -> Outcome:
    """Disturb the same run again and again until its end, then a new one, `count` times in all.

    Args:
        name: chooses the moments, together with the seed.
        same_log: the record of the run ends up as that of the uninterrupted one.
    """
    outcome, random, missed = Outcome(), choices(name), 0
    whole = uninterrupted(processes).save_dir
    while outcome.tried < count:
        assert missed < MOST_MISSES, f"{missed} whole runs ended before try {outcome.tried} of {name} met them"
        run, history, faults, finished = folder / f"run_{outcome.tried}", [], [], False
        while not finished and not faults:
            if outcome.tried < count:
                session, hit = disturb(random, outcome.tried, run)
            else:
                session, hit = Session(run, "--resume", "auto", processes=processes), None
            finished = hit is None
            if hit:
                history.append(hit.what)
                outcome.add(hit.kind)
            faults = (hit.faults if hit else []) + _judge(session, whole, finished, same_log)
            session.kill()
        missed = 0 if history else missed + 1
        if faults:
            outcome.lost.append(f"{run.name}: {', then '.join(history) or 'undisturbed'}: {'; '.join(faults)}")
        else:
            shutil.rmtree(run)
    return outcome


def _judge(session: Session, whole: Path, finished: bool, same_log: bool) -> List[str]:
    """Name what is wrong with a session's checkpoints and, if it went to its end, with all it made."""
    run = session.save_dir
    if finished and session.wait() != 0:
        end = "doesn't end" if session.code is None else f"ends with {session.code}"
        return [f"the run that goes on {end}: {session.printed.strip()[-1000:]}"]
    faults = damages(run)
    saved = re.findall(r"\tsaved \S*/iter_(\d+)$", session.logged + session.printed, re.MULTILINE)
    before, after = max([session.newest_at_start, *map(int, saved)]), max(iterations(run), default=0)
    if after < before:
        faults.append(f"iter_{before} was there, now iter_{after} is the newest")
    return faults or (final_differences(run, whole, same_log) if finished else differences(run, whole))


class Strike(NamedTuple):
    """A disturbance at a random moment: after the start if `from_start`, otherwise after the first line of the log."""

    name: str
    deliver: Callable[[Session], None]
    judge: Callable[[Session], List[str]]
    from_start: bool = False


def survive_strikes(strikes: Sequence[Strike], processes: int, count: int, folder: Path) -> Outcome:
    """Strike runs with each of these in turn."""
    seconds = uninterrupted(processes).seconds

    def disturb(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
        strike = strikes[number % len(strikes)]
        from_start = strike.from_start and number // len(strikes) % 4 == 1  # an import takes as long as the training
        delay_sec = random.uniform(0.0, seconds if from_start else seconds / 2)
        session = Session(run, "--resume", "auto", processes=processes)
        if not session.wait_for(delay_sec, logged=not from_start):
            return session, None
        kind = phase(session)
        strike.deliver(session)
        if session.code == 0:  # it was at its very end
            return session, None
        what = f"{strike.name} after {delay_sec:.3f} s, while {kind} (try {number})"
        return session, Hit(what, kind, strike.judge(session))

    return survive(strikes[0].name, disturb, count, folder, processes)


def phase(session: Session) -> str:
    if not session.logged:
        return "starting"
    return "saving" if list(session.save_dir.glob("*.tmp")) else "training or evaluating"
