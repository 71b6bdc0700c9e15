"""What is trained once the search itself is over: the best on fresh seeds, and pruned trials drawn at random."""

from __future__ import annotations

import random

from results.state import StudyState, Trial
from results.tables import ranking_key

DEFAULT_TOP = 3


def missing_final(state: StudyState, seeds: int, top: int, study_seed: int) -> tuple[Trial, int] | None:
    """(a trial of the search's `top` best, a fresh seed that its configuration was not trained on yet), or None.

    One seed for all before the next: a study that is stopped early has compared them alike.
    """
    done = {(trial.config_hash, trial.seed) for trial in state.with_role("final")}
    for seed in range(study_seed + 1, study_seed + 1 + seeds):
        for trial in best_of_search(state, top):
            if (trial.config_hash, seed) not in done:
                return trial, seed
    return None


def best_of_search(state: StudyState, top: int) -> list[Trial]:
    """The search's best trials, best first: highest rung, then highest score."""
    scored = [trial for trial in state.with_role("search") if trial.ranked_epoch(state.metric) is not None]
    return sorted(scored, key=lambda trial: ranking_key(trial, state.metric))[:top]


def missing_audit(state: StudyState, number: int, study_seed: int) -> Trial | None:
    """A pruned trial to train on to the top rung, drawn evenly from those not drawn yet; None when `number` were."""
    audited = {trial.of for trial in state.with_role("audit")}
    pruned = [t for t in state.with_role("search") if state.final_state(t) == "pruned" and t.id not in audited]
    if len(audited) >= number or not pruned:
        return None
    return random.Random(f"{study_seed}/audit/{len(audited)}").choice(pruned)
