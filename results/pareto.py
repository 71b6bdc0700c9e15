"""Several objectives: the configurations that no other beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from results.state import StudyState, Trial
from results.tables import Row

MINIMISED = ("latency_ms", "parameters")  # objectives of which less is better


def pareto_front(state: StudyState, objectives: Sequence[str]) -> list[Row]:
    """A row a trial of the front, best in the first objective first; trials that reached the top rung only.

    Values are those of the epoch that ranks by the study's metric.
    """
    finished = [trial for trial in state.with_role("search") if trial.outcome == "finished"]
    values = {trial.id: objective_values(state, trial, objectives) for trial in finished}
    scored = [trial for trial in finished if not any(math.isnan(value) for value in values[trial.id])]
    front = [t for t in scored if not any(dominates(values[other.id], values[t.id], objectives) for other in scored)]
    rows = [{"trial": t.id, "config": t.config_hash, **dict(zip(objectives, values[t.id], strict=True))} for t in front]
    return sorted(rows, key=lambda row: row[objectives[0]], reverse=objectives[0] not in MINIMISED)


def objective_values(state: StudyState, trial: Trial, objectives: Sequence[str]) -> list[float]:
    """A trial's objectives at its ranked epoch, NaN where there is none."""
    epoch = trial.ranked_epoch(state.metric)
    return [math.nan if epoch is None else trial.score(name, epoch) for name in objectives]


def dominates(a: Sequence[float], b: Sequence[float], objectives: Sequence[str]) -> bool:
    """Whether `a` is at least as good as `b` in every objective and better in one."""
    signs = [-1.0 if name in MINIMISED else 1.0 for name in objectives]
    pairs = [(sign * x, sign * y) for sign, x, y in zip(signs, a, b, strict=True)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)
