"""Which trial goes on: rungs and the three schedulers, as pure functions of the scores seen so far.

A rung is a budget in epochs; `asha` is promotion ASHA (Li et al. 2020, algorithm 2), `asha_stop` its stopping variant
(as Ray's AsyncHyperBandScheduler decides), `none` trains everything to the top. Scores: higher is better, NaN is worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

SCHEDULERS = ("asha", "asha_stop", "none")


def rung_levels(grace: int, top: int, eta: int) -> list[int]:
    """The rungs r, r*eta, r*eta^2, .. in epochs; the last is always `top`.

    Integer arithmetic throughout: a logarithm would lose the last rung of 1, 3, .. 243.

    Raises: ValueError for a budget that makes no ladder.
    """
    if eta < 2:
        raise ValueError(f"--eta must be at least 2 (1 in eta trials is promoted), got {eta}")
    if not 1 <= grace <= top:
        raise ValueError(f"--grace must lie in 1..--epochs, got --grace {grace} --epochs {top}")
    levels = []
    level = grace
    while level < top:
        levels.append(level)
        level *= eta
    return [*levels, top]


@dataclass
class Rung:
    """Who reached a rung, in order of arrival, and who was promoted past it."""

    scores: dict[str, float] = field(default_factory=dict)
    promoted: set[str] = field(default_factory=set)


class Scheduler(Protocol):
    """Decides from rungs alone; holds no state of its own."""

    levels: list[int]

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        """(trial, index of the rung that it leaves) of the best promotion there is, or None."""

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        """Why a trial that stays at a rung was not promoted, in words."""


def rank_key(score: float) -> float:
    """A score to sort by: NaN counts as worst."""
    return -math.inf if math.isnan(score) else score


class PromotionAsha:
    """Promotes the best of the top 1/eta of a rung, highest rung first (algorithm 2's get_job)."""

    def __init__(self, levels: list[int], eta: int) -> None:
        self.levels, self.eta = levels, eta

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        for index in range(len(self.levels) - 2, -1, -1):
            for trial in self.candidates(rungs[index]):
                if trial not in rungs[index].promoted:
                    return trial, index
        return None

    def candidates(self, rung: Rung) -> list[str]:
        """The top floor(n / eta) of a rung, best first; ties go to whoever came first; NaN never."""
        ranked = sorted(rung.scores, key=lambda trial: -rank_key(rung.scores[trial]))
        return [trial for trial in ranked[: len(ranked) // self.eta] if not math.isnan(rung.scores[trial])]

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        ranked = sorted(rungs[rung].scores, key=lambda other: -rank_key(rungs[rung].scores[other]))
        places = len(ranked) // self.eta
        if trial in self.candidates(rungs[rung]):
            return f"{_ordinal(ranked.index(trial) + 1)} of {len(ranked)} at {self.levels[rung]} epochs: due to go on when the study ended"
        return (
            f"{_ordinal(ranked.index(trial) + 1)} of {len(ranked)} at {self.levels[rung]} epochs, "
            f"where the top {places} went on"
        )


class StoppingAsha:
    """Goes on at once if the score is in the top 1/eta of those that reached the rung before or with it.

    Same decisions as ray.tune's AsyncHyperBandScheduler: the cut-off is the (1 - 1/eta) percentile of the scores
    recorded *before* this one, and nobody is stopped at a rung that nobody reached before.
    """

    def __init__(self, levels: list[int], eta: int) -> None:
        self.levels, self.eta = levels, eta

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        for index in range(len(self.levels) - 2, -1, -1):
            rung = rungs[index]
            for position, trial in enumerate(rung.scores):
                if trial not in rung.promoted and self.goes_on(list(rung.scores.values())[: position + 1]):
                    return trial, index
        return None

    def goes_on(self, scores: Sequence[float]) -> bool:
        """Whether the last of these scores, in order of arrival, is good enough."""
        cutoff = self.cutoff(scores[:-1])
        return not math.isnan(scores[-1]) and (cutoff is None or scores[-1] >= cutoff)

    def cutoff(self, earlier: Sequence[float]) -> float | None:
        """The score that had to be reached; None at the first arrival."""
        counted = [score for score in earlier if not math.isnan(score)]
        return float(np.percentile(counted, (1 - 1 / self.eta) * 100)) if counted else None

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        scores = rungs[rung].scores
        earlier = list(scores.values())[: list(scores).index(trial)]
        cutoff = self.cutoff(earlier)
        wanted = "-" if cutoff is None else f"{cutoff:.3f}"
        return (
            f"{scores[trial]:.3f} at {self.levels[rung]} epochs, below the cut-off {wanted} of {len(earlier)} before it"
        )


class NoPruning:
    """One rung, the top: nothing is left to promote."""

    def __init__(self, levels: list[int]) -> None:
        self.levels = levels[-1:]

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        return None

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        return "nothing is pruned"


def make_scheduler(name: str, grace: int, top: int, eta: int) -> Scheduler:
    """A scheduler by name: asha, asha_stop or none.

    Raises: ValueError for a budget that makes no ladder.
    """
    levels = rung_levels(grace, top, eta)
    if name == "none":
        return NoPruning(levels)
    return PromotionAsha(levels, eta) if name == "asha" else StoppingAsha(levels, eta)


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
