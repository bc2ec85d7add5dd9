"""How the Makefile gets PaddleSeg's package; a script stands for the environment's Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from diff.paddleseg_reference import FOLDER

ROOT = Path(__file__).resolve().parents[2]
# Writes what it is called for into a file, and makes half a package before it ends as pip does.
PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
*"pip install"*) while [ "$1" != --target ]; do shift; done; mkdir -p "$2/paddleseg"; exit {code};;
esac
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def make(folder, target, code):
    """(exit code, what it printed, the commands that it gave Python) in a folder with nothing but the Makefile."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "python").write_text(PYTHON.format(code=code))
    (folder / "python").chmod(0o755)
    (folder / "calls").write_text("")
    # An outer make hands its own overrides down in these.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    overrides = ["SETUP=true", "PYTHON=true", "VENV_PYTHON=./python", "ALIGN_PYTHON=./python"]
    done = subprocess.run(["make", target, *overrides], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("target", ["test", "align-env"])
def test_it_is_got_once(tmp_path, target):
    assert make(tmp_path, target, code=0)[0] == 0
    assert (tmp_path / FOLDER / "paddleseg").is_dir() and not (tmp_path / f"{FOLDER}.part").exists()
    assert not [call for call in make(tmp_path, target, code=1)[2] if "pip" in call]


def test_without_pypi_the_tests_go_on_and_the_comparison_doesnt(tmp_path):
    code, printed, calls = make(tmp_path, "test", code=1)
    assert code == 0 and "no PaddleSeg from PyPI" in printed and "pytest" in calls[-1]
    assert make(tmp_path, "align-env", code=1)[0] != 0
    assert not (tmp_path / FOLDER).exists()


def test_half_a_package_of_an_interrupted_install_is_thrown_away(tmp_path):
    stale = tmp_path / f"{FOLDER}.part" / "stale"
    stale.mkdir(parents=True)
    make(tmp_path, "test", code=0)
    assert (tmp_path / FOLDER / "paddleseg").is_dir() and not (tmp_path / FOLDER / "stale").exists()
