"""The first proposals of a study: a screening design around the base, which shows what each field does on its own."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from spaces.distributions import Distribution, as_tuple, labels
from spaces.space import ResolvedSpace

STARTUP_TRIALS = 8  # proposals before TPE has something to learn from
CANDIDATES = 60  # random columns to choose each column of the design from


def screening(study_seed: int, space: ResolvedSpace, position: int) -> Callable[[str, Distribution], Any]:
    """Draws the values of proposal `position` of a screening design of STARTUP_TRIALS around the base.

    Every field keeps the base's value in half of the proposals; in the others it is drawn from a Latin hypercube
    (McKay et al. 1979): its range is cut into as many strata, each used once. Which half is the field's own. A base is
    better than most of its space; with twenty fields drawn at once, eight trials would show little but that.
    """
    orders = design_orders(study_seed, tuple(labels(space.fields)))
    base = space.base.to_dict()
    strata = STARTUP_TRIALS // 2

    def value(label: str, entry: Distribution) -> Any:
        kept = as_tuple(base[label.partition(" | ")[0]])
        stratum = orders[label][position] - strata
        if stratum < 0:
            if entry.contains(kept):
                return kept
            stratum += strata  # what the base does not have (the other optimizer's lr) has nothing to keep
        return entry.at((stratum + random.Random(f"{study_seed}/{label}/{position}").random()) / strata)

    return value


@functools.cache
def design_orders(study_seed: int, names: tuple[str, ...]) -> dict[str, list[int]]:
    """The order of strata of every label, each chosen among CANDIDATES to go together least with those before it.

    With eight proposals two independent columns often coincide (every trial of one optimizer with one loss), and then
    nothing can be learned about either.
    """
    rng = random.Random(f"{study_seed}/design")
    orders: dict[str, list[int]] = {}
    for name in names:
        candidates = [rng.sample(range(STARTUP_TRIALS), STARTUP_TRIALS) for _ in range(CANDIDATES)]
        orders[name] = min(
            candidates, key=lambda order: sum(_agreement(order, other) ** 4 for other in orders.values())
        )
    return orders


def _agreement(a: list[int], b: list[int]) -> int:
    """How far the upper halves of two columns coincide (or exclude each other): 0 .. STARTUP_TRIALS."""
    middle = STARTUP_TRIALS // 2
    return abs(sum(1 if (x >= middle) == (y >= middle) else -1 for x, y in zip(a, b, strict=True)))
