"""Errors that a person at the command line can act on.

Each message is one line that says what is wrong, where, and the fix; the
command-line tools print it without a traceback and end with `exit_code`.
"""


class SegError(Exception):
    """Base of every error that is shown to the user as one line."""

    exit_code = 1


class ConfigError(SegError):
    """A configuration value or a command-line flag is wrong."""

    exit_code = 2


class DataError(SegError):
    """A data set, or one file of it, can't be used."""


class ImageReadError(DataError):
    """An image or label file is missing, truncated or not an image."""


class LabelValueError(DataError):
    """A label file holds values that are neither a class nor the ignore index."""


class SizeMismatchError(DataError):
    """An image and its label differ in height or width."""


class WeightsError(SegError):
    """A weights file is missing, unsafe, or doesn't fit the model."""


class RunError(SegError):
    """A run can't start or can't go on."""


class LostPeer(RunError):
    """Another process of the run is gone."""


class Interrupted(BaseException):
    """A run was asked to stop, and can be resumed; 75 is EX_TEMPFAIL of sysexits.h: try again later.

    No error, as KeyboardInterrupt is none: who handles errors doesn't handle this.
    """

    exit_code = 75
