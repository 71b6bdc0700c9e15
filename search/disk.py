"""Checkpoints on disk: which may go (`--keep`), and what a study needs at worst.

A trial that goes on without its checkpoint trains from the start; the journal says so, and how many epochs that repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results.state import ON_RUNGS, StudyState, Trial
from results.tables import ranking_key
from search.leg import BEFORE_DECAY, BEST, CHECKPOINT, DETECTIONS
from search.rungs import Rung, StoppingAsha
from search.storage.store import Store

TRAINING = (CHECKPOINT, "checkpoint.previous.pt")  # what going on needs
RESULTS = (BEST, DETECTIONS)  # what showing and testing need


def droppable(state: StudyState, keep: str, num_trials: int, eta: int, scheduler: str) -> list[Trial]:
    """The trials that do not train and whose checkpoints the rule `keep` does not cover.

    `promotable` covers a paused trial whose place may still be among the top 1/eta once all `num_trials` have come.
    """
    rule, _, number = keep.partition(":")
    idle = [t for t in state.trials.values() if t.leg_target is None and t.epochs and not t.checkpoint_dropped]
    if rule == "all":
        return []
    if rule == "promotable":
        return [trial for trial in idle if not may_go_on(state, trial, num_trials, eta, scheduler)]
    kept = 1 if rule == "best" else int(number)
    ranked = sorted(state.with_role("search") or idle, key=lambda trial: ranking_key(trial, state.metric))[:kept]
    return [trial for trial in idle if trial not in ranked]


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
    for trial in trials:
        # First the journal: a trial whose files outlive the record trains from the start, the reverse would not know.
        everything = keep != "promotable"
        record("checkpoint_dropped", trial=trial.id, **({"before_decay": True} if everything else {}))
        freed += _drop(store, f"trials/{trial.id}/", with_more=everything, with_results=trial.id != base)
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


def worst_case_bytes(checkpoint_bytes: int, trials: int, slots: int, keep: str, before_decay: bool = False) -> int:
    """What the checkpoints of a study take at most: newest, the one before it and the best weights of each trial kept.

    `before_decay`: and one more, of a constant schedule, that a longer study goes on from.
    """
    rule, _, number = keep.partition(":")
    kept = {"all": trials, "promotable": trials, "best": 1, "top": int(number or 1)}[rule]
    return (3 + before_decay) * checkpoint_bytes * min(trials, kept + slots)
