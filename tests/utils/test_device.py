import os

import paddle
import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import cores, device

no_gpu = pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="needs a CPU build of Paddle")


@pytest.fixture
def eight_cores(monkeypatch):
    """A machine of eight cores without a quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def no_such_file(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(cores, "open", no_such_file, raising=False)


@no_gpu
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(RunError, match="--device gpu: this Paddle .* is a CPU build"):
        device.set_device("gpu")


@no_gpu
@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_auto_is_the_cpu_where_there_is_no_gpu(asked):
    assert device.set_device(asked) == "cpu"


def test_float32_products_are_float32_on_a_gpu(monkeypatch):
    switched = []
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(paddle, "set_device", lambda name: name)
    monkeypatch.setattr(paddle.base.core, "set_cublas_switch", switched.append, raising=False)
    assert device.set_device("cpu") == "cpu" and switched == []
    assert device.set_device("auto") == "gpu" and switched == [False]


def test_a_process_takes_its_share_of_the_cores(eight_cores, monkeypatch):
    assert device.default_threads() == 8
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert device.default_threads() == 2 and device.default_workers() == 1
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", "2")
    assert device.default_threads() == 4


def test_paddle_gets_its_threads(monkeypatch):
    set_to = []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", set_to.append)
    monkeypatch.setattr(device, "use_fast_kernels", lambda: None)  # which would outlive this test in the environment
    device.set_threads(3)
    assert set_to == [3]


@pytest.mark.parametrize("text, cores_allowed", [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_counts(monkeypatch, tmp_path, text, cores_allowed):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "open", lambda *args, **kwargs: open(tmp_path / "cpu.max"), raising=False)
    assert cores.usable_cores() == cores_allowed


def test_default_workers_leave_a_core_to_the_model(eight_cores, monkeypatch):
    assert device.default_workers() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert device.default_workers() == 0
