"""The kernels of MKL that a process asks for, and that their products are right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg.utils import device

AVX2 = "fpu avx2 fma sse4a"
AVX512 = AVX2 + " avx512f avx512dq avx512cd avx512bw avx512vl"
VARIABLE = "MKL_DEBUG_CPU_TYPE"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("vendor, flags, before, expected", [
    ("AuthenticAMD", AVX512, None, "7"), ("AuthenticAMD", AVX2, None, "5"),
    ("AuthenticAMD", AVX2 + " avx512f", None, "5"),  # of AVX-512, MKL's kernels need more than the foundation
    ("AuthenticAMD", "fpu sse4a", None, None), ("GenuineIntel", AVX512, None, None),
    ("AuthenticAMD", AVX512, "0", "0"), (None, None, None, None)])
def test_kernels_are_what_the_cpu_can_do(monkeypatch, tmp_path, vendor, flags, before, expected):
    monkeypatch.setenv(VARIABLE, before or "")
    if before is None:
        monkeypatch.delenv(VARIABLE)
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


@pytest.mark.parametrize("kernels", ["chosen", "0"])
def test_products_are_right_to_rounding(kernels):
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if kernels != "chosen":
        environment[VARIABLE] = kernels
    subprocess.run([sys.executable, "-c", PRODUCTS], env={**environment, "PYTHONPATH": str(ROOT)}, check=True)
