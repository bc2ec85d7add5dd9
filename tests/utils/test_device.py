"""The device, the share of the cores, and the kernels of MKL that a process asks for."""

import os
import subprocess
import sys
from pathlib import Path

import paddle
import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import cores, device

AVX2 = "fpu avx2 fma sse4a"
AVX512 = AVX2 + " avx512f avx512dq avx512cd avx512bw avx512vl"
VARIABLE = "MKL_DEBUG_CPU_TYPE"
ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("vendor, flags, before, expected", [
    ("AuthenticAMD", AVX512, None, "7"), ("AuthenticAMD", AVX2, None, "5"),
    ("AuthenticAMD", AVX2 + " avx512f", None, "5"),  # of AVX-512, MKL's kernels need more than the foundation
    ("GenuineIntel", AVX512, None, None),
    ("AuthenticAMD", AVX512, "0", "0"), (None, None, None, None)])
def test_kernels_are_what_the_cpu_can_do(monkeypatch, tmp_path, vendor, flags, before, expected):
    monkeypatch.setenv(VARIABLE, before or "")  # so that it is put back
    if before is None:
        del os.environ[VARIABLE]
    info = tmp_path / "cpuinfo"
    if vendor:
        core = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: a: b\nflags\t\t: {flags}\npower management:\n\n"
        info.write_text(core * 2)
    monkeypatch.setattr(device, "open", lambda path, **options: open(info, **options), raising=False)
    device.use_fast_kernels()
    assert os.environ.pop(VARIABLE, None) == expected


PRODUCTS = """
import numpy as np, paddle, sys
from paddleseg.utils import device
device.start_process("cpu", 1)
rng = np.random.default_rng(0)
for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-15)):
    for m, k, n in ((1, 1, 1), (3, 5, 7), (64, 576, 513), (257, 100, 31)):
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
        bound = np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble)
        error = np.abs(paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(b)).numpy() - exact)
        assert (error <= tolerance * bound).all(), (dtype, m, k, n, (error / bound).max())
"""


@pytest.mark.parametrize("kernels", [{}, {VARIABLE: "0"}])
def test_products_are_right_to_rounding(kernels):
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment.update(kernels, PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, check=True)
