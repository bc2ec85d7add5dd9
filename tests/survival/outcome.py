"""What a survival test tries, and what became of it."""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List

SEED_VARIABLE = "SURVIVAL_SEED"


def seed() -> int:
    """The number from which every random choice follows: 0 in the tests, that of `soak.py --seed` in the soak."""
    return int(os.environ.get(SEED_VARIABLE, 0))


def choices(name: str) -> random.Random:
    """Random choices that follow from the seed and from a name of their own, whatever else is drawn."""
    return random.Random(f"{seed()} {name}")


@dataclass
class Outcome:
    """Of one fault: how often it was tried, how often survived, and a line for each loss.

    Attributes:
        lost: what was lost and how to repeat it.
        kinds: how many tries were of which kind, where a fault has kinds: "saving", "training".
    """

    tried: int = 0
    survived: int = 0
    lost: List[str] = field(default_factory=list)
    kinds: Counter = field(default_factory=Counter)

    def add(self, loss: str = "", kind: str = "") -> None:
        """Count one try; `loss` says what was lost and how to repeat it, and is empty if nothing was."""
        self.tried += 1
        if kind:
            self.kinds[kind] += 1
        if loss:
            self.lost.append(loss)
        else:
            self.survived += 1


@dataclass
class Fault:
    """A row of the table: `small` tries in the tests, `full` ones in the soak.

    Attributes:
        name: a short phrase for the table.
        survive: makes so many tries in an empty folder; calls pytest.skip with the reason where it can't be tried.
    """

    name: str
    small: int
    full: int
    survive: Callable[[int, Path], Outcome]
