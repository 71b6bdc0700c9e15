"""What is done about a leg that did not reach its rung: told apart by what went wrong, decided from the journal alone.

| what went wrong | remedy |
|---|---|
| diverged: the loss became NaN or infinite | none; it would diverge again |
| out of memory | once more alone on its device; then in micro-batches of half the size, where no norm reads the batch; else infeasible |
| lost worker or node | again from its checkpoint, not counted; three losses in one leg with the node alive count as out of memory |
| error of the code | again, --max-failures times; then failed |
"""

from __future__ import annotations

from dataclasses import dataclass

from results.state import LOSSES_THAT_TELL, Trial

NORMS = ("norm", "neck_norm", "head_norm")  # fields that say whether statistics of the batch are used


@dataclass(frozen=True)
class Remedy:
    """How a trial's leg is run, or the outcome that ends the trial instead."""

    alone: bool = False  # nothing else may run on its device
    micro_batch: int | None = None  # images at a time within an optimizer step; None is the whole batch
    outcome: str = ""  # failed or infeasible: the trial is given up
    reason: str = ""


def remedy_for(trial: Trial, max_failures: int, micro_batches: bool = True) -> Remedy:
    """What to do with a trial that owes a leg, by what has happened to it so far."""
    if trial.retries > max_failures:
        return Remedy(outcome="failed", reason=trial.reason)
    failures = trial.memory_failures
    if failures == 0:
        return Remedy()
    if failures == 1:
        return Remedy(alone=True)
    halves = failures - 1
    micro_batch = int(trial.config["batch_size"]) >> halves
    if not micro_batches:
        return Remedy(outcome="infeasible", reason=f"{_told(trial)}, and its trainer takes no smaller batch")
    if reads_batch(trial):
        return Remedy(outcome="infeasible", reason=f"{_told(trial)}, and batch norm allows no smaller batch")
    if micro_batch < 1:
        return Remedy(outcome="infeasible", reason=f"{_told(trial)}, at last with one image at a time")
    return Remedy(alone=True, micro_batch=micro_batch)


def reads_batch(trial: Trial) -> bool:
    """Whether a norm of the trial's detector uses the batch's statistics: smaller batches would train another detector."""
    return any(trial.config.get(name) == "batch" for name in NORMS)


def _told(trial: Trial) -> str:
    what = trial.reason or f"its worker died {LOSSES_THAT_TELL} times while its node lived"
    return f"out of memory {trial.memory_failures} times, alone on its device too ({what})"
