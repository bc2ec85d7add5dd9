import logging
import os
import signal
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import paddle
import pytest

SLOW = {"browser", "compat", "survival"}


def pytest_collection_modifyitems(items):
    """Mark whole folders as slow; elsewhere a file says so itself."""
    for item in items:
        if Path(item.fspath).parent.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def float64():
    """Build and compute in float64, so that a tolerance leaves no room for luck."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype(before)


@pytest.fixture(autouse=True)
def untouched_logger():
    """Give each test the package's logger as an import leaves it."""
    yield
    logger = logging.getLogger("paddleseg")
    logger.propagate, logger.handlers[:] = True, []
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def untouched_signals():
    """Put back what a run that was told to stop leaves ignored; processes that later tests start would inherit it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
