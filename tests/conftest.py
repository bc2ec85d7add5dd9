import logging
import signal

import paddle
import pytest


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
