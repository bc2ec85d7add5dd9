"""A real run of train.py that is over in seconds, made to be ruined; and how to tell that nothing was lost of it."""

import atexit
import functools
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
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from outcome import Outcome, choices, seed

from paddleseg.utils import files

ROOT = Path(__file__).resolve().parents[2]
FAULTY_MACHINE = Path(__file__).with_name("faulty_machine.py")
ITERS = {1: 24, 2: 10}  # by the number of processes
SAVE_INTERVAL = 2
TIME_LIMIT_SEC = 120
CHECKPOINT = ("model.pdparams", "model.pdopt", "train_state.json")
BEST = ("model.pdparams", "score.json")
# What a run may choose without becoming another one.
FREE_KEYS = ("keep_checkpoint_max", "log_iters", "num_workers", "save_interval")
TIMES = ("batch_cost", "reader_cost", "ips", "eta_sec")
MARK = "SURVIVAL_SESSION"  # a variable in the environment of each process of a session


@functools.cache
def shared_folder() -> Path:
    """What is made once for all faults lies here, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="survival_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def scenes() -> Path:
    """Twelve drawn scenes to train on, three to evaluate on."""
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

    Attributes:
        faults: what was seen to be wrong while it ran.
    """

    def __init__(self, save_dir: Path, *flags, processes: int = 1, through: Sequence = (), cwd: Path = ROOT):
        self.save_dir, self._mark = save_dir, uuid.uuid4().hex
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", processes, "--log_dir",
                    save_dir.with_name(save_dir.name + "_ranks")] if processes > 1 else []
        command = [sys.executable, *launcher, *through, *arguments(save_dir, "--iters", ITERS[processes], *flags)]
        self.started, self.start_names = time.monotonic(), iterations(save_dir)
        self.faults: List[str] = []
        self._log, self._log_start = save_dir / "train.log", _size(save_dir / "train.log")
        self._process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: self._mark}, preexec_fn=_heed_ctrl_c)
        self._printed: List[bytes] = []
        atexit.register(self.kill)  # should an error or Ctrl-C end the trial before the session
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._printed.append(line)

    @property
    def printed(self) -> str:
        return b"".join(self._printed).decode(errors="replace")

    @property
    def has_begun(self) -> bool:
        """Whether it has read everything and opened its directory."""
        return _size(self._log) > self._log_start

    @property
    def logged(self) -> str:
        """What it has written to train.log."""
        if not self._log.exists():
            return ""
        with open(self._log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode()

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

    def send(self, number: int, everyone: bool = False) -> None:
        """A signal to the first process's group, as a terminal sends it, or to every process of the session."""
        if not everyone:
            os.killpg(self._process.pid, number)
            return
        for pid in self.processes():
            send_to(pid, number)

    def processes(self) -> List[int]:
        """The session's processes, orphans included, the youngest first: a signal finds the parents unprepared."""
        mark, found = f"{MARK}={self._mark}".encode(), []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if mark in Path("/proc", entry, "environ").read_bytes():
                        found.append(int(entry))
                except OSError:  # it has ended
                    pass
        return sorted(found, reverse=True)

    def workers(self) -> List[int]:
        """The processes that read for the first one: it has forked them, so that their command is its own."""
        own = _command(self._process.pid)
        return [pid for pid in self.processes() if pid != self._process.pid and _command(pid) == own]

    def kill(self) -> None:
        """Kill every process, and those that they have started meanwhile."""
        atexit.unregister(self.kill)
        while self.processes():
            self.send(signal.SIGKILL, everyone=True)
            time.sleep(0.01)
        self.wait()

    def orphans(self, limit_sec: float = 10.0) -> List[int]:
        """Processes that are there so long after the first one has ended."""
        deadline = time.monotonic() + limit_sec
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.processes()


def _command(pid: int) -> bytes:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells start what runs in the background without it


def send_to(pid: int, number: int) -> None:
    """A signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def iterations(save_dir: Path, suffix: str = "") -> List[int]:
    """N of each iter_N (or iter_N.tmp, …) that is there, ascending."""
    names = os.listdir(save_dir) if save_dir.is_dir() else []
    found = (re.fullmatch(rf"iter_(\d+){re.escape(suffix)}", name) for name in names)
    return sorted(int(match.group(1)) for match in found if match)


# ---- moments -----------------------------------------------------------------------------------------

@dataclass
class Moment:
    """When to strike.

    Attributes:
        event: "start" of the session; "begun", see `has_begun`; "saving", when an iter_N.tmp appears; "saved", when
            an iter_N does, which is then evaluated; "best", when a best_model.tmp appears.
        nth: of the session's events of this kind.
    """

    event: str
    nth: int
    delay_sec: float

    def __str__(self):
        return f"{1000 * self.delay_sec:.0f} ms after '{self.event}' number {self.nth}"


class Watch:
    """Looks at a run's directory while it trains; where no whole checkpoint is there, the session has a fault."""

    def __init__(self, session: Session):
        self.session = session
        self._verified = set(session.start_names)
        self._seen: Dict[str, set] = {"start": {0}, "begun": set(), "saving": set(), "saved": set(), "best": set()}

    def until(self, moment: Moment) -> bool:
        """Wait for a moment; False if the session ended before."""
        strike_at = self.session.started + moment.delay_sec if moment.event == "start" else None
        while self.session.code is None and time.monotonic() < self.session.started + TIME_LIMIT_SEC:
            self._look()
            if strike_at is None and len(self._seen[moment.event]) >= moment.nth:
                strike_at = time.monotonic() + moment.delay_sec
            if strike_at is not None and time.monotonic() >= strike_at:
                return self.session.code is None
            time.sleep(0.0005)
        return False

    def _look(self) -> None:
        save_dir = self.session.save_dir
        whole = iterations(save_dir)
        if self._verified and not whole:
            self.session.faults.append("there was no checkpoint at all for a while")
        for iteration in set(whole) - self._verified:
            self._verify(iteration)
            self._seen["saved"].add(iteration)
        self._seen["saving"].update(iteration for iteration in iterations(save_dir, ".tmp")
                                    if iteration > max(whole, default=0))
        if (save_dir / "best_model.tmp").exists():
            self._seen["best"].add(max(whole, default=0))
        if self.session.has_begun:
            self._seen["begun"].add(0)

    def _verify(self, iteration: int) -> None:
        directory = self.session.save_dir / f"iter_{iteration}"
        fault = files.damage(str(directory), CHECKPOINT)
        if fault and directory.exists():
            self.session.faults.append(f"iter_{iteration} was there and not whole: {fault}")
        self._verified.add(iteration)


def phase(session: Session) -> str:
    """What a session was doing when it was struck, by what it left and wrote."""
    whole, parts = iterations(session.save_dir), iterations(session.save_dir, ".tmp")
    newest = max(whole, default=0)
    if any(iteration > newest for iteration in parts):
        return "saving"
    if parts:
        return "pruning"
    if any((session.save_dir / f"best_model{suffix}").exists() for suffix in (".tmp", ".old")):
        return "saving the best"
    if not session.has_begun:
        return "starting"
    steps = re.findall(r"\t(configuration:|effective batch|\[TRAIN\]|saved |\[EVAL\] The model)", session.logged)
    if not steps:  # it has opened its directory, no more, or found that the run is finished
        return "starting"
    last = steps[-1]
    resumes_evaluation = last == "configuration:" and not (session.save_dir / f"iter_{newest}" / "score.json").exists()
    return "evaluating" if last == "saved " or (whole and resumes_evaluation) else "training"


# ---- what a run should have come to ------------------------------------------------------------------

@dataclass
class Reference:
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
    """What is wrong with a run's directory, whenever it was left: damaged checkpoints, or none after the first."""
    from paddleseg.core import checkpoint
    from paddleseg.cvlibs.errors import RunError

    found = []
    for iteration in iterations(save_dir):
        directory = save_dir / f"iter_{iteration}"
        try:
            checkpoint.verify(str(directory))
        except RunError as error:
            found.append(str(error))
        checked = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=directory,
                                 capture_output=True, text=True)
        if checked.returncode:
            found.append(f"sha256sum: {checked.stdout}{checked.stderr}".strip())
    return found


def differences(save_dir: Path, whole: Path) -> List[str]:
    """Where the checkpoints of a run aren't those of the undisturbed one, bit by bit."""
    found = []
    for iteration in iterations(save_dir):
        directory, expected = save_dir / f"iter_{iteration}", whole / f"iter_{iteration}"
        if not expected.is_dir():  # saved because of a signal
            continue
        found += [f"iter_{iteration}/{name}" for name in ("model.pdparams", "model.pdopt")
                  if (directory / name).read_bytes() != (expected / name).read_bytes()]
        if _state(directory) != _state(expected):
            found.append(f"iter_{iteration}/train_state.json")
        score = directory / "score.json"
        if score.exists() and score.read_bytes() != (expected / "score.json").read_bytes():
            found.append(f"iter_{iteration}/score.json")
    return found


def final_differences(save_dir: Path, whole: Path, same_log: bool = True) -> List[str]:
    """The same of a finished run: its last checkpoint, its best model and its record, and nothing is left over."""
    found, last = differences(save_dir, whole), f"iter_{iterations(whole)[-1]}"
    if not (save_dir / last / "score.json").exists():
        found.append(f"{last} isn't there or isn't evaluated")
    best = save_dir / "best_model"
    fault = files.damage(str(best), BEST)
    if fault:
        found.append(f"best_model: {fault}")
    else:
        found += [f"best_model/{name}" for name in BEST
                  if (best / name).read_bytes() != (whole / "best_model" / name).read_bytes()]
    if same_log and records(save_dir) != records(whole):
        found.append("log.jsonl")
    return found + leftovers(save_dir)


def leftovers(save_dir: Path) -> List[str]:
    """Temporary names that nobody will come back for."""
    return sorted(f"{path.relative_to(save_dir)} is left over" for path in save_dir.rglob("*")
                  if path.name.endswith((".tmp", ".old")))


def records(save_dir: Path) -> List[Dict]:
    """The run's record without what it says of time."""
    lines = (save_dir / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def _state(directory: Path) -> Dict:
    state = json.loads((directory / "train_state.json").read_text())
    return {**state, "config": {key: value for key, value in state["config"].items() if key not in FREE_KEYS}}


# ---- disturbing it -------------------------------------------------------------------------------------

@dataclass
class Hit:
    """One disturbance: in words, of which kind (or in which phase), and what was lost by it."""

    what: str
    kind: str
    faults: List[str]

    @property
    def loss(self) -> str:
        return f"{self.what} ({self.kind}; seed {seed()}): {'; '.join(self.faults)}" if self.faults else ""


# Starts a session of a run and disturbs it, unless it ends too early; the number is that of the try.
Disturb = Callable[[Random, int, Path], Tuple[Session, Optional[Hit]]]


def survive(name: str, disturb: Disturb, count: int, folder: Path, processes: int = 1,
            same_log: bool = True) -> Outcome:
    """Disturb the same run again and again until its end, then a new one, `count` times in all.

    Args:
        name: chooses the moments, together with the seed.
        same_log: the record of the run ends up as that of the uninterrupted one.
    """
    outcome, random = Outcome(), choices(name)
    while outcome.tried < count:
        run = folder / f"run_{outcome.tried}"
        hits = _disturb_one_run(disturb, random, outcome.tried, count - outcome.tried, run, processes, same_log)
        for hit in hits:
            outcome.add(hit.loss, hit.kind)
        if not any(hit.faults for hit in hits):
            shutil.rmtree(run)
    return outcome


def _disturb_one_run(disturb: Disturb, random: Random, first: int, most: int, run: Path, processes: int,
                     same_log: bool) -> List[Hit]:
    hits: List[Hit] = []
    while True:
        if len(hits) < most:
            session, hit = disturb(random, first + len(hits), run)
        else:
            session, hit = Session(run, "--resume", "auto", processes=processes), None
        went_on = _judge_session(session, run, uninterrupted(processes).save_dir, hit is None, same_log)
        session.kill()
        if hits:
            hits[-1].faults += went_on  # it is that hit from which the session had to recover
        elif hit:
            hit.faults += went_on
        elif went_on:
            raise AssertionError(f"two undisturbed runs differ: {'; '.join(went_on)}")
        if hit:
            hits.append(hit)
        if not hit or any(hit.faults for hit in hits):
            return hits


def _judge_session(session: Session, run: Path, whole: Path, finished: bool, same_log: bool) -> List[str]:
    """What is wrong with what a session made: with its checkpoints, and if it went to its end, with all."""
    if finished and session.wait() != 0:
        end = "doesn't end" if session.code is None else f"ends with {session.code}"
        return [f"the run that goes on {end}: {session.printed.strip()[-1000:]}"]
    damaged = damages(run)
    if damaged:
        return session.faults + damaged
    faults = list(session.faults)
    saved = re.findall(r"\tsaved \S*/iter_(\d+)$", session.logged + session.printed, re.MULTILINE)
    before, after = max([*session.start_names, *map(int, saved)], default=0), max(iterations(run), default=0)
    if after < before:
        faults.append(f"iter_{before} was there, now iter_{after} is the newest")
    return faults + (final_differences(run, whole, same_log) if finished else differences(run, whole))
