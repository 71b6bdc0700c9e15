"""Late bloomers: how many pruned trials, trained on to the end, would have stood among the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from results.state import StudyState
from results.tables import MEASURED, ranking_key

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Audit:
    """x of n audited trials would have entered the top k; the share among all pruned trials with its interval."""

    entered: int  # x
    audited: int  # n
    top: int  # k
    pruned: int  # trials that the n were drawn from
    low: float  # Clopper-Pearson interval (1934) of the share, 95 %
    high: float

    def describe(self) -> str:
        """The finding in a sentence."""
        return (
            f"audit: {self.entered} of {self.audited} pruned trials (of {self.pruned}), trained to the end, would have entered "
            f"the top {self.top}: {self.entered / self.audited:.0%}, 95 % interval {self.low:.0%} to {self.high:.0%}"
        )


def audit_of(state: StudyState, top: int) -> Audit | None:
    """What the audited trials say; None before any has been trained to the end."""
    from scipy.stats import binomtest

    audited = [trial for trial in state.with_role("audit") if trial.outcome in MEASURED]  # to diverge is not to enter
    lengths = {trial.levels[-1] for trial in audited if trial.seconds_per_epoch is None}
    finished = [
        trial
        for trial in state.with_role("search")
        if trial.outcome == "finished" and (trial.seconds_per_epoch is not None or trial.levels[-1] in lengths)
    ]  # of a study that was made longer, those that were trained as long
    best = sorted(finished, key=lambda trial: ranking_key(trial, state.metric))[:top]
    if not best or not audited:
        return None
    bar = best[-1].ranked_score(state.metric)
    scores = [t.ranked_score(state.metric) if t.outcome == "finished" else math.nan for t in audited]
    entered = sum(score > bar for score in scores if not math.isnan(score))
    interval = binomtest(entered, len(audited)).proportion_ci(CONFIDENCE, method="exact")
    pruned = sum(state.final_state(trial) == "pruned" for trial in state.with_role("search"))
    return Audit(entered, len(audited), len(best), pruned, float(interval.low), float(interval.high))


def top_of(plan: dict[str, object], state: StudyState) -> int:
    """How many count as the best: as the last session had it."""
    found = state.session.get("top", plan.get("top", 3))
    assert isinstance(found, int)
    return found
