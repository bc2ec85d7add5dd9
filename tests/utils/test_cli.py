import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg.cvlibs.errors import ConfigError, DataError, Interrupted
from paddleseg.utils.cli import add_refused_flag, run_main


def fail(error):
    def function(args):
        raise error
    return function


@pytest.mark.parametrize("error, code", [(ConfigError("x is wrong"), 2), (DataError("y is gone"), 1),
                                         (Interrupted("stopped"), 75)])
def test_an_error_is_one_line_and_its_exit_code(error, code, capsys):
    assert run_main(fail(error), argparse.Namespace(debug=False)) == code
    captured = capsys.readouterr()
    assert captured.err == f"{type(error).__name__}: {error}\n" and captured.out == ""


def test_a_message_does_not_command_the_terminal(capsys):
    run_main(fail(DataError("a\x1b[2J\nb\0 is gone")), argparse.Namespace(debug=False))
    assert capsys.readouterr().err == "DataError: a?[2J?b? is gone\n"


def test_a_full_disk_is_one_line(capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "x.png")
    assert run_main(fail(error), argparse.Namespace(debug=False)) == 1
    assert capsys.readouterr().err.startswith("RunError: x.png: No space left on device;")


@pytest.mark.parametrize("lines", [1, 100000])
def test_a_reader_that_ends_early_is_no_error(lines):
    """As `check_data.py … | head -1`."""
    script = ("import argparse, sys, time; from paddleseg.utils.cli import run_main\n"
              f"def tell(args):\n    time.sleep(0.2)\n    for number in range({lines}): print(number)\n"
              "sys.exit(run_main(tell, argparse.Namespace(debug=False)))")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, cwd=Path(__file__).parents[2])
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_standard_output_may_be_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run_main(lambda args: 0, argparse.Namespace(debug=False)) == 0


def test_another_broken_pipe_is_not_hidden():
    with pytest.raises(BrokenPipeError):
        run_main(fail(BrokenPipeError()), argparse.Namespace(debug=False))


def test_debug_shows_the_traceback(capsys):
    run_main(fail(DataError("y")), argparse.Namespace(debug=True))
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden():
    with pytest.raises(KeyError):
        run_main(fail(KeyError("bug")), argparse.Namespace(debug=False))


def test_success_and_interruption():
    assert run_main(lambda args: None, argparse.Namespace(debug=False)) == 0
    assert run_main(fail(KeyboardInterrupt()), argparse.Namespace(debug=False)) == 130


def test_a_refused_flag_says_why(capsys):
    parser = argparse.ArgumentParser()
    add_refused_flag(parser, "--use_ema", "take best_model instead")
    assert parser.parse_args([]) == argparse.Namespace()
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--use_ema"])
    assert stopped.value.code == 2 and "--use_ema is not offered: take best_model instead" in capsys.readouterr().err
