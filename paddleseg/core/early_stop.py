"""Ending a run that doesn't get better any more."""

from dataclasses import dataclass
from typing import Optional

from paddleseg.cvlibs.errors import ConfigError


@dataclass
class EarlyStop:
    """Counts the evaluations in a row that found no better model.

    Attributes:
        intervals: after so many of them the run ends; None never ends it.
        without_gain: how many there are.
    """

    intervals: Optional[int] = None
    without_gain: int = 0

    def see(self, better: bool) -> None:
        """Count an evaluation; `better` is whether it found the best model of the run so far."""
        self.without_gain = 0 if better else self.without_gain + 1

    @property
    def is_due(self) -> bool:
        return self.intervals is not None and self.without_gain >= self.intervals


def check_early_stop(intervals: Optional[int], do_eval: bool) -> None:
    """Raises ConfigError where evaluations are to be counted and there are none."""
    if intervals is not None and not do_eval:
        raise ConfigError(f"early_stop_intervals {intervals} counts evaluations, and there are none; add --do_eval "
                          f"(do_eval: True)")
