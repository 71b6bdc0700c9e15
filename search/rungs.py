"""Which trial goes on: rungs and the three schedulers, as pure functions of the scores seen so far.

A rung is a budget in epochs; `asha` is promotion ASHA (Li et al. 2020, algorithm 2), `asha_stop` its stopping variant
(as Ray's AsyncHyperBandScheduler decides), `none` trains everything to the top. Scores: higher is better, NaN is worst.
A decision costs binary searches, never a sort: it takes as long after ten thousand trials as after a thousand.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

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


class Rung:
    """Who reached a rung, in order of arrival, and who was promoted past it."""

    def __init__(self, scores: Mapping[str, float] | None = None, promoted: Iterable[str] = ()) -> None:
        self.scores: dict[str, float] = {}  # in order of arrival
        self.promoted: set[str] = set()
        self.arrived: list[str] = []
        self._keys: dict[str, tuple[float, int]] = {}  # (minus the score, number of arrival): sorts best first
        self._ranked: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int]] = []  # of those not promoted; NaN never goes on and is not here
        self.verdicts = Verdicts()
        for trial, score in (scores or {}).items():
            self.arrive(trial, score)
        for trial in promoted:
            self.promote(trial)

    def __len__(self) -> int:
        return len(self.arrived)

    def arrive(self, trial: str, score: float) -> None:
        """Takes in a trial's score; each trial arrives once."""
        assert trial not in self.scores, trial
        key = (-rank_key(score), len(self.arrived))
        self.scores[trial], self._keys[trial] = score, key
        self.arrived.append(trial)
        insort(self._ranked, key)
        if not math.isnan(score):
            insort(self._waiting, key)

    def promote(self, trial: str) -> None:
        """Marks a trial as gone on."""
        self.promoted.add(trial)
        key = self._keys.get(trial)
        if key is not None and not math.isnan(self.scores[trial]):
            del self._waiting[bisect_left(self._waiting, key)]
        self.verdicts.going_on.pop(trial, None)

    def place(self, trial: str) -> int:
        """A trial's place among all that arrived, from 0; of equals whoever came first is ahead."""
        return bisect_left(self._ranked, self._keys[trial])

    def best_waiting(self) -> str | None:
        """The best of those that were not promoted, NaN never."""
        return self.arrived[self._waiting[0][1]] if self._waiting else None


class Verdicts:
    """What a stopping scheduler said of a rung's arrivals, each at the moment when it came."""

    def __init__(self) -> None:
        self.cutoffs: list[float | None] = []  # by number of arrival; None where nobody came before
        self.earlier: list[float] = []  # the scores of those judged, sorted, without NaN
        self.going_on: dict[str, None] = {}  # passed and not promoted yet, in order of arrival


class Scheduler(Protocol):
    """Decides from rungs alone."""

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
            best = rungs[index].best_waiting()
            if best is not None and self.is_promotable(rungs[index], best):
                return best, index
        return None

    def is_promotable(self, rung: Rung, trial: str) -> bool:
        """Whether a trial is among the top floor(n / eta) of a rung; ties go to whoever came first; NaN never."""
        return rung.place(trial) < len(rung) // self.eta and not math.isnan(rung.scores[trial])

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        at = rungs[rung]
        place = f"{_ordinal(at.place(trial) + 1)} of {len(at)} at the rung of {self.levels[rung]}"
        if self.is_promotable(at, trial):
            return f"{place}: due to go on when the study ended"
        return f"{place}, where the top {len(at) // self.eta} went on"


class StoppingAsha:
    """Goes on at once if the score is in the top 1/eta of those that reached the rung before or with it.

    Same decisions as ray.tune's AsyncHyperBandScheduler: the cut-off is the (1 - 1/eta) percentile of the scores
    recorded *before* this one, and nobody is stopped at a rung that nobody reached before.
    """

    def __init__(self, levels: list[int], eta: int) -> None:
        self.levels, self.eta = levels, eta

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        for index in range(len(self.levels) - 2, -1, -1):
            self._judge_arrivals(rungs[index])
            for trial in rungs[index].verdicts.going_on:
                return trial, index
        return None

    def is_going_on(self, rung: Rung, trial: str) -> bool:
        """Whether a trial passed when it came and only waits for a slot."""
        self._judge_arrivals(rung)
        return trial in rung.verdicts.going_on

    def _judge_arrivals(self, rung: Rung) -> None:
        """Gives everyone who came since the last look the verdict of the moment when they came."""
        verdicts = rung.verdicts
        for trial in rung.arrived[len(verdicts.cutoffs) :]:
            score, cutoff = rung.scores[trial], self.cutoff(verdicts.earlier)
            verdicts.cutoffs.append(cutoff)
            if math.isnan(score):
                continue
            insort(verdicts.earlier, score)
            if (cutoff is None or score >= cutoff) and trial not in rung.promoted:
                verdicts.going_on[trial] = None

    def cutoff(self, earlier: Sequence[float]) -> float | None:
        """The score that had to be reached after these (sorted, without NaN); None at the first arrival."""
        return percentile(earlier, (1 - 1 / self.eta) * 100) if earlier else None

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        at = rungs[rung]
        self._judge_arrivals(at)
        number = at.arrived.index(trial)
        cutoff = at.verdicts.cutoffs[number]
        wanted = "-" if cutoff is None else f"{cutoff:.3f}"
        return f"{at.scores[trial]:.3f} at the rung of {self.levels[rung]}, below the cut-off {wanted} of {number} before it"


def percentile(ordered: Sequence[float], q: float) -> float:
    """numpy's linear percentile q (0..100) of sorted values, to the last bit, without reading them all."""
    position = q / 100 * (len(ordered) - 1)
    below = math.floor(position)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    part = position - below
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


class NoPruning:
    """Everyone goes on to the top: a plan gives it one rung, and a study that was made longer one more."""

    def __init__(self, levels: list[int]) -> None:
        self.levels = levels

    def next_promotion(self, rungs: Sequence[Rung]) -> tuple[str, int] | None:
        for index in range(len(self.levels) - 2, -1, -1):
            best = rungs[index].best_waiting()
            if best is not None:
                return best, index
        return None

    def explain(self, rungs: Sequence[Rung], trial: str, rung: int) -> str:
        return "nothing is pruned"


def make_scheduler(name: str, levels: list[int], eta: int) -> Scheduler:
    """A scheduler by name over its rungs: asha, asha_stop or none."""
    if name == "none":
        return NoPruning(levels)
    return PromotionAsha(levels, eta) if name == "asha" else StoppingAsha(levels, eta)


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
