"""Who may read the launcher's files."""

import os
import stat
from pathlib import Path

import pytest

from paddleseg.launch import launcher

FILES = ("workerlog.0", "workerlog.1", "envlog.0", "envlog.init.0", "backup_env.0.json", "default.abcdef.log")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The directory of a launcher that started this process, as it lies there by a usual umask."""
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    for name in FILES:
        (folder / name).touch(0o644)
    monkeypatch.setenv("PADDLE_LOG_DIR", str(folder))
    monkeypatch.setenv("POD_NAME", "abcdef")
    return folder


def test_the_launchers_files_and_directory_become_private(log):
    launcher.protect_logs()
    assert {path.name: mode(path) for path in log.iterdir()} == dict.fromkeys(FILES, 0o600)
    assert mode(log) == 0o700


def test_other_files_stay_as_they_are_and_keep_the_directory_open(log):
    (log / "notes.txt").touch(0o644)
    launcher.protect_logs()
    assert mode(log / "notes.txt") == 0o644 and mode(log) == 0o755
    assert all(mode(log / name) == 0o600 for name in FILES)


def test_a_save_dir_keeps_its_readers(log):
    launcher.protect_logs(str(log))
    assert mode(log) == 0o755 and mode(log / "envlog.0") == 0o600


def test_a_file_or_a_directory_that_vanished_is_no_error(log, monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda _: ["workerlog.9", *FILES])
    launcher.protect_logs()
    assert all(mode(log / name) == 0o600 for name in FILES)
    monkeypatch.setenv("PADDLE_LOG_DIR", str(log / "gone"))
    launcher.protect_logs()


def test_nothing_happens_without_a_launcher(log, monkeypatch):
    monkeypatch.delenv("POD_NAME")
    launcher.protect_logs()
    assert mode(log / "envlog.0") == 0o644
