"""Access rights of the launcher's files."""

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


@pytest.mark.parametrize("others, save_dir, folder_mode", [(False, False, 0o700), (True, False, 0o755),
                                                           (False, True, 0o755)])
def test_the_launchers_files_become_private(log, monkeypatch, others, save_dir, folder_mode):
    """Their directory too, unless others' files are in it or a user chose it as --save_dir."""
    if others:
        (log / "notes.txt").touch(0o644)
    names = os.listdir(log)
    monkeypatch.setattr(os, "listdir", lambda _: ["workerlog.9", *names])  # one vanishes meanwhile
    launcher.protect_logs(str(log) if save_dir else None)
    assert all(mode(log / name) == 0o600 for name in FILES) and mode(log) == folder_mode
    assert not others or mode(log / "notes.txt") == 0o644


def test_nothing_happens_without_a_launcher_or_its_directory(log, monkeypatch):
    monkeypatch.setenv("PADDLE_LOG_DIR", str(log / "gone"))
    launcher.protect_logs()
    monkeypatch.setenv("PADDLE_LOG_DIR", str(log))
    monkeypatch.delenv("POD_NAME")
    launcher.protect_logs()
    assert mode(log / "envlog.0") == 0o644
