"""Shared parts of the command lines; standard library only, so that `--help` answers at once."""

import argparse
import errno
import os
import select
import sys
import traceback
import warnings
from typing import Callable

from paddleseg.cvlibs.errors import Interrupted, SegError
from paddleseg.utils.cores import usable_cores

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class _Refuse(argparse.Action):
    """Refuse a flag of PaddleSeg's that isn't offered here, with the reason."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is not offered: {self.help}")


def add_refused_flag(parser: argparse.ArgumentParser, flag: str, reason: str) -> None:
    """Know `flag`, with any values, only to refuse it with `reason`."""
    parser.add_argument(flag, action=_Refuse, nargs="*", help=reason, default=argparse.SUPPRESS)


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, which `run_main` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_plugins_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--plugins`, for `paddleseg.plugins.load_plugins`."""
    parser.add_argument("--plugins", nargs="+", action="extend", metavar="CODE", default=[],
                        help="files and modules that register components of their own, such as my_model.py my.losses; "
                             "they are run, so name only what you trust")


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--opts`, `--plugins` and `--debug`."""
    parser.add_argument("--config", required=True, metavar="FILE", help="the config, a YAML file")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the config, such as model.num_codes=16")
    add_plugins_flag(parser)
    add_debug_flag(parser)


def add_processes_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--num_workers` of a tool that goes over many files, for `paddleseg.utils.parallel.map_parallel`."""
    parser.add_argument("--num_workers", type=int, default=usable_cores(), metavar="N",
                        help="processes; the result doesn't depend on it (default: %(default)s, the cores)")


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of train.py, val.py and predict.py; none has a default of its own.

    A flag that isn't given is None and leaves the configuration as it is.
    """
    add_config_flags(parser)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"],
                        help="auto (default) takes the GPU where Paddle sees one; gpu without one is an error")
    parser.add_argument("--num_workers", type=int, metavar="N",
                        help="processes that read data; 0 reads in the main process (default: by the cores); "
                             "predict.py: threads that write")
    parser.add_argument("--threads", type=int, metavar="N",
                        help="CPU threads of a process (default: all cores that it may use)")


def add_inference_flags(parser: argparse.ArgumentParser, augment_flag: str) -> None:
    """Add the flags of sliding windows and of multi-scale and flip inference."""
    parser.add_argument(augment_flag, dest="aug_eval", action="store_true", default=None,
                        help="average over scales and flips")
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="scales to average over")
    parser.add_argument("--flip_horizontal", action="store_true", default=None,
                        help="average over the mirrored image too")
    parser.add_argument("--flip_vertical", action="store_true", default=None,
                        help="average over the image upside down too")
    parser.add_argument("--is_slide", action="store_true", default=None, help="slide a window over the image")
    parser.add_argument("--crop_size", nargs=2, type=int, metavar=("W", "H"), help="the window: width, height")
    parser.add_argument("--stride", nargs=2, type=int, metavar=("W", "H"), help="its steps: right, down")


def printable(text: str) -> str:
    """Replace control characters and line ends by "?": messages quote file content and go to terminals."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def run_main(function: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Call `function(args)`; a SegError becomes one line and its exit code, and so does a disk that takes nothing."""
    # Harmless warnings of Paddle at every import and every training.
    for message in ("No ccache found", "When training, we now always track"):
        warnings.filterwarnings("ignore", message=message)
    try:
        code = function(args) or 0
        if sys.stdout is not None:  # `>&-` closes it
            sys.stdout.flush()
        return code
    except (SegError, Interrupted) as error:
        if args.debug:
            traceback.print_exc()
        try:
            print(f"{type(error).__name__}: {printable(str(error))}", file=sys.stderr, flush=True)
        except BrokenPipeError:  # of `2>&1 | tee log`, which the same Ctrl-C has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return error.exit_code
    except BrokenPipeError:
        if args.debug or not _reader_is_gone():
            raise
        return 141  # as a program that SIGPIPE ends
    except OSError as error:
        if args.debug or error.errno not in _DISK:
            raise
        print(f"RunError: {error.filename or 'output'}: {error.strerror}; make room there, or write elsewhere",
              file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130


def _reader_is_gone() -> bool:
    """Return True if the reader of standard output, such as `| head`, has ended; then what is printed goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # it is no file, or closed
        return False
    reader = select.poll()
    reader.register(output, 0)  # errors are reported anyway
    if not any(event & select.POLLERR for _, event in reader.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True
