"""What is trained once nothing is left to propose: finalists, fresh seeds, the winner's longer training, audits.

Pure functions of the state: each names the next trial that is missing, or None.
"""

from __future__ import annotations

import random

from results.state import StudyState, Trial
from results.tables import base_of, epochs_to_winner, ranking_key, winner, worker_seconds

DEFAULT_TOP = 3
ENOUGH = (
    0.9  # of the epochs that plain training should have: a study that was extended a little trains it no second time
)
DEFAULT_FINALISTS = 2  # trained to the top beside the base


def missing_finalist(state: StudyState, number: int) -> Trial | None:
    """The next of the waiting finalists that goes on although no rung promotes it, or None.

    All but the base wait until all that is under way goes to the top: only then it is known who the best are.
    """
    waiting = waiting_finalists(state, number)
    searched = state.with_role("search")
    if waiting and waiting[0] is searched[0]:
        return waiting[0]
    if any(t.leg_target is not None and t.id not in state.finalists for t in searched):
        return None
    return waiting[0] if waiting else None


def waiting_finalists(state: StudyState, number: int) -> list[Trial]:
    """The paused trials that are to reach the top: the base, those on their way, and the best besides until `number` are there."""
    searched = state.with_role("search")
    if number == 0 or not searched:
        return []
    base = searched[0]
    going = [t for t in searched if t.id in state.finalists and t.outcome in ("", "finished") and not t.withdrawn]
    there = [t for t in searched if t is not base and (t in going or t.outcome == "finished")]
    best = [t for t in best_of_search(state, len(searched)) if t.is_paused and t is not base]
    on_their_way = [t for t in best if t.id in state.finalists]  # promoted before, and now at the rung in between
    others = [t for t in best if t.id not in state.finalists][: max(0, number - len(there))]
    return [*([base] if base.is_paused else []), *on_their_way, *others]


def missing_final(state: StudyState, seeds: int, top: int, study_seed: int) -> tuple[Trial, int] | None:
    """(a trial of the search's `top` best or the base, a fresh seed that its config was not trained on yet), or None.

    One seed for all before the next: a study that is stopped early has compared them alike.
    """
    done = {(trial.config_hash, trial.seed) for trial in state.with_role("final")}
    for seed in range(study_seed + 1, study_seed + 1 + seeds):
        base = base_of(state)
        for trial in (*best_of_search(state, top), *([base] if base is not None else [])):
            if (trial.config_hash, seed) not in done:
                return trial, seed
    return None


def best_of_search(state: StudyState, top: int) -> list[Trial]:
    """The search's best trials, best first: highest rung, then highest score."""
    scored = [trial for trial in state.with_role("search") if trial.ranked_epoch(state.metric) is not None]
    return sorted(scored, key=lambda trial: ranking_key(trial, state.metric))[:top]


def missing_polish(state: StudyState, epochs: int) -> Trial | None:
    """The search's winner, where it was not trained on a schedule of so many epochs yet and that is longer than its own."""
    best = winner(state)
    if best is None or best.role != "search" or best.levels[-1] >= epochs:
        return None
    done = {(trial.of, trial.levels[-1]) for trial in state.with_role("polish")}
    return None if (best.id, epochs) in done else best


def missing_plain(state: StudyState) -> tuple[Trial, int] | None:
    """(the base, the epochs in which it takes as many worker-seconds as the whole study), where that was not trained yet."""
    base = base_of(state)
    if base is None or not base.epochs:
        return None
    seconds = sum(worker_seconds(record) for record in epochs_to_winner(state) if not record.get("taken_over"))
    own = [worker_seconds(record) for record in base.epochs.values()]
    epochs = max(base.levels[-1], round(seconds / (sum(own) / len(own))))
    longest = max((trial.levels[-1] for trial in state.with_role("plain")), default=0)
    return None if longest >= ENOUGH * epochs else (base, epochs)


def missing_audit(state: StudyState, number: int, study_seed: int) -> Trial | None:
    """A pruned trial to train on to the top rung, drawn evenly from those not drawn yet; None when `number` were."""
    audited = {trial.of for trial in state.with_role("audit")}
    pruned = [t for t in state.with_role("search") if state.final_state(t) == "pruned" and t.id not in audited]
    if len(audited) >= number or not pruned:
        return None
    return random.Random(f"{study_seed}/audit/{len(audited)}").choice(pruned)
