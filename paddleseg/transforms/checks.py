"""Checks of constructor arguments: each returns the value in its working form or raises ConfigError."""

import math
from numbers import Integral, Real
from typing import Optional, Sequence, Tuple

from paddleseg.cvlibs.errors import ConfigError


def _is_number(value, kind=Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def size(owner: str, name: str, value: Sequence[int], order: str = "(width, height)") -> Tuple[int, int]:
    """Two positive integers, in the order they were given."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(
            _is_number(side, Integral) and side > 0 for side in value):
        raise ConfigError(f"{owner}: {name} must be two positive integers {order}; got {value!r}")
    return int(value[0]), int(value[1])


def number(owner: str, name: str, value: float, low: float = 0.0, high: Optional[float] = None) -> float:
    """A number from low to high, both allowed."""
    if not _is_number(value) or value < low or (high is not None and value > high):
        allowed = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ConfigError(f"{owner}: {name} must be a number {allowed}; got {value!r}")
    return value


def positive(owner: str, name: str, value: float) -> float:
    """A number above 0."""
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"{owner}: {name} must be a number above 0; got {value!r}")
    return value


def integer(owner: str, name: str, value: int, low: int, high: Optional[int] = None) -> int:
    """An integer from low to high, both allowed."""
    if not _is_number(value, Integral) or value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{owner}: {name} must be an integer {allowed}; got {value!r}")
    return int(value)


def ordered(owner: str, name: str, value: Sequence[float]) -> Tuple[float, float]:
    """Two numbers (low, high) with 0 <= low <= high."""
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
    if not pair or not 0 <= value[0] <= value[1]:
        raise ConfigError(f"{owner}: {name} must be two numbers (low, high), 0 <= low <= high; got {value!r}")
    return float(value[0]), float(value[1])


def one_of(owner: str, name: str, value: str, choices: Sequence[str]) -> str:
    """One of the names in choices."""
    if value not in choices:
        raise ConfigError(f"{owner}: {name} must be one of {', '.join(choices)}; got {value!r}")
    return value


def channels(owner: str, name: str, value: Sequence[float], low: float, high: float) -> Tuple[float, ...]:
    """One number, or one per channel, each from low to high."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    if len(values) not in (1, 3) or not all(_is_number(each) and low <= each <= high for each in values):
        raise ConfigError(f"{owner}: {name} must be one number or three (R, G, B) from {low:g} to {high:g}; "
                          f"got {value!r}")
    return tuple(float(each) for each in values)
