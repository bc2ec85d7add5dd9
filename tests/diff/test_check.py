"""Faults that diff/check.py has to catch, most of which reprod_log's own report lets pass."""

import os
import re

import numpy as np
import pytest

from diff import check

KEY = "64x128/train/layer3"
STEP = {"step": "forward", "dtype": "float64", "reference_name": "mmseg"}


def feature_map(shape=(2, 6, 8, 8), dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def verdict(reference, ours, **changes):
    """The row of one pair of arrays."""
    return check.compare_logs({KEY: reference}, {KEY: ours}, **{**STEP, **changes})[0]


def save(path, log):
    """Save as ReprodLogger.save does."""
    np.save(str(path), log)
    return str(path)


@pytest.fixture
def use_tolerance(monkeypatch):
    def use(**fields):
        row = check.Tolerance("forward", "*", "*", "*", **{"largest": 1e-6, **fields})
        monkeypatch.setattr(check, "TOLERANCES", (row,))
    return use


@pytest.mark.parametrize("reference, ours, passes, tolerance", [
    (feature_map(), feature_map(), True, {}),
    # Relative to the reference's largest value, of which zeros have none.
    (np.r_[np.full(999, 1e3), 1e3], np.r_[np.full(999, 1e3), 1e3 + 5e-8], True, {"largest": 1e-10}),
    (np.ones(1000), np.r_[np.ones(999), 1 + 5e-8], False, {"largest": 1e-10}),
    (np.zeros(4), np.full(4, 1e-11), True, {"largest": 1e-10}), (np.zeros(4), np.full(4, 1e-9), False,
                                                                 {"largest": 1e-10}),
    (np.full(1000, 1e3), np.full(1000, 1e3 + 1e-5), False, {"is_absolute": True}),
    (np.array([1e-17, -3e-17]), np.array([2e-17, 1e-17]), True, {"largest": 1e-9, "least_scale": 1e-6}),
    (np.array([1e-17, -3e-17]), np.array([2e-15, 1e-17]), False, {"largest": 1e-9, "least_scale": 1e-6}),
    (np.array([1e-3]), np.array([1e-3 * (1 + 1e-8)]), False, {"largest": 1e-9, "least_scale": 1e-6}),
    # Unsigned differences don't wrap; two large integers may be one float.
    (np.array([0], "uint8"), np.array([1], "uint8"), True, {"largest": 1.0, "is_absolute": True}),
    (np.array([0], "uint8"), np.array([255], "uint8"), False, {"largest": 1.0, "is_absolute": True}),
    (np.array([2 ** 60]), np.array([2 ** 60 + 1]), False, {"largest": 0.0}),
    # One large error, many small ones, many values off by what few may be.
    (np.ones(10 ** 6), np.r_[6.0, np.ones(10 ** 6 - 1)], False, {"largest": 1e-5}),
    (np.ones(1000), np.full(1000, 1 + 9e-7), False, {"largest": 1e-6}),
    (np.zeros(1000), np.r_[1.0, np.zeros(999)], True, {"largest": 1.0, "is_absolute": True, "changed_share": 0.001}),
    (np.zeros(1000), np.r_[1.0, 1e-9, np.zeros(998)], False,
     {"largest": 1.0, "is_absolute": True, "changed_share": 0.001}),
])
def test_verdicts(reference, ours, passes, tolerance, use_tolerance):
    use_tolerance(**tolerance)
    assert verdict(reference, ours).passed is passes


@pytest.mark.parametrize("reference, ours, fault", [
    *((np.ones(one), np.ones(other), "shapes differ") for one, other in (
        ((3, 1), (1, 3)), ((4, 1), (4,)), ((), (1,)), ((2, 3), (3, 2)), ((1, 6, 8, 8), (2, 6, 8, 8)))),
    *((np.ones(4, one), np.ones(4, other), "dtypes differ") for one, other in (
        ("float64", "float32"), ("int64", "int32"), ("uint8", "bool"))),
    (np.ones(4, "float32"), np.ones(4, "float32"), "float32 values"),
    (np.ones((0, 3)), np.ones((0, 3)), "no values"),
    *((np.array(one), np.array(other), "NaN or infinite") for one, other in (
        ([np.nan], [np.nan]), ([1.0], [np.nan]), ([np.inf], [1.0]), ([np.inf], [np.inf]), ([1.0], [-np.inf]))),
])
def test_arrays_that_can_not_be_compared_fail(reference, ours, fault):
    assert fault in verdict(reference, ours).fault


def test_a_key_of_one_side_or_without_a_tolerance_fails(monkeypatch):
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"b": np.ones(2), "c": np.ones(2)}, **STEP)
    assert [(row.key, row.passed) for row in rows] == [("a", False), ("b", True), ("c", False)]
    monkeypatch.setattr(check, "TOLERANCES", ())
    assert "no tolerance" in verdict(np.ones(3), np.ones(3)).fault


# Files.


def run_check(tmp_path, reference, ours, *arguments):
    """(exit code, the lines of the log without their time)."""
    log = tmp_path / "forward_diff.log"
    code = check.main([str(reference), str(ours), "--step", "forward", "--dtype", "float64", "--log", str(log),
                       *arguments])
    lines = log.read_text().splitlines()
    prefix = re.compile(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: ")
    assert all(prefix.match(line) for line in lines)
    return code, [prefix.sub("", line) for line in lines]


def test_a_log_that_passes(tmp_path):
    reference, ours = (save(tmp_path / f"{side}.npy", {KEY: feature_map()}) for side in ("torch", "paddle"))
    code, lines = run_check(tmp_path, reference, ours)
    assert code == 0
    assert lines == ["forward, reference mmseg, float64", f"{KEY}:", "\tmax diff: check passed: True, value: 0.0",
                     "\tmean diff: check passed: True, value: 0.0", "diff check passed"]


def test_a_log_that_fails(tmp_path, capsys):
    # A key can't forge a line of the log.
    forged = "a\n[2026/01/01 00:00:00] root INFO: diff check passed"
    reference = save(tmp_path / "torch.npy", {KEY: np.ones(8), "64x128/eval/seg": np.ones(8)})
    ours = save(tmp_path / "paddle.npy", {KEY: np.full(8, 1.5), "64x128/eval/seg": np.ones(8), forged: np.ones(2)})
    code, lines = run_check(tmp_path, reference, ours)
    assert code == 1
    assert lines[2:4] == ["\tmax diff: check passed: False, value: 0.5", "\tmean diff: check passed: False, value: 0.5"]
    assert lines[-1] == "diff check failed" and "diff check passed" not in lines
    assert f"{KEY}: largest difference 0.5 > 1e-10" in capsys.readouterr().out


@pytest.mark.parametrize("content", [
    {}, {KEY: 1.0}, {3: np.ones(2)}, [np.ones(2)], {KEY: np.array(["text"])}, {KEY: np.array([None])}, b"",
    b"\x93NUMPY", None], ids=str)
def test_a_file_of_something_else(tmp_path, content):
    good, bad = save(tmp_path / "good.npy", {KEY: np.ones(2)}), tmp_path / "bad.npy"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content is not None:
        save(bad, content)
    for pair in ((good, bad), (bad, good)):
        code, lines = run_check(tmp_path, *pair)
        assert code == 1 and lines[-1] == "diff check failed" and any("bad.npy" in line for line in lines), lines


class Hostile:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def test_a_log_is_data_and_never_code(tmp_path):
    good = save(tmp_path / "good.npy", {KEY: np.ones(2)})
    canary = tmp_path / "canary"
    bad = save(tmp_path / "bad.npy", {KEY: Hostile(str(canary))})
    assert run_check(tmp_path, bad, good)[0] == 1
    assert not canary.exists()
    np.load(bad, allow_pickle=True)  # the file would have worked
    assert canary.exists()


def test_the_log_is_read_as_reprod_log_writes_it(tmp_path):
    reprod_log = pytest.importorskip("reprod_log")
    logger = reprod_log.ReprodLogger()
    arrays = {"float": feature_map(), "transposed": feature_map().T, "scalar": np.array(2.5), "int": np.arange(4),
              "bool": np.array([True, False]), "uint8": np.arange(6, dtype="uint8").reshape(2, 3)}
    for key, array in arrays.items():
        logger.add(key, array)
    logger.save(str(tmp_path / "forward_torch.npy"))
    log = check.read_log(str(tmp_path / "forward_torch.npy"))
    assert list(log) == list(arrays)
    for key, array in arrays.items():
        assert log[key].dtype == array.dtype
        np.testing.assert_array_equal(log[key], array)


# The table.


def test_the_first_tolerance_that_fits_counts():
    assert check.find_tolerance("forward", "mmseg", "float64", "97x161/train/aux").largest == 5e-5
    assert check.find_tolerance("forward", "mmseg", "float64", "64x128/eval/seg").largest == 1e-10
    assert check.find_tolerance("other", "mmseg", "float64", "64x128/eval/seg") is None


def test_the_worst_row_is_a_failed_one():
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2) * (1 + 9e-11)}, **STEP)
    assert check.worst(rows).key == "b"
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2) * (1 + 1e-12), "b": np.ones(2)},
                              **STEP)
    assert check.worst(rows).key == "a"
