import subprocess
import sys

import check_env
import pytest
from gpus import Gpu

A100, H100 = Gpu("A100", (8, 0), "535"), Gpu("H100", (9, 0), "550")


def kinds(findings):
    return [kind for kind, _ in findings]


def test_the_report_names_every_package():
    result = subprocess.run([sys.executable, check_env.__file__], capture_output=True, text=True)
    named = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert {"system", "cores", "/dev/shm", "GPUs", "Python", "CUDA", *check_env.PACKAGES} <= set(named)
    assert result.returncode == (1 if "error" in named else 0), result.stdout + result.stderr


@pytest.mark.parametrize("paddle, numpy, expected", [
    ("3.3.1", "2.4.6", []), ("2.6.2", "1.26.4", []), ("2.6.2", "2.4.6", ["note"]), ("2.5.2", "1.26.4", ["error"]),
    (None, "2.4.6", [])])
def test_versions_side_by_side(paddle, numpy, expected):
    assert kinds(check_env.check_versions(paddle, numpy)) == expected


@pytest.mark.parametrize("cards, is_gpu_build, cudnn, paddle, expected", [
    ([], False, None, "3.3.1", []), ([A100], False, None, "3.3.1", ["note"]), ([], True, 8600, "2.6.2", ["note"]),
    ([A100], True, 8600, "2.6.2", []), ([A100], True, None, "2.6.2", ["error"]),
    ([H100], True, 8600, "2.6.2", ["error"]), ([A100, H100], True, 8600, "2.6.2", ["note"]),
    ([H100], True, 90100, "3.3.1", [])])
def test_cards_against_the_build(cards, is_gpu_build, cudnn, paddle, expected):
    assert kinds(check_env.check_gpu_build(cards, is_gpu_build, cudnn, paddle)) == expected


def test_a_gpu_that_can_not_compute(monkeypatch):
    import paddle

    def fail(device):
        raise OSError("no details\nCUDA driver version is insufficient")
    monkeypatch.setattr(paddle, "set_device", fail)
    (kind, text), = check_env.check_computing([A100])
    assert kind == "error" and "insufficient" in text and "driver 535" in text


@pytest.mark.parametrize("error, kind, cure", [
    (None, "error", "pip install"), (ImportError("libGL.so.1: cannot open"), "error", "opencv-python-headless"),
    (PermissionError(13, "Permission denied", "/nonexistent"), "note", "HOME"),
    (AttributeError("module 'numpy' has no attribute 'object'"), "error", "make distclean env")])
def test_a_package_that_is_missing_or_does_not_import(monkeypatch, error, kind, cure):
    def fail(module):
        raise error
    monkeypatch.setattr(check_env, "PACKAGES", {"cv2": ("opencv-python",)})
    monkeypatch.setattr(check_env, "installed", lambda package: error and "4.11.0.86")
    monkeypatch.setattr(check_env.importlib, "import_module", fail)
    (found, text), = check_env.check_packages()[1]
    assert found == kind and cure in text and (error is None or str(error) in text)
