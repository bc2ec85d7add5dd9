"""Disks that fill up under a run; with room again, it goes on with `--resume auto`."""

import os
import re
import subprocess
from functools import partial
from pathlib import Path
from random import Random
from typing import Optional, Tuple

import pytest
from outcome import Fault, Outcome, check
from real_run import FAULTY_MACHINE, SAVE_INTERVAL, Hit, Session, iterations, leftovers, survive, uninterrupted

# The file that finds the disk full; {n} is the iteration of a later save.
TARGETS = ["iter_{n}.tmp/model.pdopt", "best_model.tmp/model.pdparams", "iter_{n}/score.json", "config.yml",
           "iter_{n}.tmp/model.pdparams", "iter_{n}.tmp/train_state.json", "iter_{n}.tmp/SHA256SUMS"]
DISK_BYTES = 8 << 20
PAGE_BYTES = 4096


def refuse_writes(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """Let no file grow beyond a limit from the moment on when one target is written."""
    later = max(iterations(run), default=0) + SAVE_INTERVAL * random.randint(2, 3)
    target = TARGETS[number % len(TARGETS)].format(n=later)
    folder, _, name = target.rpartition("/")
    whole = uninterrupted(1).save_dir / re.sub(r"iter_\d+", "iter_2", folder.replace(".tmp", "")) / name
    limit_bytes = random.randrange(whole.stat().st_size)
    pattern = rf"open .*{re.escape(folder)}/\.?{re.escape(name)}(\.\d+\.tmp)?"
    session = Session(run, "--resume", "auto", through=[FAULTY_MACHINE, "fill", pattern, limit_bytes])
    return session, judge(session, f"no file beyond {limit_bytes} bytes from {target} on")


def fill_small_disk(random: Random, number: int, run: Path) -> Tuple[Session, Optional[Hit]]:
    """Fill the disk at some moment, but for a part of a checkpoint."""
    delay_sec = random.uniform(0.0, uninterrupted(1).seconds / 3)
    # Weights and optimizer state take 155 pages, the small files that come after them one each.
    left_bytes = random.choice((random.randrange(4), random.randrange(150), random.randrange(152, 160))) * PAGE_BYTES
    session, filler = Session(run, "--resume", "auto"), run.with_name("filler")
    try:
        if session.wait_for(delay_sec):
            fill(filler, left_bytes)
        return session, judge(session, f"{left_bytes} bytes left {delay_sec:.3f} s after the first line of the log")
    finally:
        filler.unlink(missing_ok=True)


def fill(filler: Path, left_bytes: int) -> None:
    with open(filler, "wb") as file:
        while True:
            state = os.statvfs(filler.parent)
            wanted = state.f_bavail * state.f_frsize - left_bytes
            try:
                return os.posix_fallocate(file.fileno(), 0, wanted) if wanted > 0 else None
            except OSError:  # the run was faster
                continue


def judge(session: Session, what: str) -> Optional[Hit]:
    """Name what a session did wrong that met a full disk; None if it didn't meet it and ended well."""
    code, printed = session.wait(), session.printed
    if code == 0:
        return None
    faults = [] if code == 1 else [f"exit code {code}"]
    errors = re.findall(r"^(?:RunError|WeightsError): .*", printed, re.MULTILINE)
    if len(errors) != 1 or printed.strip().splitlines()[-1] != errors[0] or str(session.save_dir) not in errors[0]:
        faults.append(f"not one line of error at the end that names the run: {printed.strip()[-1000:]}")
    if not re.search("No space left on device|File too large", "".join(errors)):
        faults.append(f"no error says why: {errors}")
    if "Traceback" in printed or "--- Logging error" in printed:
        faults.append(f"a traceback: {printed.strip()[-2000:]}")
    faults += leftovers(session.save_dir) + session.orphans()
    named = re.findall(r"/\.?(\w+\.(?:pdparams|pdopt|json|yml)) ", "".join(errors))
    return Hit(what, f"writing {named[-1] if named else 'a small file'}", faults)


def survive_small_disk(count: int, folder: Path) -> Outcome:
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], capture_output=True,
                             text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        return survive("small disk", fill_small_disk, count, disk, same_log=False)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # a session may outlive an interrupted trial


FAULTS = [
    Fault("files that may grow no more (RLIMIT_FSIZE)", 1, 10, partial(survive, "limit", refuse_writes,
                                                                        same_log=False)),
    Fault("full disk (tmpfs)", 1, 10, survive_small_disk),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_full_disk_costs_no_checkpoint(fault, tmp_path):
    check(fault, tmp_path)
