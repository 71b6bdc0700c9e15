"""A space's prior as a study keeps it: what might have been proposed, each part of it as likely as the space says.

Read from the plain values of study.json; constraints across fields are not applied, and what breaks a rule of
DetectorConfig is no configuration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.config import ConfigError, DetectorConfig, active_fields
from results.state import StudyState

Config = dict[str, Any]  # the consumed fields of a configuration


@dataclass(frozen=True)
class Prior:
    """A base and the entries of the fields that vary around it, as study.json holds them."""

    base: DetectorConfig
    fields: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, plan: dict[str, Any], state: StudyState) -> Prior:
        """The space of a study, as its last session had it (--space-edit)."""
        fields = state.session.get("fields", plan["space"]["fields"])
        return cls(DetectorConfig.from_record(plan["space"]["base"]), fields)

    def shares(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """[draws, fields]: where on its way from low to high each field stands, 0..1, all as likely."""
        return rng.random((draws, len(self.fields)))

    def config(self, shares: Sequence[float]) -> Config | None:
        """The consumed fields at one row of shares; None where they break a rule across fields."""
        at = dict(zip(self.fields, shares, strict=True))
        values: dict[str, Any] = {}
        for name, entry in sorted(self.fields.items(), key=lambda item: item[1]["kind"] == "when"):
            found = _case(entry, values.get(entry["field"])) if entry["kind"] == "when" else entry
            if found is not None:
                values[name] = value_at(found, at[name])
        return self.consumed(values)

    def consumed(self, values: Mapping[str, Any]) -> Config | None:
        """The base with some values, as far as its parts read them; None where they break a rule across fields."""
        try:
            config = self.base.with_values(values)
        except ConfigError:
            return None
        return {name: getattr(config, name) for name in active_fields(config)}

    def points(self, name: str, most: int) -> list[float]:
        """Shares that stand for all of a field's values, evenly: the middle of each option, or `most` of a range."""
        entry = self.fields[name]
        options = (
            max(map(_options, (case for _, case in entry["cases"]))) if entry["kind"] == "when" else _options(entry)
        )
        count = min(most, options) if options else most
        return [(n + 0.5) / count for n in range(count)]

    def depends_on(self, name: str) -> str:
        """The field whose value decides a field's range; the field itself where nothing does."""
        entry = self.fields.get(name, {})
        return str(entry["field"]) if entry.get("kind") == "when" else name

    def value(self, name: str, share: float) -> Any:
        """A field's value at a share; None for a field whose range depends on another."""
        entry = self.fields[name]
        return None if entry["kind"] == "when" else value_at(entry, share)


def _case(entry: Mapping[str, Any], value: Any) -> Mapping[str, Any] | None:
    return next((option for case, option in entry["cases"] if same(case, value)), None)


def _options(entry: Mapping[str, Any]) -> int:
    """How many values an entry has; 0 for a range of real numbers."""
    if entry["kind"] == "choice":
        return len(entry["options"])
    return entry["high"] - entry["low"] + 1 if entry["kind"] == "integer" else 0


def value_at(entry: Mapping[str, Any], share: float) -> Any:
    """The value of a choice, integer or float at a share 0..1 of the way, as spaces/distributions.py has it."""
    if entry["kind"] == "choice":
        return entry["options"][min(len(entry["options"]) - 1, int(share * len(entry["options"])))]
    low, high = entry["low"], entry["high"]
    if entry["kind"] == "integer":
        return min(high, low + int(share * (high - low + 1)))
    if entry["log"]:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    value = low + share * (high - low)
    return low + round((value - low) / entry["step"]) * entry["step"] if entry.get("step") else value


def same(one: Any, other: Any) -> bool:
    """Whether two values are one and the same, a tuple and the list that JSON makes of it too."""
    return key_of(one) == key_of(other)


def key_of(value: Any) -> str:
    """A value as a text that compares."""
    return json.dumps(value)
