"""The verdict: does the winner beat the base, both trained to the same length on the same seeds?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from results.state import StudyState, Trial
from results.statistics import paired_difference
from results.tables import MEASURED, base_of, held_out_scores, measured_score, winner

BETTER, NOT_ESTABLISHED, WORSE, BASE_IS_BEST = "better", "not established", "worse", "base is best"


@dataclass(frozen=True)
class Verdict:
    """Winner minus base by the study's metric; `low` and `high` are 95 % over seeds, None where one seed allows none."""

    difference: float | None  # None where the two were not trained alike
    low: float | None
    high: float | None
    seeds: int  # that both were trained on
    split: str  # test, or val where nothing was held out
    decision: str  # better / not established / worse / base is best
    metric: str
    epochs: int  # that both were trained
    fresh: bool  # whether the seeds are others than the one that chose the winner

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for summary.json."""
        return asdict(self)

    def describe(self) -> str:
        """The finding in one sentence."""
        if self.decision == BASE_IS_BEST:
            return f"The base is best: no configuration of this study scored more than it after {self.epochs} epochs."
        if self.difference is None:
            return "Whether the winner beats the base is not established: the two were not trained to the same length."
        size = f"{abs(self.difference):.3f} {self.metric}"
        if self.low is None or self.high is None:
            more = "more" if self.difference >= 0 else "less"
            finding = (
                f"The winner scored {size} {more} than the base, on one seed, which gives no interval: not established"
            )
        else:
            interval = f"95 % interval {self.low:+.3f} .. {self.high:+.3f} over {self.seeds} seeds"
            if self.decision == BETTER:
                finding = f"The winner beats the base by {size} ({interval})"
            elif self.decision == WORSE:
                finding = f"The base is better than the winner, by {size} ({interval})"
            else:
                finding = f"The difference of {self.difference:+.3f} {self.metric} is not established ({interval})"
        return f"{finding}; both trained {self.epochs} epochs, scored on {SPLITS[self.split]}."

    def advice(self) -> str:
        """What to do next, in one sentence."""
        held_out = "" if self.split == "test" else " A test.json beside the data would give scores that chose nothing."
        if self.difference is None:
            return f"Let the study end (--resume), so that both reach the top rung.{held_out}"
        if self.decision == BASE_IS_BEST:
            return f"Search further (--resume --trials), widen the space, or keep the base.{held_out}"
        if self.seeds < 2:
            return f"Train both on fresh seeds: --resume --seeds-final 3.{held_out}"
        if self.decision == NOT_ESTABLISHED:
            return f"More seeds would narrow it: --resume --seeds-final {2 * self.seeds}.{held_out}"
        if self.decision == WORSE:
            return f"Use the base, or search further: --resume --trials.{held_out}"
        return f"Use best.pt; --resume --trials searches further.{held_out}"


SPLITS = {"test": "the held-out split", "val": "the validation images, which also chose the winner"}


def verdict_of(state: StudyState) -> Verdict | None:
    """The verdict of a search; None before its base and another trial, or the base alone, have scored."""
    base, best = base_of(state), winner(state)
    if base is None or best is None or best.role != "search" or best.ranked_epoch(state.metric) is None:
        return None
    if best.config_hash == base.config_hash:
        return Verdict(0.0, None, None, len(_seeds(state, base)) or 1, _split(state, [base]), BASE_IS_BEST, state.metric,
                       base.last_epoch, bool(_seeds(state, base)))  # fmt: skip
    pairs, fresh = _pairs(state, best, base)
    if not pairs:
        return Verdict(None, None, None, 0, "val", NOT_ESTABLISHED, state.metric, base.last_epoch, False)
    split = _split(state, [trial for pair in pairs.values() for trial in pair])
    score = _scorer(state, split)
    scores = {seed: (score(a), score(b)) for seed, (a, b) in pairs.items()}
    difference = statistics.fmean(a - b for a, b in scores.values())
    if math.isnan(difference):
        return Verdict(None, None, None, 0, split, NOT_ESTABLISHED, state.metric, base.last_epoch, fresh)
    paired = paired_difference({s: a for s, (a, _) in scores.items()}, {s: b for s, (_, b) in scores.items()})
    if paired is None or math.isnan(paired.low):
        low = high = None
        decision = NOT_ESTABLISHED
    else:
        low, high = paired.low, paired.high
        decision = BETTER if low > 0 else WORSE if high < 0 else NOT_ESTABLISHED
    return Verdict(difference, low, high, len(pairs), split, decision, state.metric, base.levels[-1], fresh)


def compared_trials(state: StudyState) -> list[Trial]:
    """The trials whose scores the verdict compares: what is to be scored on a held-out split."""
    base, best = base_of(state), winner(state)
    if base is None or best is None or best.role != "search":
        return []
    if best.config_hash == base.config_hash:
        return [base]
    pairs, _ = _pairs(state, best, base)
    return [trial for pair in pairs.values() for trial in pair] or [base, best]


def _pairs(state: StudyState, best: Trial, base: Trial) -> tuple[dict[int, tuple[Trial, Trial]], bool]:
    """({seed: (winner, base)} trained to the same length, whether on fresh seeds): the seed that chose only without fresh ones."""
    of_best, of_base = _seeds(state, best), _seeds(state, base)
    common = sorted(seed for seed in set(of_best) & set(of_base) if _alike(of_best[seed], of_base[seed]))
    if common:
        return {seed: (of_best[seed], of_base[seed]) for seed in common}, True
    alike = best.outcome == base.outcome == "finished" and _alike(best, base)
    return ({base.seed: (best, base)} if alike else {}), False


def _alike(a: Trial, b: Trial) -> bool:
    """Whether two trials were trained to the same length: of a budget in seconds each has its own epochs for it."""
    return a.levels[-1] == b.levels[-1] or None not in (a.seconds_per_epoch, b.seconds_per_epoch)


def _seeds(state: StudyState, trial: Trial) -> dict[int, Trial]:
    """The trials of a configuration on fresh seeds that came to their end."""
    finals = (t for t in state.with_role("final") if t.config_hash == trial.config_hash and t.outcome in MEASURED)
    return {t.seed: t for t in finals}


def _split(state: StudyState, trials: list[Trial]) -> str:
    """test where each of these trials was scored on it (one that diverged needs no score), else val."""
    scored = held_out_scores(state)
    alive = [trial for trial in trials if trial.outcome != "diverged"]
    # -1 is COCO's "nothing of that kind" on these images.
    return "test" if alive and all(scored.get(trial.id, {}).get(state.metric, -1.0) >= 0 for trial in alive) else "val"


def _scorer(state: StudyState, split: str) -> Callable[[Trial], float]:
    """What a trial scored on a split; one that diverged counts as on the validation images."""
    scored = held_out_scores(state) if split == "test" else {}
    return lambda trial: (
        measured_score(trial, state.metric)
        if split == "val" or trial.outcome == "diverged"
        else scored[trial.id][state.metric]
    )
