import os

import paddle
import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import cores, device

no_gpu = pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="needs a CPU build of Paddle")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight cores; call it with the text of a container's quota."""
    def make(quota=None):
        path = tmp_path / "cpu.max"
        if quota:
            path.write_text(quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        monkeypatch.setattr(cores, "open", lambda *args, **kwargs: open(path), raising=False)

    return make


@no_gpu
def test_a_gpu_that_is_not_there_is_an_error_and_auto_is_the_cpu():
    with pytest.raises(RunError, match="--device gpu"):
        device.set_device("gpu")
    assert device.set_device("auto") == device.set_device("cpu") == "cpu"


@pytest.mark.parametrize("quota, usable", [(None, 8), ("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_counts(machine, quota, usable):
    machine(quota)
    assert cores.usable_cores() == usable
    assert device.default_threads() == usable and device.default_workers() == min(4, usable - 1)


def test_a_process_takes_its_share_of_the_cores(machine, monkeypatch):
    machine()
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert device.default_threads() == 2 and device.default_workers() == 1
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "2")
    assert device.default_threads() == 4
