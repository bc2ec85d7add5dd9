"""`python -m paddleseg`: its table against the files that exist, and the --help of every command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg.__main__ import COMMANDS, name_of, summary

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [script for scripts in COMMANDS.values() for script in scripts]
# Shows what a command's --help prints, then which heavy libraries that took.
HELP = ("import runpy, sys\nsys.path[0] = sys.argv[1].rpartition('/')[0]\nsys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted(set(sys.modules) & {'paddle', 'torch', 'onnxruntime'}))")


def python(*command, cwd=ROOT, code=0):
    """Run Python on the package of this repository; returns standard output and standard error."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_every_script_is_a_command():
    runnable = {path.relative_to(ROOT).as_posix() for folder in (".", "tools", "deploy")
                for path in (ROOT / folder).glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(SCRIPTS) == runnable, "bring COMMANDS of paddleseg/__main__.py up to date"
    assert len({name_of(script) for script in SCRIPTS}) == len(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_a_command_has_examples_and_needs_no_paddle(script):
    printed, _ = python("-c", HELP, str(ROOT / script))
    assert printed.startswith("usage: ") and printed.endswith("\n[]\n")
    assert re.search(rf"^    \S*python\S* (-m \S+ )?{re.escape(script)}\b", printed, re.MULTILINE), printed


def test_a_command_runs_as_its_script_does(tmp_path):
    printed, _ = python("-m", "paddleseg", "--help")
    assert all(re.search(rf"^  {name_of(script)} +{re.escape(summary(script))}$", printed, re.M) for script in SCRIPTS)
    through = python("-m", "paddleseg", "model_info", "--help", cwd=tmp_path)
    assert through == python(str(ROOT / "tools/model_info.py"), "--help", cwd=tmp_path)
    _, printed = python("-m", "paddleseg", "train", "--config", "none here.yml", cwd=tmp_path, code=2)
    assert "none here.yml" in printed and "Traceback" not in printed
    assert "did you mean train?" in python("-m", "paddleseg", "trian", code=2)[1]
    assert "--version is not a command" in python("-m", "paddleseg", "--version", code=2)[1]


def test_the_package_alone_says_what_it_lacks(tmp_path):
    (tmp_path / "paddleseg").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "paddleseg" / name).write_bytes((ROOT / "paddleseg" / name).read_bytes())
    done = subprocess.run([sys.executable, "-m", "paddleseg", "train"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith("has only the package; run this in a clone\n")


def test_a_reader_that_ends_early_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "paddleseg"], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141
