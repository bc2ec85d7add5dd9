import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.datasets import loader
from paddleseg.datasets.loader import eval_batches, train_batches

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # each test forks workers, or starts a process that does


class Samples:
    """A data set without files whose sample is its index; `do(index)` is called before each, in the worker."""

    def __init__(self, count=6, do=lambda index: None, heights=5):
        self.count, self.do, self.heights = count, do, heights

    def __len__(self):
        return self.count

    def name_of(self, index):
        return f"{index}.png (list.txt:{index + 1})"

    def sample(self, index, rng):
        self.do(index)
        height = 1 + index * 7 % self.heights  # of which each differs from the one before
        return {"img": np.full((3, height, 300), index, np.float32), "label": np.full((height, 300), index, np.uint8),
                "path": f"{index}.png", "trans_info": []}


def at(index, action):
    """Calls action() before the sample of this index."""
    return lambda now: action() if now == index else None


def kill_myself(number):
    return lambda: os.kill(os.getpid(), number)


def sleep_for_ever():
    while True:
        time.sleep(1000)


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_for_ever()


def read(batches, received=None):
    """The indices that came, each checked against the arrays it came with."""
    received = [] if received is None else received
    for batch in batches:
        index = int(batch["path"][0][:-4])
        assert [list(label.shape) for label in batch["label"]] == [[1 + index * 7 % 5, 300]]
        assert (np.asarray(batch["label"][0]) == index).all() and (batch["img"].numpy() == index).all()
        received.append(index)
    return received


@pytest.fixture(autouse=True)
def no_worker_is_left():
    before = set(active_children())
    yield
    assert set(active_children()) <= before


@pytest.fixture
def logged(caplog):
    """Calls as a list of what was logged."""
    with caplog.at_level("WARNING", "paddleseg"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "paddleseg"]


@pytest.mark.parametrize("num_workers", [1, 3, 20])
def test_batches_of_all_sizes_come_in_order(num_workers, logged):
    assert read(eval_batches(Samples(12), num_workers)) == list(range(12))
    assert logged() == []


# ---- deaths and hangs -----------------------------------------------------------------------------

@pytest.mark.parametrize("action, cause", [
    (kill_myself(signal.SIGKILL), r"signal 9 \(Killed\), .*lower num_workers"),
    (kill_myself(signal.SIGXCPU), r"signal 24 \(CPU time limit exceeded\); .* leave the file out"),
    (lambda: os._exit(3), "exit code 3")])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_dead_worker_ends_the_run_and_names_the_sample(action, cause, num_workers):
    received = []
    with pytest.raises(RunError, match=rf"3.png \(list.txt:4\) died: .*{cause}"):
        read(eval_batches(Samples(8, at(3, action)), num_workers), received)
    assert received == [0, 1, 2]


def test_the_sample_of_a_larger_batch_is_named():
    order = [path for _, batch in train_batches(Samples(12, heights=1), 4, 0, num_batches=3) for path in batch["path"]]
    seventh = int(order[6][:-4])
    dataset = Samples(12, at(seventh, kill_myself(signal.SIGKILL)), heights=1)
    with pytest.raises(RunError, match=rf"reading {seventh}.png \(list.txt:{seventh + 1}\) died"):
        list(train_batches(dataset, 4, 0, num_workers=2, num_batches=3))


@pytest.mark.parametrize("action", [sleep_for_ever, ignore_sigterm])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_hanging_worker_ends_the_run_and_names_the_sample(action, num_workers, monkeypatch, logged):
    monkeypatch.setattr(loader, "SLICE_SEC", 0.1)
    monkeypatch.setattr(loader, "NOTICE_SEC", 0.4)
    before, received = time.monotonic(), []
    with pytest.raises(RunError, match=r"for 1 s; what hangs is the reading of 3.png \(list.txt:4\)"):
        read(eval_batches(Samples(8, at(3, action)), num_workers, timeout_sec=1), received)
    assert received == [0, 1, 2] and 1 < time.monotonic() - before < 4
    assert len(logged()) == 2 and all("waiting for 3.png (list.txt:4) after" in line for line in logged())


def test_a_slow_read_in_the_main_process_is_named(monkeypatch, logged):
    monkeypatch.setattr(loader, "NOTICE_SEC", 0.2)
    assert read(eval_batches(Samples(4, at(2, lambda: time.sleep(0.5))))) == [0, 1, 2, 3]
    assert len(logged()) == 1 and "still reading 2.png (list.txt:3)" in logged()[0]


# ---- signals --------------------------------------------------------------------------------------

@contextlib.contextmanager
def signalled(number, handler):
    """Send this process a signal in a while."""
    before = signal.signal(number, handler)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    try:
        yield time.monotonic()
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_handlers_run_while_a_batch_is_waited_for(num_workers):
    handled = []
    with signalled(signal.SIGTERM, lambda number, frame: handled.append(time.monotonic())) as start:
        assert read(eval_batches(Samples(3, at(1, lambda: time.sleep(1.2))), num_workers)) == [0, 1, 2]
    assert len(handled) == 1 and handled[0] - start < 0.9


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ctrl_c_ends_a_wait_at_once(num_workers):
    with signalled(signal.SIGINT, signal.default_int_handler) as start, pytest.raises(KeyboardInterrupt):
        list(eval_batches(Samples(3, at(1, sleep_for_ever)), num_workers))
    assert time.monotonic() - start < 3


HEAD = """
import os, signal, sys, time
sys.path[:0] = ['tests/datasets', '.']
import paddle
from multiprocessing import active_children
from test_workers import *
"""


@pytest.fixture
def run_script():
    """Starts a script that iterates, in a process group of its own."""
    scripts = []

    def run(*lines, **arguments):
        scripts.append(subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "\n".join([HEAD, *lines])], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **arguments))
        return scripts[-1]

    yield run
    for script in scripts:
        script.kill()
        script.communicate()


def result(script, *given):
    """(exit code, standard output, standard error)"""
    out, err = script.communicate(*given, timeout=30)
    return script.returncode, out, err


def ends_within(pid, seconds):
    """Return True if a process is gone, or a zombie of nobody's."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


FLAG = "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'flag\\n'))"


def test_a_signal_to_the_process_group_leaves_the_workers_alive(run_script):
    script = run_script(FLAG, "batches = eval_batches(Samples(9), 2); next(batches); print('ready', flush=True)",
                        "sys.stdin.readline(); print(read(batches))", stdin=subprocess.PIPE)
    assert script.stdout.readline() == "ready\n"
    os.killpg(script.pid, signal.SIGTERM)
    assert script.stdout.readline() == "flag\n"
    assert result(script, "\n") == (0, f"{list(range(1, 9))}\n", "")


@pytest.mark.parametrize("action", ["sleep_for_ever", "ignore_sigterm", "lambda: None"])
def test_workers_die_with_their_parent(action, run_script):
    script = run_script(f"batches = eval_batches(Samples(9, at(3, {action})), 2)",
                        "for _ in range(3): next(batches)",
                        "print(*[process.pid for process in active_children()], flush=True)", "time.sleep(60)")
    pids = [int(pid) for pid in script.stdout.readline().split()]
    script.kill()
    script.communicate(timeout=30)
    assert len(pids) == 2 and all(ends_within(pid, 3) for pid in pids)


def test_unfinished_batches_and_an_inherited_handler_leave_quietly(run_script):
    """A trainer's SIGTERM handler must not keep workers alive, nor Paddle print a fatal error at exit."""
    script = run_script(FLAG, "batches = eval_batches(Samples(8), 2); next(batches); print('leaving')")
    assert result(script) == (0, "leaving\n", "")


def test_a_crash_is_told_by_its_parent_alone(run_script):
    script = run_script("try: read(eval_batches(Samples(9, at(3, kill_myself(signal.SIGSEGV))), 2))",
                        "except Exception as error: print(error)")
    code, out, err = result(script)
    assert (code, err) == (0, "") and "3.png (list.txt:4) died: signal 11" in out and out.count("\n") == 1


def test_a_suspended_run_goes_on(run_script):
    """The clock goes on while a machine sleeps, or a scheduler stops a job; no worker has hung by that."""
    script = run_script("loader.SLICE_SEC = 0.2",
                        "def begin(): print(os.getpid(), flush=True); time.sleep(0.7)",
                        "print(read(eval_batches(Samples(3, at(1, begin)), 1, timeout_sec=1.2)))")
    processes = script.pid, int(script.stdout.readline())
    for number, pause in ((signal.SIGSTOP, 1.5), (signal.SIGCONT, 0)):
        for pid in processes:
            os.kill(pid, number)
        time.sleep(pause)
    assert result(script) == (0, "[0, 1, 2]\n", "")


# ---- what a worker inherits -----------------------------------------------------------------------

def test_workers_collect_nothing_that_they_inherit():
    """Destroyed in a worker, it might remove a file, or wait for ever for threads that a forked process hasn't."""
    dataset = Samples(2, lambda index: None if gc.get_freeze_count() > 1000 and gc.isenabled() else os._exit(3))
    assert read(eval_batches(dataset, num_workers=1)) == [0, 1]
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_reading_in_a_thread_outlives_the_thread_that_began_it():
    batches, first = eval_batches(Samples(6), 1), []
    thread = threading.Thread(target=lambda: first.append(next(batches)))
    thread.start()
    thread.join()
    assert read(first) + read(batches) == list(range(6))
