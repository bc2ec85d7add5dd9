import os
import signal

import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils.parallel import map_parallel


def square(number):
    return number ** 2


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_keeps_the_order(num_workers):
    results = map_parallel(square, range(20), num_workers, "squaring")
    assert list(results) == [number ** 2 for number in range(20)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_to_do(num_workers):
    assert list(map_parallel(square, [], num_workers, "squaring")) == []


def test_killed_process_is_an_error():
    with pytest.raises(RunError, match="squaring: a process was killed, .* lower --num_workers, now 2"):
        list(map_parallel(die_at_three, range(20), 2, "squaring"))
