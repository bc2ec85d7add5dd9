"""What diff/check.py has to catch, most of which reprod_log's own report lets pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

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
    """As ReprodLogger.save does."""
    np.save(str(path), log)
    return str(path)


@pytest.fixture
def use_tolerance(monkeypatch):
    def use(**fields):
        row = check.Tolerance("forward", "*", "*", "*", **{"largest": 1e-6, **fields})
        monkeypatch.setattr(check, "TOLERANCES", (row,))
    return use


# What passes.


def test_equal_arrays_pass():
    row = verdict(feature_map(), feature_map())
    assert row.passed and row.largest == row.mean == row.changed_share == 0


def test_the_difference_is_relative_to_the_references_largest_value():
    reference = np.full(1000, 1e3)
    ours = reference.copy()
    ours[0] += 5e-8  # 5e-11 of 1e3
    assert verdict(reference, ours).passed
    assert verdict(reference, ours).largest == pytest.approx(5e-11, rel=1e-3)
    assert not verdict(reference / 1e3, reference / 1e3 + (ours - reference)).passed


def test_zeros_have_no_scale():
    assert verdict(np.zeros(4), np.full(4, 1e-11)).passed
    assert not verdict(np.zeros(4), np.full(4, 1e-9)).passed


def test_an_absolute_tolerance_has_no_scale(use_tolerance):
    use_tolerance(is_absolute=True)
    assert not verdict(np.full(1000, 1e3), np.full(1000, 1e3 + 1e-5)).passed


def test_an_array_of_mere_rounding_has_the_least_scale(use_tolerance):
    use_tolerance(largest=1e-9, least_scale=1e-6)
    assert verdict(np.array([1e-17, -3e-17]), np.array([2e-17, 1e-17])).passed
    assert not verdict(np.array([1e-17, -3e-17]), np.array([2e-15, 1e-17])).passed
    assert not verdict(np.array([1e-3]), np.array([1e-3 * (1 + 1e-8)])).passed


# What must fail.


@pytest.mark.parametrize("spoil", [
    lambda x: x.swapaxes(2, 3),
    lambda x: x.swapaxes(0, 1)[[1, 0]].swapaxes(0, 1) if x.shape[1] == 2 else x[:, [1, 0, 2, 3, 4, 5]],
    lambda x: x[::-1],
    lambda x: -x,
    lambda x: x * (1 + 1e-9),
], ids=["transposed", "channels swapped", "images swapped", "sign", "scaled"])
def test_a_wrong_array_fails(spoil):
    row = verdict(feature_map(), spoil(feature_map()))
    assert not row.passed and "difference" in row.fault


@pytest.mark.parametrize("reference, ours", [
    ((3, 1), (1, 3)), ((4, 1), (4,)), ((), (1,)), ((2, 3), (3, 2)), ((1, 6, 8, 8), (2, 6, 8, 8))])
def test_shapes_that_would_broadcast_fail(reference, ours):
    row = verdict(np.ones(reference), np.ones(ours))
    assert row.fault.startswith("shapes differ")


@pytest.mark.parametrize("reference, ours", [("float64", "float32"), ("int64", "int32"), ("uint8", "bool")])
def test_dtypes_that_differ_fail(reference, ours):
    assert verdict(np.ones(4, reference), np.ones(4, ours)).fault.startswith("dtypes differ")


def test_a_float64_run_computes_in_float64():
    assert "float32 values" in verdict(feature_map(dtype="float32"), feature_map(dtype="float32")).fault


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_values_that_are_not_finite_fail(value, sides):
    arrays = [feature_map(), feature_map()]
    for array, is_spoilt in zip(arrays, sides):
        array[0, 0, 0, 0] = value if is_spoilt else 0.0
    assert "NaN or infinite" in verdict(*arrays).fault


def test_an_array_without_values_fails():
    assert verdict(np.ones((0, 3)), np.ones((0, 3))).fault == "no values"


def test_a_key_without_a_tolerance_fails(monkeypatch):
    monkeypatch.setattr(check, "TOLERANCES", ())
    assert "no tolerance" in verdict(np.ones(3), np.ones(3)).fault


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_one_pixel_of_a_large_label_fails(dtype, use_tolerance):
    use_tolerance(largest=0.0)
    label = np.random.default_rng(0).integers(0, 19, (2, 1024, 2048)).astype(dtype)
    flipped = label.copy()
    flipped[1, 700, 1500] = 3 if label[1, 700, 1500] != 3 else 4
    assert verdict(label, label.copy()).passed
    assert not verdict(label, flipped).passed and not verdict(flipped, label).passed


def test_unsigned_differences_do_not_wrap(use_tolerance):
    use_tolerance(largest=1.0, is_absolute=True)
    assert verdict(np.array([0], "uint8"), np.array([1], "uint8")).largest == 1
    assert verdict(np.array([0], "uint8"), np.array([255], "uint8")).largest == 255


def test_large_integers_that_are_one_float_fail(use_tolerance):
    use_tolerance(largest=0.0)
    assert not verdict(np.array([2 ** 60]), np.array([2 ** 60 + 1])).passed


def test_one_large_error_among_many_values_fails_by_the_largest(use_tolerance):
    use_tolerance(largest=1e-5)
    reference = np.ones(10 ** 7)
    ours = reference.copy()
    ours[12345] = 6.0
    row = verdict(reference, ours)
    assert row.mean <= row.mean_tolerance and not row.passed
    assert row.largest == 5.0 and row.fault.startswith("largest difference")


def test_many_small_errors_fail_by_the_mean(use_tolerance):
    use_tolerance(largest=1e-6)
    row = verdict(np.ones(1000), np.full(1000, 1 + 9e-7))
    assert row.largest <= row.tolerance.largest and row.fault.startswith("mean difference")


def test_many_values_off_by_what_few_may_be(use_tolerance):
    use_tolerance(largest=1.0, is_absolute=True, changed_share=0.001)
    image = np.zeros(10_000)
    image[:10] = 1
    assert verdict(np.zeros(10_000), image).passed
    image[10] = 1e-9
    assert "0.110% of the values differ" in verdict(np.zeros(10_000), image).fault


def test_key_sets_must_be_equal():
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"b": np.ones(2), "c": np.ones(2)}, **STEP)
    assert [(row.key, row.fault) for row in rows] == [
        ("a", "missing in ours"), ("b", ""), ("c", "missing in the reference")]


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
    reference = save(tmp_path / "torch.npy", {KEY: np.ones(8), "64x128/eval/seg": np.ones(8)})
    ours = save(tmp_path / "paddle.npy", {KEY: np.full(8, 1.5), "64x128/eval/seg": np.ones(8)})
    code, lines = run_check(tmp_path, reference, ours)
    assert code == 1
    assert lines[2:4] == ["\tmax diff: check passed: False, value: 0.5", "\tmean diff: check passed: False, value: 0.5"]
    assert lines[-1] == "diff check failed" and f"{KEY}: largest difference 0.5 > 1e-10" in capsys.readouterr().out


def assert_refused(tmp_path, reference, ours, reason):
    code, lines = run_check(tmp_path, reference, ours)
    assert code == 1 and lines[-1] == "diff check failed" and any(reason in line for line in lines), lines


@pytest.mark.parametrize("content, reason", [
    ({}, "empty log"),
    ({KEY: 1.0}, "named arrays"),
    ({3: np.ones(2)}, "named arrays"),
    ([np.ones(2)], "an array, not of a mapping"),
    ({KEY: np.array(["text"])}, "only numbers and booleans"),
    ({KEY: np.array([None])}, "damaged description"),
])
def test_a_file_of_something_else(tmp_path, content, reason):
    good = save(tmp_path / "good.npy", {KEY: np.ones(2)})
    bad = save(tmp_path / "bad.npy", content)
    assert_refused(tmp_path, good, bad, reason)
    assert_refused(tmp_path, bad, good, reason)
    assert_refused(tmp_path, bad, bad, reason)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    good = save(tmp_path / "good.npy", {KEY: feature_map()})
    data = Path(good).read_bytes()
    (tmp_path / "bad.npy").write_bytes(data[:int(len(data) * share)])
    assert_refused(tmp_path, good, tmp_path / "bad.npy", "truncated, damaged")


def test_a_missing_file(tmp_path):
    good = save(tmp_path / "good.npy", {KEY: np.ones(2)})
    assert_refused(tmp_path, good, tmp_path / "none.npy", "none.npy doesn't exist")
    assert_refused(tmp_path, tmp_path / "none.npy", good, "none.npy doesn't exist")


class Hostile:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def test_a_log_is_data_and_never_code(tmp_path):
    good = save(tmp_path / "good.npy", {KEY: np.ones(2)})
    canary = tmp_path / "canary"
    bad = save(tmp_path / "bad.npy", {KEY: Hostile(str(canary))})
    assert_refused(tmp_path, bad, good, "holds the pickle global posix.mkdir: refused")
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


def test_the_command_line(tmp_path):
    good = save(tmp_path / "good.npy", {KEY: feature_map()})
    bad = save(tmp_path / "bad.npy", {KEY: feature_map(seed=1)})
    command = [sys.executable, check.__file__, good, "--step", "forward", "--dtype", "float64", "--log", "x_diff.log"]
    for other, code, text in ((good, 0, "forward: passed, 1 arrays"), (bad, 1, "forward: FAILED, 1 arrays")):
        done = subprocess.run([*command[:3], other, *command[3:]], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (code, f"{text}; x_diff.log"), done.stderr


def test_a_key_can_not_forge_lines_of_the_log(tmp_path):
    forged = save(tmp_path / "forged.npy", {"a\n[2026/01/01 00:00:00] root INFO: diff check passed": np.ones(2)})
    code, lines = run_check(tmp_path, forged, save(tmp_path / "good.npy", {KEY: np.ones(2)}))
    assert code == 1 and lines.count("diff check passed") == 0


# The table.


@pytest.mark.parametrize("step, dtype, key, reference, largest", [
    ("forward", "float64", "64x128/train/layer3", "mmseg", 1e-10),
    ("forward", "float64", "64x128/eval/seg", "mmseg", 1e-10),
    ("forward", "float64", "97x161/eval/logits", "mmseg", 1e-10),
    ("forward", "float64", "97x161/train/aux", "mmseg", 5e-5),
    ("forward", "float32", "97x161/train/aux", "mmseg", 2e-5),
    ("forward", "float32", "64x128/eval/seg", "paddleseg", 1e-5),
    ("loss", "float64", "512x1024/ignored_pixels/seg", "mmseg", 1e-12),
    ("loss", "float64", "64x128/all_ignored/se", "mmseg", 1e-12),
    ("loss", "float64", "64x128/all_ignored/seg", "pytorch_encoding", 1e-12),
    ("bp_align", "float64", "gradient/head.weight", "mmseg", 1e-9),
    ("bp_align", "float64", "state/head.weight", "mmseg", 1e-7),
    ("bp_align", "float32", "gradient/head.weight", "mmseg", 1e-3),
    ("train_align", "float64", "seed0/first_50", "mmseg", 1e-6),
    ("train_align", "float32", "seed1/miou", "mmseg", 0.01),
    ("loss", "float32", "all_ignored/seg", "mmseg", 2e-6),
    ("schedule", "float64", "lr", "mmseg", 1e-15),
    ("metric", "float64", "iou", "mmseg", 0.0),
])
def test_the_tolerances(step, dtype, key, reference, largest):
    assert check.find_tolerance(step, reference, dtype, key).largest == largest


def test_an_unknown_step_has_none():
    assert check.find_tolerance("other", "mmseg", "float64", "x") is None


def test_the_worst_row_is_a_failed_one():
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2) * (1 + 9e-11)}, **STEP)
    assert check.worst(rows).key == "b"
    rows = check.compare_logs({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2) * (1 + 1e-12), "b": np.ones(2)},
                              **STEP)
    assert check.worst(rows).key == "a"
