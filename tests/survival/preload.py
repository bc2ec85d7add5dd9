"""Import once what the commands import; `forked_commands` has its server do it."""

import importlib
import pkgutil
import warnings
import zlib  # noqa: F401  (before Paddle 2.6, whose own zlib would otherwise serve OpenCV, and fail)

import pytest  # noqa: F401  (as forked_commands does)

import paddleseg

warnings.filterwarnings("ignore", message="No ccache found")  # Paddle says this at every import
for module in pkgutil.walk_packages(paddleseg.__path__, "paddleseg."):
    importlib.import_module(module.name)
