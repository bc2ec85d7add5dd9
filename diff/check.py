"""Compare two logs of reprod_log, the reference's and ours, under one table of tolerances.

    python diff/check.py diff/output/mmseg_float64/forward_torch.npy diff/output/mmseg_float64/forward_paddle.npy \\
        --step forward --dtype float64 --log diff/forward_diff.log

Stricter than reprod_log's own report: the largest difference counts as well as the mean one; keys, shapes
and dtypes must be the same; a value that isn't finite, an array without values, an empty log, and a key
that the table doesn't know all fail. The log has reprod_log's format. Exit code 1 on any failure.
"""

import argparse
import fnmatch
import logging
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils.cli import printable
from paddleseg.weights.unpickle import read_npy

STEPS = ("data", "forward", "metric", "loss", "bp_align", "train_align", "schedule")
DTYPES = ("float32", "float64")


class Tolerance(NamedTuple):
    """One row of the table; patterns are those of fnmatch and the first row that fits is taken.

    Attributes:
        largest: the largest difference allowed, relative to the largest absolute value of the reference's array.
        mean_share: the mean difference may be this share of `largest`. (A single value has no mean of its own.)
        is_absolute: differences count as they are.
        least_scale: an array whose largest value is below this counts as if that were its largest value.
        changed_share: the share of the values that may differ at all.
    """

    step: str
    reference: str
    dtype: str
    key: str
    largest: float
    mean_share: float = 0.25
    is_absolute: bool = False
    least_scale: float = 0.0
    changed_share: float = 1.0


TOLERANCES = (
    Tolerance("data", "*", "*", "*/label", 0.0),
    Tolerance("data", "*", "*", "*/grey_levels", 1.0, is_absolute=True, changed_share=0.001),
    # One grey level of values that are normalised to 1 at most, on a thousandth of them.
    Tolerance("data", "*", "*", "*/image", 8e-3, mean_share=0.001),
    # Bilinear coordinates are float32 in Paddle whatever the input; at 64x128 they are exact.
    # PyTorch-Encoding aligns corners, and then they aren't.
    Tolerance("forward", "pytorch_encoding", "float64", "*/seg", 5e-5),
    Tolerance("forward", "pytorch_encoding", "float64", "*/aux", 5e-5),
    Tolerance("forward", "*", "float64", "97x161/*/seg", 5e-5),
    Tolerance("forward", "*", "float64", "97x161/*/aux", 5e-5),
    Tolerance("forward", "*", "float64", "*", 1e-10),
    Tolerance("forward", "paddleseg", "float32", "*", 1e-5),
    Tolerance("forward", "*", "float32", "*", 2e-5),
    # mmsegmentation's cross entropy has float32's epsilon in its divisor, of few pixels here:
    # diff/show.py mmseg_epsilon.
    Tolerance("loss", "mmseg", "float64", "512x1024/*", 1e-12),
    Tolerance("loss", "mmseg", "float64", "*/se", 1e-12),
    Tolerance("loss", "mmseg", "float64", "*", 1e-11),
    # PaddleSeg's has 1e-8 in it, beside the share of pixels that count: diff/show.py paddleseg_epsilon.
    Tolerance("loss", "paddleseg", "float64", "*", 1e-7),
    Tolerance("loss", "*", "float64", "*", 1e-12),
    Tolerance("loss", "*", "float32", "*", 2e-6),
    Tolerance("metric", "*", "*", "*", 0.0),
    # A bias whose ReLU passes everything on to another batch norm has a gradient of 0, and of mere rounding.
    Tolerance("bp_align", "*", "float64", "gradient/*", 1e-9, least_scale=1e-6),
    Tolerance("bp_align", "*", "float64", "state/*", 1e-7),
    Tolerance("bp_align", "*", "float64", "step*/lr", 1e-15),
    Tolerance("bp_align", "*", "float64", "step0/*", 1e-9),
    Tolerance("bp_align", "*", "float64", "step*", 1e-7),
    Tolerance("bp_align", "*", "float32", "gradient/*", 1e-3, least_scale=1e-6),
    Tolerance("bp_align", "*", "float32", "step*/lr", 1e-6),
    Tolerance("bp_align", "*", "float32", "step0/*", 2e-5),
    # Ten steps magnify float32's rounding; these hold no more than a blunder.
    Tolerance("bp_align", "*", "float32", "step*", 0.05),
    Tolerance("bp_align", "*", "float32", "state/*", 0.1, mean_share=0.5),
    Tolerance("train_align", "*", "float64", "*/first_50", 1e-6),
    Tolerance("train_align", "*", "*", "*/lr", 1e-15, mean_share=1.0),
    Tolerance("train_align", "*", "*", "*/miou", 0.01, is_absolute=True),
    # Two runs that differ in the last bit drift apart; these hold no more than a blunder.
    Tolerance("train_align", "*", "float64", "*", 1e-3),
    Tolerance("train_align", "*", "float32", "*", 0.2),
    # mmsegmentation multiplies each rate from the last one, so that its rounding adds up.
    Tolerance("schedule", "*", "*", "lr", 1e-15, is_absolute=True),
)


class Row(NamedTuple):
    """The verdict on one key; the numbers are None where the arrays can't be compared."""

    key: str
    fault: str  # empty if passed
    largest: Optional[float] = None
    mean: Optional[float] = None
    changed_share: Optional[float] = None
    tolerance: Optional[Tolerance] = None
    mean_tolerance: Optional[float] = None

    @property
    def passed(self) -> bool:
        return not self.fault


def find_tolerance(step: str, reference: str, dtype: str, key: str) -> Optional[Tolerance]:
    """The first row of the table that fits, or None."""
    for row in TOLERANCES:
        if (row.step == step and fnmatch.fnmatchcase(reference, row.reference)
                and fnmatch.fnmatchcase(dtype, row.dtype) and fnmatch.fnmatchcase(key, row.key)):
            return row
    return None


# Reading.


def read_log(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a file of reprod_log's ReprodLogger, read as data.

    Raises:
        WeightsError: missing, damaged, empty, or holding anything but named arrays.
    """
    log = read_npy(path)
    if not isinstance(log, dict) or not all(
            isinstance(key, str) and isinstance(value, np.ndarray) for key, value in log.items()):
        raise WeightsError(f"{path} is not a log of reprod_log: it has to hold named arrays")
    if not log:
        raise WeightsError(f"{path} is an empty log")
    return log


# Comparing.


def misfit(reference: np.ndarray, ours: np.ndarray, dtype: str) -> str:
    """Return the reason that two arrays can't be compared, or nothing."""
    if reference.shape != ours.shape:
        return f"shapes differ: {reference.shape} and {ours.shape}"
    if reference.dtype != ours.dtype:
        return f"dtypes differ: {reference.dtype} and {ours.dtype}"
    if reference.size == 0:
        return "no values"
    if dtype == "float64" and reference.dtype.kind == "f" and reference.dtype != np.float64:
        return f"{reference.dtype} values in a float64 run"
    for name, array in (("reference", reference), ("ours", ours)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} has {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite"
    return ""


def difference(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """The absolute difference in float64."""
    errors = np.abs(np.subtract(reference.astype(np.float64), ours))
    # Two large integers may be the same number in float64; what differs differs by 1 at least.
    return errors if reference.dtype.kind == "f" else np.maximum(errors, reference != ours)


def compare(key: str, reference: np.ndarray, ours: np.ndarray, tolerance: Optional[Tolerance], dtype: str) -> Row:
    """The verdict on one pair of arrays."""
    if tolerance is None:
        return Row(key, "the table has no tolerance for it")
    fault = misfit(reference, ours, dtype)
    if fault:
        return Row(key, fault, tolerance=tolerance)
    errors = difference(reference, ours)
    # An array of zeros has no scale: its errors count as they are.
    scale = max(abs(float(reference.max())), abs(float(reference.min())), tolerance.least_scale) or 1.0
    if tolerance.is_absolute:
        scale = 1.0
    largest, mean = float(errors.max()) / scale, float(errors.mean()) / scale
    share = np.count_nonzero(errors) / errors.size
    mean_tolerance = tolerance.largest * (tolerance.mean_share if errors.size > 1 else 1.0)
    # Written so that a NaN fails.
    faults = [text for within, text in (
        (largest <= tolerance.largest, f"largest difference {largest:.3g} > {tolerance.largest:.3g}"),
        (mean <= mean_tolerance, f"mean difference {mean:.3g} > {mean_tolerance:.3g}"),
        (share <= tolerance.changed_share, f"{share:.3%} of the values differ, > {tolerance.changed_share:.3%}"),
    ) if not within]
    return Row(key, "; ".join(faults), largest, mean, share, tolerance, mean_tolerance)


def compare_logs(reference: Dict[str, np.ndarray], ours: Dict[str, np.ndarray], step: str, dtype: str,
                 reference_name: str) -> List[Row]:
    """One row for each key of either log, in the reference's order."""
    rows = []
    for key in [*reference, *(key for key in ours if key not in reference)]:
        if key not in ours or key not in reference:
            rows.append(Row(key, f"missing in {'ours' if key in reference else 'the reference'}"))
        else:
            tolerance = find_tolerance(step, reference_name, dtype, key)
            rows.append(compare(key, reference[key], ours[key], tolerance, dtype))
    return rows


def check_files(reference_path: str, our_path: str, step: str, dtype: str, reference_name: str) -> List[Row]:
    """Compare two files; a file that can't be used becomes a failed row."""
    logs, faults = [], []
    for path in (reference_path, our_path):
        try:
            logs.append(read_log(path))
        except WeightsError as error:
            faults.append(Row(Path(path).name, str(error)))
    return faults or compare_logs(*logs, step, dtype, reference_name)


# Writing.


def row_lines(row: Row) -> List[str]:
    """A row in the form of reprod_log's report."""
    lines = [f"{printable(row.key)}:"]
    if row.largest is None:
        return [*lines, f"\tcheck passed: False, {printable(row.fault)}"]
    tolerance = row.tolerance
    lines.append(f"\tmax diff: check passed: {row.largest <= tolerance.largest}, value: {row.largest}")
    lines.append(f"\tmean diff: check passed: {row.mean <= row.mean_tolerance}, value: {row.mean}")
    if tolerance.changed_share < 1:
        lines.append(f"\tchanged share: check passed: {row.changed_share <= tolerance.changed_share}, "
                     f"value: {row.changed_share}")
    return lines


def write_log(rows: Sequence[Row], path: str, title: str) -> bool:
    """Write `<step>_diff.log`; returns whether every row passed, which no row at all doesn't."""
    passed = bool(rows) and all(row.passed for row in rows)
    logger = logging.Logger("root")
    handler = logging.FileHandler(path, "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%Y/%m/%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.info(title)
    for row in rows:
        for line in row_lines(row):
            logger.info(line)
    logger.info("diff check passed" if passed else "diff check failed")
    handler.close()
    return passed


def worst(rows: Sequence[Row]) -> Row:
    """The row that tells most: a failed one before a passed one, then the one nearest its tolerance."""
    def use(row: Row) -> float:
        if row.largest is None:
            return float("inf")
        used = max(row.largest / max(row.tolerance.largest, 1e-300), row.mean / max(row.mean_tolerance, 1e-300))
        return max(used, row.changed_share / row.tolerance.changed_share if row.tolerance.changed_share < 1 else 0)
    return max(rows, key=lambda row: (not row.passed, use(row)))


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference_log", help="the .npy file of the reference")
    parser.add_argument("our_log", help="the .npy file of this toolkit")
    parser.add_argument("--step", required=True, choices=STEPS)
    parser.add_argument("--dtype", required=True, choices=DTYPES, help="what the run computed in")
    parser.add_argument("--reference", default="mmseg", help="whose log it is; default: mmseg")
    parser.add_argument("--log", required=True, help="where to write the report")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    rows = check_files(args.reference_log, args.our_log, args.step, args.dtype, args.reference)
    passed = write_log(rows, args.log, f"{args.step}, reference {args.reference}, {args.dtype}")
    for row in rows:
        if not row.passed:
            print(f"{printable(row.key)}: {printable(row.fault)}")
    print(f"{args.step}: {'passed' if passed else 'FAILED'}, {len(rows)} arrays; {args.log}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
