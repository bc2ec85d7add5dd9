import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg.cvlibs.errors import ConfigError, DataError, Interrupted
from paddleseg.utils.cli import add_refused_flag, run_main


def run(outcome, debug=False):
    """The exit code of a command that returns `outcome`, or raises it."""
    def function(args):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
    return run_main(function, argparse.Namespace(debug=debug))


@pytest.mark.parametrize("outcome, code, line", [
    (None, 0, ""), (ConfigError("x is wrong"), 2, "ConfigError: x is wrong\n"),
    (DataError("y is gone"), 1, "DataError: y is gone\n"), (Interrupted("stopped"), 75, "Interrupted: stopped\n"),
    (OSError(errno.ENOSPC, "No space", "x"), 1, "RunError: x: No space; make room there, or write elsewhere\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"), (DataError("a\x1b[2J\nb\0"), 1, "DataError: a?[2J?b?\n")])
def test_an_outcome_is_one_line_and_its_exit_code(outcome, code, line, capsys):
    assert run(outcome) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("lines", [1, 100000])
def test_a_reader_that_ends_early_is_no_error(lines):
    """Simulate `check_data.py … | head -1`."""
    script = ("import argparse, sys, time; from paddleseg.utils.cli import run_main\n"
              f"def tell(args):\n    time.sleep(0.2)\n    for number in range({lines}): print(number)\n"
              "sys.exit(run_main(tell, argparse.Namespace(debug=False)))")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, cwd=Path(__file__).parents[2])
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


@pytest.mark.parametrize("bug", [KeyError("bug"), BrokenPipeError()])  # a pipe that isn't standard output
def test_a_bug_is_not_hidden(bug, capsys, monkeypatch):
    with pytest.raises(type(bug)):
        run(bug)
    run(DataError("y"), debug=True)
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", None)  # closed by `>&-`
    assert run(0) == 0


def test_a_refused_flag_says_why(capsys):
    parser = argparse.ArgumentParser()
    add_refused_flag(parser, "--use_ema", "take best_model instead")
    assert parser.parse_args([]) == argparse.Namespace()
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--use_ema"])
    assert stopped.value.code == 2 and "take best_model instead" in capsys.readouterr().err
