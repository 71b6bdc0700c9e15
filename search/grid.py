"""Grid search: every combination of the fields' grids once."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from results.state import StudyState
from spaces.distributions import Distribution, SpaceError, When, concrete
from spaces.space import ResolvedSpace

GRID_POINTS = 3  # values per numeric field


class GridSampler:
    """Every combination of the fields' grids once, in an order that the study seed shuffles."""

    def __init__(self, space: ResolvedSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self._order: list[dict[str, Any]] | None = None

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        if self._order is None:
            self._order = grid(self.space.fields)
            random.Random(self.seed).shuffle(self._order)
        return self._order[number - 1] if number <= len(self._order) else None


def grid_size(fields: Mapping[str, Distribution | When]) -> int:
    """An upper bound of the combinations in a grid (conditional fields counted as if always on)."""
    size = 1
    for entry in fields.values():
        options = list(entry.cases.values()) if isinstance(entry, When) else [entry]
        size *= max(len(option.grid(GRID_POINTS)) for option in options)
    return size


def grid(fields: Mapping[str, Distribution | When]) -> list[dict[str, Any]]:
    """All combinations; a field whose condition fails takes no value.

    Raises: SpaceError where there are more than a million.
    """
    if grid_size(fields) > 1_000_000:
        raise SpaceError(
            f"--sampler grid would have {grid_size(fields):,} combinations; search fewer fields (--set field=value fixes one)"
        )
    combinations: list[dict[str, Any]] = [{}]
    for name, entry in sorted(fields.items(), key=lambda item: isinstance(item[1], When)):
        grown = []
        for values in combinations:
            _, found = concrete(name, entry, values)
            points = found.grid(GRID_POINTS) if found is not None else []
            grown += [{**values, name: point} for point in points] or [values]
        combinations = grown
    return combinations
