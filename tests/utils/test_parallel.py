import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import is_running

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils.parallel import map_parallel

ROOT = Path(__file__).resolve().parents[2]


def square(number):
    return number ** 2


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_keeps_the_order(num_workers):
    results = map_parallel(square, range(20), num_workers, "squaring")
    assert list(results) == [number ** 2 for number in range(20)]
    assert list(map_parallel(square, [], num_workers, "squaring")) == []


def test_killed_process_is_an_error():
    with pytest.raises(RunError, match="squaring: a process was killed, .* lower --num_workers, now 2"):
        list(map_parallel(die_at_three, range(20), 2, "squaring"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_processes_end_with_their_parent(tmp_path):
    """It is killed; they would wait for ever, with the parent's locks."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from paddleseg.utils.parallel import map_parallel
def tell(number):
    open(os.path.join({str(tmp_path)!r}, str(os.getpid())), "w").close()
    os.write(1, b"begun\\n")  # whole, as two processes write to one pipe
    time.sleep(0.1)
list(map_parallel(tell, range(100), 2, ""))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while any(is_running(int(path.name)) for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [int(path.name) for path in tmp_path.iterdir() if is_running(int(path.name))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2 and not left
