"""Faults that survival tests try, and the outcome of a trial.

`make soak` sets SOAK, the share of the full number of tries. Runs start from the files of this repository again and
again: leave them as they are until its end.
"""

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List

SOAK = float(os.environ.get("SOAK", 0))
SEED = os.environ.get("SURVIVAL_SEED") or str(random.SystemRandom().randrange(1_000_000) if SOAK else 0)


def choices(name: str) -> random.Random:
    """Random choices that follow from a name and from the seed."""
    return random.Random(f"{SEED} {name}")


@dataclass
class Outcome:
    """Number of tries of a fault, and their losses.

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
    """Try a fault, print a line on it, and fail if anything was lost."""
    count, started = max(1, round(fault.full * SOAK)) if SOAK else fault.small, time.perf_counter()
    outcome = fault.survive(count, folder)
    kinds = "".join(f", {kind} {times}" for kind, times in outcome.kinds.most_common())
    lost = len(outcome.lost)
    print(f"\n{fault.name}: {outcome.tried} tried, {outcome.tried - lost} survived, {lost} lost "
          f"({(time.perf_counter() - started) / 60:.1f} minutes, SURVIVAL_SEED={SEED}{kinds})")
    assert not outcome.lost, "\n".join(outcome.lost)
    assert outcome.tried >= count
