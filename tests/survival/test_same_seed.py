"""Runs with the same seed are the same run, whatever else differs."""

from pathlib import Path

import pytest
from outcome import Fault, Outcome, check
from real_run import Session, final_differences, uninterrupted

# How a run differs from the first one, which has one worker and logs each iteration.
VARIATIONS = [
    {"num_workers": 2, "log_iters": 7, "keep_checkpoint_max": 3},
    {},
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 3, "log_iters": 40},
    {"num_workers": 0, "keep_checkpoint_max": 1000},
]


def survive(count: int, folder: Path) -> Outcome:
    outcome = Outcome()
    for number in range(count):
        variation = VARIATIONS[number % len(VARIATIONS)]
        run = folder / f"run {number}"
        session = Session(run, *(word for key, value in variation.items() for word in (f"--{key}", value)), cwd=folder)
        if session.wait() != 0:
            faults = [session.printed[-1000:]]
        else:
            faults = final_differences(run, uninterrupted(1).save_dir, same_log="log_iters" not in variation)
        outcome.add(loss=f"with {variation or 'the same flags'}: {', '.join(faults)}" if faults else "")
    return outcome


FAULTS = [Fault("another run of the same seed, with other workers", 1, 6, survive)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_runs_of_one_seed_are_bit_identical(fault, tmp_path):
    check(fault, tmp_path)
