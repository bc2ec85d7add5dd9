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
    assert result.returncode == (1 if "fault" in named else 0), result.stdout + result.stderr
    short = subprocess.run([sys.executable, check_env.__file__, "--faults"], capture_output=True, text=True)
    assert short.returncode == result.returncode and bool(short.stdout) == bool(short.returncode)


@pytest.mark.parametrize("paddle, numpy, expected", [
    ("3.3.1", "2.4.6", []), ("2.6.2", "1.26.4", []), ("2.6.2", "2.4.6", ["note"]), ("2.5.2", "1.26.4", ["fault"]),
    (None, "2.4.6", [])])
def test_versions_side_by_side(paddle, numpy, expected):
    assert kinds(check_env.check_versions(paddle, numpy)) == expected


@pytest.mark.parametrize("cards, is_gpu_build, cudnn, paddle, expected", [
    ([], False, None, "3.3.1", []),
    ([A100], False, None, "3.3.1", ["note"]),
    ([], True, 8600, "2.6.2", ["note"]),
    ([A100], True, 8600, "2.6.2", []),
    ([A100], True, None, "2.6.2", ["fault"]),
    ([H100], True, 8600, "2.6.2", ["fault"]),
    ([A100, H100], True, 8600, "2.6.2", ["note"]),
    ([H100], True, 90100, "3.3.1", []),
])
def test_cards_against_the_build(cards, is_gpu_build, cudnn, paddle, expected):
    assert kinds(check_env.check_gpu_build(cards, is_gpu_build, cudnn, paddle)) == expected


@pytest.mark.parametrize("free, expected", [(None, []), (64 * 2 ** 20, ["note"]), (8 * 2 ** 30, [])])
def test_shared_memory(free, expected):
    findings = check_env.check_shared_memory(free)
    assert kinds(findings) == expected
    assert not findings or "67 MB" in findings[0][1]


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(check_env, "PACKAGES", {"no_such_module": ("no-such-package",)})
    lines, findings = check_env.check_packages()
    assert lines == [("no_such_module", "not installed")]
    assert findings == [("fault", "no-such-package is not installed: run `make env`, or `pip install no-such-package`")]


@pytest.mark.parametrize("error, cure", [
    (ImportError("libGL.so.1: cannot open shared object file"), "opencv-python-headless"),
    (PermissionError(13, "Permission denied", "/nonexistent"), "set HOME"),
    (AttributeError("module 'numpy' has no attribute 'object'"), "make distclean env")])
def test_a_package_that_does_not_import(monkeypatch, error, cure):
    def fail(module):
        raise error
    monkeypatch.setattr(check_env, "PACKAGES", {"cv2": ("opencv-python",)})
    monkeypatch.setattr(check_env, "installed", lambda package: "4.11.0.86")
    monkeypatch.setattr(check_env.importlib, "import_module", fail)
    (kind, text), = check_env.check_packages()[1]
    assert kind == ("note" if isinstance(error, PermissionError) else "fault") and str(error) in text and cure in text
