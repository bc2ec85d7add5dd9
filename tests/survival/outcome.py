"""Faults that survival tests try, and the outcome of a trial."""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List

SEED_VARIABLE = "SURVIVAL_SEED"


def choices(name: str) -> random.Random:
    """Random choices that follow from a name and from the seed: 0 in the tests, chosen by `soak.py --seed`."""
    return random.Random(f"{os.environ.get(SEED_VARIABLE, 0)} {name}")


@dataclass
class Outcome:
    """How often a fault was tried, and what was lost.

    Attributes:
        lost: a line for each loss, with how to repeat it.
        kinds: the number of tries of each kind, where a fault has kinds: "saving", "training".
    """

    tried: int = 0
    lost: List[str] = field(default_factory=list)
    kinds: Counter = field(default_factory=Counter)

    def add(self, kind: str = "", loss: str = "") -> None:
        self.tried += 1
        self.kinds[kind] += bool(kind)
        self.lost += [loss] if loss else []


@dataclass
class Fault:
    """A row of the soak's table.

    Attributes:
        name: a short phrase.
        small, full: the number of tries in the tests and in the soak.
        survive: tries the fault in an empty folder; calls pytest.skip where it can't be tried.
    """

    name: str
    small: int
    full: int
    survive: Callable[[int, Path], Outcome]


def check(fault: Fault, folder: Path) -> None:
    """Try a fault as often as the tests do."""
    outcome = fault.survive(fault.small, folder)
    assert not outcome.lost, "\n".join(outcome.lost)
    assert outcome.tried >= fault.small
