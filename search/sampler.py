"""Who proposes: samplers by name. Each is pure in (study seed, number of the proposal, what the journal tells)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from results.state import StudyState
from search.engine import Sampler
from search.grid import GridSampler
from search.optuna_samplers import OPTUNA_SAMPLERS, OptunaSampler, proposal_seed, why_unfit
from spaces.distributions import SpaceError, draw, labels
from spaces.space import ResolvedSpace

SAMPLERS = ("tpe", "random", "grid", "qmc", *(name for name in OPTUNA_SAMPLERS if name != "tpe"))


def make_sampler(
    name: str, space: ResolvedSpace, seed: int, objectives: Sequence[str], scheduler: str = "none"
) -> Sampler:
    """A sampler by name.

    Raises: SpaceError for one that cannot be used, with the reason.
    """
    if name == "grid":
        return GridSampler(space, seed)
    if name == "random":
        return RandomSampler(space, seed)
    if name == "qmc":
        return QuasiRandomSampler(space, seed)
    reason = why_unfit(name, scheduler)
    if reason:
        raise SpaceError(
            f"--sampler {name} cannot be used: {reason}. Take tpe, or --scheduler none where that is the reason"
        )
    return OptunaSampler(name, space, seed, objectives)


class RandomSampler:
    """Independent draws from the space's distributions."""

    def __init__(self, space: ResolvedSpace, seed: int) -> None:
        self.space, self.seed = space, seed

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        rng = random.Random(proposal_seed(self.seed, number))
        return draw(self.space.fields, lambda label, entry: entry.at(rng.random()))


class QuasiRandomSampler:
    """Points of a scrambled Sobol sequence (Owen 1998): they fill the space more evenly than independent draws."""

    def __init__(self, space: ResolvedSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.columns = {label: n for n, label in enumerate(labels(space.fields))}

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        from scipy.stats.qmc import Sobol

        sequence = Sobol(max(1, len(self.columns)), scramble=True, rng=self.seed)
        point = sequence.fast_forward(number - 1).random(1)[0] if number > 1 else sequence.random(1)[0]
        return draw(self.space.fields, lambda label, entry: entry.at(float(point[self.columns[label]])))
