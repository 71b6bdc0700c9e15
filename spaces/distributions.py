"""What a searched field may be: the distributions of a space, as plain values that samplers translate.

Stepping stone between a person who writes a space and a sampler that draws from it; no torch, no ray, no optuna.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class SpaceError(ValueError):
    """A space that breaks a rule; the message gives rule, value, place and remedy."""


@dataclass(frozen=True)
class Float:
    """A number in [low, high]: uniform, log-uniform, or quantised to low, low + step, .."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log)
        if self.step is not None and (self.log or not 0 < self.step < math.inf):
            raise SpaceError(f"a step must be positive, and of a range that is not log, got {self.step}")

    def contains(self, value: Any) -> bool:
        if not isinstance(value, (int, float)) or not self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9):
            return False
        return self.step is None or abs(self.quantised(value) - value) <= 1e-9 * max(1.0, abs(value))

    def quantised(self, value: float) -> float:
        """The nearest of low, low + step, .. that does not exceed high."""
        if self.step is None:
            return value
        steps = min(round((value - self.low) / self.step), math.floor((self.high - self.low) / self.step + 1e-9))
        return round(self.low + steps * self.step, 12)

    def grid(self, points: int) -> list[Any]:
        """`points` values from low to high, evenly spaced (in logarithms where log)."""
        if points == 1 or self.low == self.high:
            return [self.at(0.5)]
        return list(dict.fromkeys(self.at(n / (points - 1)) for n in range(points)))

    def at(self, share: float) -> float:
        """The value at a share 0..1 of the way from low to high."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.quantised(self.low + share * (self.high - self.low))
        return min(self.high, max(self.low, value))  # rounding must not leave the range

    def share(self, value: float) -> float:
        """The inverse of `at`, 0..1; what lies outside counts as the nearer end."""
        if self.low == self.high:
            return 0.5
        value = min(self.high, max(self.low, value))
        low, high, value = (math.log(n) if self.log else n for n in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def describe(self) -> str:
        how = " (log)" if self.log else f" in steps of {self.step:.4g}" if self.step else ""
        return f"{self.low:.4g} .. {self.high:.4g}{how}"


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, False)

    def contains(self, value: Any) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    def grid(self, points: int) -> list[Any]:
        """Every value, or `points` of them spread evenly."""
        count = self.high - self.low + 1
        if count <= points:
            return list(range(self.low, self.high + 1))
        return sorted({round(self.low + n * (count - 1) / max(1, points - 1)) for n in range(points)})

    def at(self, share: float) -> int:
        """The value at a share 0..1 of the way, each as likely."""
        return min(self.high, self.low + int(share * (self.high - self.low + 1)))

    def share(self, value: float) -> float:
        """The middle of a value's part of 0..1; what lies outside counts as the nearer end."""
        return min(1.0, max(0.0, (value - self.low + 0.5) / (self.high - self.low + 1)))

    def describe(self) -> str:
        return f"{self.low} .. {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of a few values of any kind."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        if not options:
            raise SpaceError("Choice must have at least one option, got none")
        object.__setattr__(self, "options", tuple(options))

    def contains(self, value: Any) -> bool:
        return value in self.options

    def grid(self, points: int) -> list[Any]:
        """All options: a choice has no order to thin out."""
        return list(self.options)

    def at(self, share: float) -> Any:
        """The option at a share 0..1 of the way, each as likely."""
        return self.options[min(len(self.options) - 1, int(share * len(self.options)))]

    def share(self, value: Any) -> float:
        """The middle of an option's part of 0..1."""
        return (self.options.index(value) + 0.5) / len(self.options)

    def describe(self) -> str:
        return " | ".join(str(option) for option in self.options)


@dataclass(frozen=True)
class Fitted:
    """A factor in [low, high] (log) on a number that is fitted to the training boxes (see spaces/fitting.py)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, True)

    def around(self, fitted: float) -> Float:
        """The distribution once the number is known."""
        return Float(self.low * fitted, self.high * fitted, log=True)


@dataclass(frozen=True)
class AtHand:
    """A choice among the trunks whose ImageNet weights this machine has without a network; not searched below two of them."""

    trunks: tuple[str, ...]


@dataclass(frozen=True)
class When:
    """A field that is drawn from a distribution which another field's value picks; no case, no draw."""

    field: str
    cases: Mapping[Any, Float | Integer | Choice]


Distribution = Float | Integer | Choice
SpaceEntry = Distribution | Fitted | AtHand | When


def concrete(name: str, entry: Distribution | When, values: Mapping[str, Any]) -> tuple[str, Distribution | None]:
    """(a sampler's label, the distribution) of a field under the values of the fields that it depends on."""
    if not isinstance(entry, When):
        return name, entry
    case = values.get(entry.field)
    return f"{name} | {entry.field}={case}", entry.cases.get(case)


def labels(fields: Mapping[str, Distribution | When]) -> list[str]:
    """The sampler's label of every field, one per case where it is conditional."""
    found = []
    for name, entry in fields.items():
        found += [f"{name} | {entry.field}={case}" for case in entry.cases] if isinstance(entry, When) else [name]
    return found


def draw(fields: Mapping[str, Distribution | When], value_of: Callable[[str, Distribution], Any]) -> dict[str, Any]:
    """Values for all fields whose condition holds; conditions are drawn before what depends on them."""
    values: dict[str, Any] = {}
    for name, entry in sorted(fields.items(), key=lambda item: isinstance(item[1], When)):
        label, found = concrete(name, entry, values)
        if found is not None:
            values[name] = value_of(label, found)
    return values


def _check_range(low: float, high: float, log: bool) -> None:
    if not low <= high:
        raise SpaceError(f"a range must have low <= high, got {low} .. {high}")
    if log and low <= 0:
        raise SpaceError(f"a log range must be positive, got {low} .. {high}")


def entry_to_dict(entry: Distribution | When) -> dict[str, Any]:
    """An entry as plain JSON values, for study.json."""
    if isinstance(entry, When):
        cases = [[case, entry_to_dict(option)] for case, option in entry.cases.items()]
        return {"kind": "when", "field": entry.field, "cases": cases}
    if isinstance(entry, Choice):
        return {"kind": "choice", "options": list(entry.options)}
    if isinstance(entry, Integer):
        return {"kind": "integer", "low": entry.low, "high": entry.high}
    return {"kind": "float", "low": entry.low, "high": entry.high, "log": entry.log, "step": entry.step}


def entry_from_dict(plain: Mapping[str, Any]) -> Distribution | When:
    """The inverse of `entry_to_dict`; JSON's lists become tuples again."""
    match plain["kind"]:
        case "when":
            cases = {as_tuple(case): entry_from_dict(option) for case, option in plain["cases"]}
            return When(plain["field"], cases)  # type: ignore[arg-type]
        case "choice":
            return Choice(*(as_tuple(option) for option in plain["options"]))
        case "integer":
            return Integer(plain["low"], plain["high"])
        case _:
            return Float(plain["low"], plain["high"], plain["log"], plain.get("step"))


def as_tuple(value: Any) -> Any:
    """Lists, at any depth, as tuples: a config's values are hashable."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, (list, tuple)) else value
