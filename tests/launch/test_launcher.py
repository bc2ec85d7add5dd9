"""Whose eyes the launcher's files are for."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from paddleseg.launch import launcher

ROOT = Path(__file__).resolve().parents[2]
FILES = {"workerlog.0": "output", "workerlog.1": "output", "envlog.0": "TOKEN=x", "envlog.1": "TOKEN=x",
         "envlog.init.0": "TOKEN=x", "backup_env.0.json": '{"TOKEN": "x"}', "backup_env.1.json": '{"TOKEN": "x"}',
         "default.abcdef.log": "environ({'TOKEN': 'x'})\n[]", "default.zzzzzz.log": "environ({'TOKEN': 'y'})\n[]"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The directory of a launcher whose rank 0 this process is, as it lies there by a usual umask."""
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    for name, content in FILES.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o644)
    for name, value in {"PADDLE_LOG_DIR": str(folder), "POD_NAME": "abcdef", "PADDLE_TRAINER_ID": "0",
                        "PADDLE_LOCAL_RANK": "0", "PADDLE_BACKUP_ENV_PATH": str(folder / "backup_env.0.json")}.items():
        monkeypatch.setenv(name, value)
    return folder


def test_the_launchers_files_and_directory_become_private(log):
    launcher.protect_logs()
    assert {path.name: mode(path) for path in log.iterdir()} == dict.fromkeys(FILES, 0o600)
    assert mode(log) == 0o700


def test_a_gpu_log_tells_nothing_and_is_the_launchers(log):
    (log / "default.gpu.log").write_text("index,uuid")
    (log / "default.gpu.log").chmod(0o644)
    launcher.protect_logs()
    assert mode(log / "default.gpu.log") == 0o644 and mode(log) == 0o700


@pytest.mark.parametrize("name, content", [("notes.txt", "mine"), ("train.output.log", "mine"),
                                           ("workerlog.0.txt", "mine"), ("envlog.a", "mine")])
def test_other_files_stay_as_they_are_and_keep_the_directory_open(log, name, content):
    (log / name).write_text(content)
    (log / name).chmod(0o644)
    launcher.protect_logs()
    assert mode(log / name) == 0o644 and mode(log) == 0o755
    assert all(mode(log / name) == 0o600 for name in FILES)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_links_lead_nowhere(log, tmp_path, make):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "outside").chmod(0o644)
    make(tmp_path / "outside", log / "workerlog.2")
    launcher.protect_logs()
    assert mode(tmp_path / "outside") == 0o644 and mode(log) == 0o755


def test_a_pipe_or_a_directory_of_such_a_name_is_left_alone(log):
    os.mkfifo(log / "workerlog.2", 0o644)
    (log / "envlog.2").mkdir(mode=0o755)
    launcher.protect_logs()
    assert mode(log / "workerlog.2") == 0o644 and mode(log / "envlog.2") == 0o755


def test_a_save_dir_keeps_its_readers(log):
    launcher.protect_logs(str(log))
    assert mode(log) == 0o755 and mode(log / "envlog.0") == 0o600


def test_nothing_happens_without_a_launcher(log, monkeypatch):
    monkeypatch.delenv("POD_NAME")
    launcher.protect_logs()
    launcher.move_dumps(str(log.parent / "run"))
    assert mode(log / "envlog.0") == 0o644 and not (log.parent / "run").exists()


def test_a_directory_that_vanished_is_no_error(log):
    shutil.rmtree(log)
    launcher.protect_logs()
    launcher.move_dumps(str(log.parent / "run"))


def test_a_file_that_vanished_keeps_no_other_from_protection(log, monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda _: ["workerlog.9", *FILES])
    launcher.protect_logs()
    assert all(mode(log / name) == 0o600 for name in FILES) and mode(log) == 0o700


def test_several_processes_may_do_it_at_once(log):
    """Even while another makes and removes files."""
    failures = []

    def protect():
        try:
            for _ in range(100):
                launcher.protect_logs()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=protect) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        (log / "workerlog.9").write_text("")
        (log / "workerlog.9").unlink()
    assert not failures and all(mode(log / name) == 0o600 for name in FILES)


# ---- the dumps ----------------------------------------------------------------------------------------------------

def test_the_dumps_of_this_process_move_to_the_save_dir(log, tmp_path):
    launcher.move_dumps(str(tmp_path / "run"))
    moved = {"envlog.0", "backup_env.0.json", "default.abcdef.log"}
    target = tmp_path / "run" / "log"
    assert {path.name: mode(path) for path in target.iterdir()} == dict.fromkeys(moved, 0o600)
    assert {path.name for path in log.iterdir()} == set(FILES) - moved
    assert mode(target) == 0o700
    assert {name: (target / name).read_text() for name in moved} == {name: FILES[name] for name in moved}
    assert json.loads(Path(os.environ["PADDLE_BACKUP_ENV_PATH"]).read_text()) == {"TOKEN": "x"}


def test_another_rank_moves_its_own_and_leaves_the_launchers(log, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    monkeypatch.setenv("PADDLE_LOCAL_RANK", "1")
    launcher.move_dumps(str(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run" / "log").iterdir()} == {"envlog.1", "backup_env.1.json"}


@pytest.mark.parametrize("save_dir", [".", "log"])
def test_what_is_in_the_save_dir_stays(log, tmp_path, save_dir):
    launcher.move_dumps(str(tmp_path / save_dir))
    assert {path.name for path in log.iterdir()} == set(FILES)


def test_moving_again_finds_nothing(log, tmp_path):
    launcher.move_dumps(str(tmp_path / "run"))
    launcher.move_dumps(str(tmp_path / "run"))
    assert len(list((tmp_path / "run" / "log").iterdir())) == 3


def test_the_dumps_of_a_run_before_are_replaced(log, tmp_path):
    (tmp_path / "run" / "log").mkdir(parents=True)
    (tmp_path / "run" / "log" / "envlog.0").write_text("old")
    launcher.move_dumps(str(tmp_path / "run"))
    assert (tmp_path / "run" / "log" / "envlog.0").read_text() == FILES["envlog.0"]


@pytest.mark.parametrize("other_disk", [False, True])
def test_a_link_in_the_way_is_replaced_not_followed(log, tmp_path, monkeypatch, other_disk):
    (tmp_path / "run" / "log").mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "run" / "log" / "envlog.0").symlink_to(tmp_path / "outside")
    if other_disk:
        monkeypatch.setattr(os, "rename", cross_device)
    launcher.move_dumps(str(tmp_path / "run"))
    copy = tmp_path / "run" / "log" / "envlog.0"
    assert (tmp_path / "outside").read_text() == "mine"
    assert not copy.is_symlink() and copy.read_text() == FILES["envlog.0"] and mode(copy) == 0o600
    assert not (log / "envlog.0").exists()


def test_a_linked_directory_in_the_way_gets_nothing(log, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / "log").symlink_to(tmp_path / "outside")
    launcher.move_dumps(str(tmp_path / "run"))
    assert not list((tmp_path / "outside").iterdir()) and (log / "envlog.0").exists()


def cross_device(*_, **__):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


# ---- the real one -------------------------------------------------------------------------------------------------

RANK = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from paddleseg.utils import distributed
from paddleseg.launch import launcher
launcher.protect_logs("run")
launcher.move_dumps("run")
import paddle
assert paddle.distributed.ParallelEnv().world_size == 2
print("last words", flush=True)
if distributed.rank() == 0:
    sys.exit(3)
time.sleep(60)
"""


def test_the_launcher_does_its_work_with_its_files_moved(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    done = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "rank.py"], cwd=tmp_path,
        env={**os.environ, "SOME_TOKEN": "a" + "secret"}, capture_output=True, timeout=60, text=True)
    assert done.returncode != 0 and "last words" in done.stdout and "log/workerlog.0" in done.stderr
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["workerlog.0", "workerlog.1"]
    assert mode(tmp_path / "log") == mode(tmp_path / "run" / "log") == 0o700
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and "asecret" in path.read_text()]
    assert {path.name.split(".")[0] for path in holding} == {"envlog", "backup_env", "default"}
    assert {path.parent for path in holding} == {tmp_path / "run" / "log"}
    assert all(mode(path) == 0o600 for path in [*holding, *(tmp_path / "log").iterdir()])
