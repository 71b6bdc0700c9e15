"""What mattered: the share of the score's variance, over the space and not over what happened to be tried, that each
field makes.

A surrogate is fitted on every trial's score at the first rung (all reach it, whoever is pruned later; a diverged one counts
0) and marginalised over the space's prior: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing
Hyperparameter Importance, ICML 2014. Differs from the paper: variances are taken over draws of the prior, not in closed
form, and the interval is over bootstrap samples of the trials. Beside it an association that needs no surrogate: how
often shuffled scores go with a field as much (Spearman, or eta squared of ranks).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from results.prior import Config, Prior
from results.state import StudyState, Trial
from results.surrogate import Surrogate
from results.tables import show, varied_fields

SHUFFLES, SHUFFLED_AT_ONCE = 999, 111  # as many as are drawn, and as are held in memory together
MIN_TRIALS = 6  # fewer say nothing
CHANCE_TOLD, NOT_TOLD = 0.1, "-"  # a direction that a shuffle shows more often than this is none
BACKGROUNDS, POINTS = 48, 9  # draws of all other fields, values of one


@dataclass(frozen=True)
class Share:
    """What one field makes of the variance of predicted scores over the prior."""

    main: float  # 0..1: by itself
    total: float  # 0..1: with all that it shares with others
    low: float = math.nan  # 95 % of `main` over bootstrap samples of the trials
    high: float = math.nan
    curve: tuple[tuple[Any, float], ...] = ()  # (value, mean predicted score over everything else)


@dataclass(frozen=True)
class Effect:
    """One field at the first rung, and how its share changed at the rungs above."""

    field: str
    share: Share
    chance: float  # how often a random shuffle of the scores goes with the field as much
    direction: str  # which way is better, in words
    n: int
    above: dict[int, tuple[int, float]] = dataclasses.field(
        default_factory=dict
    )  # epochs of a rung -> (n, share) of its survivors


class Importance:
    """All that a study's trials say about its fields."""

    def __init__(self, plan: dict[str, Any], state: StudyState, seed: int = 0) -> None:
        self.state, self.seed = state, seed
        self.prior = Prior.of(plan, state)

    @cached_property
    def surrogate(self) -> Surrogate | None:
        """Fitted on all trials of the search at the first rung; None of too few."""
        return self._fitted(0)

    @cached_property
    def draws(self) -> Draws:
        """Where scores are predicted."""
        return Draws(self.prior, self.seed)

    @property
    def explained(self) -> float:
        """How much of the spread of trials it has not seen the surrogate explains; at or under 0: nothing."""
        return self.surrogate.explained if self.surrogate else math.nan

    @cached_property
    def effects(self) -> list[Effect]:
        """Effects of all varied fields, the largest share first."""
        rows = first_rung(self.state)
        names = [name for name in varied_fields(self.state) if _varies([t.config.get(name) for t, _ in rows])]
        if self.surrogate is None:
            return []
        shares = shares_of(self.surrogate, self.draws)
        above = {rung: self._shares_above(rung) for rung in range(1, len(self.state.levels))}
        found = []
        for number, name in enumerate(names):
            pairs = [(trial.config[name], score) for trial, score in rows if name in trial.config]
            if len(pairs) < MIN_TRIALS or not _varies([value for value, _ in pairs]):
                continue
            values, ranks = [value for value, _ in pairs], _ranks([score for _, score in pairs])
            later = {self.state.levels[rung]: (n, told[name]) for rung, (n, told) in above.items() if name in told}
            chance = _chance(values, ranks, np.random.default_rng([self.seed, number]))
            share = shares.get(name, Share(math.nan, math.nan))
            better = _direction(values, ranks) if chance <= CHANCE_TOLD else NOT_TOLD
            found.append(Effect(name, share, chance, better, len(pairs), later))
        return sorted(found, key=lambda e: (math.isnan(e.share.main), -e.share.main, e.chance))

    def _fitted(self, rung: int) -> Surrogate | None:
        rows = first_rung(self.state) if rung == 0 else _at_rung(self.state, rung)
        if len(rows) < MIN_TRIALS:
            return None
        names = list(dict.fromkeys([*self.prior.fields, *varied_fields(self.state)]))
        return Surrogate([trial.config for trial, _ in rows], [score for _, score in rows], names, self.seed + rung)

    def _shares_above(self, rung: int) -> tuple[int, dict[str, float]]:
        surrogate = self._fitted(rung)
        if surrogate is None:
            return 0, {}
        return surrogate.n, {name: share.main for name, share in shares_of(surrogate, self.draws).items()}


def _at_rung(state: StudyState, rung: int) -> list[tuple[Trial, float]]:
    """Trials of the search that reached a rung, with their scores there."""
    scores = state.arrivals[rung] if len(state.arrivals) > rung else {}
    return [(state.trials[t], s) for t, s in scores.items() if state.trials[t].role == "search" and not math.isnan(s)]


def first_rung(state: StudyState) -> list[tuple[Trial, float]]:
    """Every trial of the search with its score at the first rung; one that diverged before it detects nothing, 0."""
    rows = _at_rung(state, 0)
    there = {trial.id for trial, _ in rows}
    return rows + [(t, 0.0) for t in state.with_role("search") if t.outcome == "diverged" and t.id not in there]


class Draws:
    """Configurations of a prior at which scores are predicted: some anywhere, and for each field some backgrounds, that
    is draws of all others, under each of its values. Worked out once for the surrogates of all rungs."""

    def __init__(self, prior: Prior, seed: int) -> None:
        rng = np.random.default_rng(seed)
        backgrounds = prior.shares(BACKGROUNDS, rng)
        self.configs: list[Config] = []
        self.cells: dict[str, np.ndarray] = {}  # of a field: [points, backgrounds], positions in configs; -1: no config
        self.values: dict[str, list[Any]] = {}  # of a field at its points; None where its range depends on another
        for column, name in enumerate(prior.fields):
            points = prior.points(name, POINTS)
            moved = np.repeat(backgrounds[None], len(points), axis=0)
            moved[:, :, column] = np.array(points)[:, None]
            self.cells[name] = np.array([[self._place(prior, shares) for shares in rows] for rows in moved])
            self.values[name] = [prior.value(name, share) for share in points]
        anywhere = [self._place(prior, shares) for shares in prior.shares(BACKGROUNDS * POINTS, rng)]
        self.anywhere = [position for position in anywhere if position >= 0]

    def _place(self, prior: Prior, shares: np.ndarray) -> int:
        config = prior.config(shares.tolist())
        if config is None:
            return -1
        self.configs.append(config)
        return len(self.configs) - 1


def shares_of(surrogate: Surrogate, draws: Draws) -> dict[str, Share]:
    """Each field's share of the variance of predicted scores over the prior."""
    if not draws.anywhere:
        return {}
    told = surrogate.by_group(draws.configs)  # [groups, configs]
    spread = told[:, draws.anywhere].var(axis=1)
    mean_spread = float(told[:, draws.anywhere].mean(axis=0).var())
    return {
        name: _share(told, cells[:, (cells >= 0).all(axis=0)], spread, mean_spread, draws.values[name])
        for name, cells in draws.cells.items()
    }


def _share(told: np.ndarray, cells: np.ndarray, spread: np.ndarray, mean_spread: float, values: list[Any]) -> Share:
    """A field's share from predictions at its points [points, backgrounds], everything else alike along a column."""
    if not cells.size or mean_spread < 1e-12:
        return Share(0.0, 0.0)
    grid = told[:, cells]  # [groups, points, backgrounds]
    together = grid.mean(axis=0)
    main = together.mean(axis=1).var() / mean_spread
    total = together.var(axis=0).mean() / mean_spread
    by_group = grid.mean(axis=2).var(axis=1) / np.maximum(spread, 1e-12)
    # A group sees fewer trials and fits more of their noise, which shrinks every share: its spread counts, not its place.
    low, high = np.percentile(by_group - by_group.mean(), [2.5, 97.5]) + main
    shown = tuple(zip(values, together.mean(axis=1).tolist(), strict=True)) if None not in values else ()
    return Share(min(1.0, float(main)), min(1.0, float(total)), max(0.0, float(low)), min(1.0, float(high)), shown)


def _varies(values: list[Any]) -> bool:
    return len({repr(value) for value in values}) > 1


def association(values: list[Any], ranks: np.ndarray) -> float:
    """0..1: Spearman's rho squared of numbers, eta squared on ranks of anything else."""
    return float(_explained_by(_basis(values), ranks[None])[0])


def _basis(values: list[Any]) -> np.ndarray:
    """[n, dimensions], orthonormal: the centred ranks of numbers, or the centred memberships of options."""
    if is_numeric(values):
        columns = _ranks([float(value) for value in values])[:, None]
    else:
        keys = [repr(value) for value in values]
        columns = np.array(
            [[key == option for option in list(dict.fromkeys(keys))[1:]] for key in keys], dtype=np.float64
        )
    left, sizes, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9])


def _explained_by(basis: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """[orders]: the share of the variance of each row of ranks [orders, n] that lies in the basis."""
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    return np.asarray(((centred @ basis) ** 2).sum(axis=1) / np.where(total > 0, total, 1.0))


def _chance(values: list[Any], ranks: np.ndarray, rng: np.random.Generator) -> float:
    """How often shuffled scores go with the values as much as the real ones (a permutation test)."""
    basis = _basis(values)
    real, reached = _explained_by(basis, ranks[None])[0], 0
    for _ in range(SHUFFLES // SHUFFLED_AT_ONCE):
        shuffled = rng.permuted(np.tile(ranks, (SHUFFLED_AT_ONCE, 1)), axis=1)
        reached += int((_explained_by(basis, shuffled) >= real - 1e-12).sum())
    return (reached + 1) / (SHUFFLES + 1)


def is_numeric(values: list[Any]) -> bool:
    """Whether values are numbers, switches not among them."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _ranks(values: list[float]) -> np.ndarray:
    """Ranks with ties averaged."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def _direction(values: list[Any], ranks: np.ndarray) -> str:
    if is_numeric(values):
        x = _ranks([float(value) for value in values])
        return "higher is better" if float(np.cov(x, ranks)[0, 1]) > 0 else "lower is better"
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(show(value), []).append(float(rank))
    best = max(groups, key=lambda key: float(np.mean(groups[key])))
    return f"best: {best}"
