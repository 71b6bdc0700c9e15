"""Checkpoints on disk: which may go (`--keep`), and what a study needs at worst.

A trial that goes on without its checkpoint trains from the start; the journal says so, and how many epochs that repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results.state import ON_RUNGS, StudyState, Trial
from results.tables import delivered, ranking_key
from search.afterwards import best_of_search, waiting_finalists
from search.leg import BEFORE_DECAY, BEST, CHECKPOINT, DETECTIONS
from search.rungs import Rung, StoppingAsha
from search.storage.store import Store

TRAINING = (CHECKPOINT, "checkpoint.previous.pt")  # what going on needs
MOST_SHOWN = 3  # of the search's best, whose results stay whatever the rule
RESULTS = (BEST, DETECTIONS)  # what showing and testing need


def droppable(state: StudyState, keep: str, num_trials: int, eta: int, scheduler: str) -> list[Trial]:
    """The trials that do not train and whose checkpoints the rule `keep` does not cover.

    `promotable` covers a paused trial whose place may still be among the top 1/eta once all `num_trials` have come. Every rule
    covers the trials that may go to the top as finalists, and the one whose weights are the study's.
    """
    rule, _, number = keep.partition(":")
    idle = [t for t in state.trials.values() if t.leg_target is None and t.epochs and not t.checkpoint_dropped]
    if rule == "all":
        return []
    finalists = {trial.id for trial in waiting_finalists(state, state.num_finalists)}
    if rule == "promotable":
        going_on = {t.id for t in idle if may_go_on(state, t, num_trials, eta, scheduler)} | finalists
        return [trial for trial in idle if trial.id not in going_on]
    kept = 1 if rule == "best" else int(number)
    ranked = sorted(state.with_role("search") or idle, key=lambda trial: ranking_key(trial, state.metric))[:kept]
    covered = {trial.id for trial in ranked} | finalists
    best = delivered(state)
    covered |= {best.id} if best is not None and best.role == "polish" else set()
    return [trial for trial in idle if trial.id not in covered]


def may_go_on(state: StudyState, trial: Trial, num_trials: int, eta: int, scheduler: str) -> bool:
    """Whether any order of results to come could still promote a trial that is paused at a rung."""
    if trial.outcome or trial.role not in ON_RUNGS or trial.rung < 0:
        return False
    if scheduler == "asha_stop":  # it passed when it came, or never goes on
        rung = Rung(state.arrivals[trial.rung], state.promoted[trial.rung])
        return StoppingAsha(state.levels, eta).is_going_on(rung, trial.id)
    scores = state.arrivals[trial.rung]
    own = scores[trial.id]
    better = sum(score > own for score in scores.values())
    return better < max(num_trials, len(state.arrivals[0])) // eta


def apply_keep(
    state: StudyState, store: Store, keep: str, num_trials: int, eta: int, scheduler: str, record: Callable[..., Any]
) -> tuple[int, int]:
    """Drops the checkpoints that the rule does not cover, each after `record` has journaled it: (trials, bytes freed)."""
    base = next(iter(state.trials), "")
    trials = droppable(state, keep, num_trials, eta, scheduler)
    freed = 0
    # Fresh seeds may choose any of the best, and what was trained beside the rungs is scored at the end.
    best = {trial.id for trial in best_of_search(state, MOST_SHOWN)}
    for trial in trials:
        # First the journal: a trial whose files outlive the record trains from the start, the reverse would not know.
        everything = keep != "promotable"
        record("checkpoint_dropped", trial=trial.id, **({"before_decay": True} if everything else {}))
        shown = trial.id == base or trial.id in best or trial.role not in ON_RUNGS
        freed += _drop(store, f"trials/{trial.id}/", with_more=everything, with_results=not shown)
    return len(trials), freed


def _drop(store: Store, trial: str, with_more: bool, with_results: bool) -> int:
    """Deletes a trial's checkpoints; returns their bytes.

    `with_more` deletes too what a longer study goes on from and, `with_results`, what shows and tests the trial: the
    base's stay, since others are compared with it.
    """
    names = (*TRAINING, *((BEFORE_DECAY, *(RESULTS if with_results else ())) if with_more else ()))
    sizes = {name: size for name, size in store.sizes(trial).items() if name.removeprefix(trial) in names}
    for name in sizes:
        store.delete(name)
    return sum(sizes.values())


def worst_case_bytes(
    checkpoint_bytes: int, trials: int, slots: int, keep: str, before_decay: bool = False, beside: int = 0
) -> int:
    """What the checkpoints of a study take at most: newest, the one before it and the best weights of each trial kept.

    `beside`: trials that every rule keeps. `before_decay`: and one more, of a constant schedule, that a longer study goes on from.
    """
    rule, _, number = keep.partition(":")
    kept = {"all": trials, "promotable": trials, "best": 1, "top": int(number or 1)}[rule]
    return (3 + before_decay) * checkpoint_bytes * min(trials, kept + slots + beside)
