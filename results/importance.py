"""What varied and mattered: how much of the first rung's spread of scores each field goes with.

All trials reach the first rung, whoever is pruned later, so its scores are an unbiased sample of what was proposed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.state import StudyState
from results.tables import varied_fields

SHUFFLES, RESAMPLES = 999, 400
MIN_TRIALS = 6  # fewer say nothing


@dataclass(frozen=True)
class Effect:
    """One field's association with the score at the first rung."""

    field: str
    share: float  # 0..1: Spearman's rho squared (numbers) or eta squared on ranks (choices)
    chance: float  # how often a random shuffle of the scores reaches this share
    direction: str  # which way is better, in words
    n: int
    low: float = math.nan  # 95 % of the share over resampled trials (percentile bootstrap)
    high: float = math.nan


def effects(state: StudyState, seed: int = 0) -> list[Effect]:
    """Effects of all varied fields, least likely by chance first; a permutation test tells chance from effect."""
    rng = random.Random(seed)
    scores = (
        {trial: score for trial, score in state.arrivals[0].items() if not math.isnan(score)} if state.arrivals else {}
    )
    found = []
    for field in varied_fields(state):
        pairs = [
            (state.trials[trial].config[field], score)
            for trial, score in scores.items()
            if field in state.trials[trial].config
        ]
        if len(pairs) < MIN_TRIALS or len({repr(value) for value, _ in pairs}) < 2:
            continue
        values, ranks = [value for value, _ in pairs], _ranks([score for _, score in pairs])
        share = _share(values, ranks)
        shuffled = ranks.copy()
        reached = 0
        for _ in range(SHUFFLES):
            rng.shuffle(shuffled)  # type: ignore[arg-type]
            reached += _share(values, shuffled) >= share - 1e-12
        low, high = _spread(values, ranks, random.Random(f"{seed}/{field}"))
        chance = (reached + 1) / (SHUFFLES + 1)
        found.append(Effect(field, share, chance, _direction(values, ranks), len(pairs), low, high))
    return sorted(found, key=lambda effect: (effect.chance, -effect.share))


def _spread(values: list[Any], ranks: np.ndarray, rng: random.Random) -> tuple[float, float]:
    """The 95 % interval of a share over trials drawn with replacement; draws in which nothing varies do not count."""
    shares = []
    for _ in range(RESAMPLES):
        drawn = [rng.randrange(len(values)) for _ in values]
        some = [values[n] for n in drawn]
        if len({repr(value) for value in some}) > 1:
            shares.append(_share(some, _ranks([float(ranks[n]) for n in drawn])))
    if len(shares) < RESAMPLES // 2:
        return math.nan, math.nan
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def _is_numeric(values: list[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _ranks(values: list[float]) -> np.ndarray:
    """Ranks with ties averaged."""
    array = np.asarray(values, dtype=np.float64)
    order = array.argsort(kind="stable")
    ranks = np.empty(len(array))
    ranks[order] = np.arange(len(array))
    for value in np.unique(array):
        ranks[array == value] = ranks[array == value].mean()
    return ranks


def _share(values: list[Any], ranks: np.ndarray) -> float:
    if _is_numeric(values):
        x = _ranks([float(value) for value in values])
        if x.std() == 0 or ranks.std() == 0:
            return 0.0
        return float(np.corrcoef(x, ranks)[0, 1] ** 2)
    total = ((ranks - ranks.mean()) ** 2).sum()
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(repr(value), []).append(float(rank))
    between = sum(len(g) * (np.mean(g) - ranks.mean()) ** 2 for g in groups.values())
    return float(between / total) if total else 0.0


def _direction(values: list[Any], ranks: np.ndarray) -> str:
    if _is_numeric(values):
        x = _ranks([float(value) for value in values])
        return "higher is better" if float(np.cov(x, ranks)[0, 1]) > 0 else "lower is better"
    groups: dict[str, list[float]] = {}
    for value, rank in zip(values, ranks, strict=True):
        groups.setdefault(str(value), []).append(float(rank))
    best = max(groups, key=lambda key: float(np.mean(groups[key])))
    return f"best: {best}"
