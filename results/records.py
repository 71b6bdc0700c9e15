"""A study folder's records: the journal's lines, and the state of a study as a pure function of them.

Read by `search` (to decide and resume) and by `results` (to report): one replay for both.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOURNAL_NAME = "journal.jsonl"
PLAN_NAME = "study.json"
STATES = ("finished", "pruned", "failed", "diverged", "infeasible", "stopped")


class JournalError(ValueError):
    """A study folder that cannot be read as one; the message names file and line."""


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's records. A half-written last line is left out with a warning.

    Raises: JournalError for a bad line elsewhere, with its number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(f"{path}: must be a study's journal; it cannot be read ({error.strerror})") from None
    torn = lines.pop()  # what stands behind the last newline: empty unless a write was cut short
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "event" not in record:
            raise JournalError(
                f"{path}, line {number}: must be a JSON object with an event, it is {line[:60]!r}. The journal is only "
                "appended to; restore the line from a copy, or cut the file before it to lose what came after"
            )
        records.append(record)
    if torn:
        warnings.warn(f"{path}: the last line was half-written and is left out: {torn[:60]!r}", stacklevel=2)
    return records


def read_plan(folder: Path) -> dict[str, Any]:
    """study.json of a study folder.

    Raises: JournalError where there is none.
    """
    path = folder / PLAN_NAME
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} must be a study folder; reading {path.name} said: {error}") from None
    assert isinstance(plan, dict)
    return plan


@dataclass
class Trial:
    """One configuration and one seed, as far as the journal tells."""

    id: str
    number: int  # order of creation, from 1
    role: str
    config_hash: str
    config: dict[str, Any]  # the consumed fields
    varied: dict[str, Any]  # the proposal: searched fields that this config consumes
    seed: int
    proposal: int | None
    step: str = ""  # of an ablation's chain
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)  # epoch record by epoch
    leg_target: int | None = None  # the leg decided on or under way, in epochs
    legs: int = 0
    rung: int = -1  # index of the highest rung reached
    outcome: str = ""  # failed, diverged, infeasible, finished; "" while it may go on
    reason: str = ""
    losses: int = 0  # legs lost with their worker
    retries: int = 0  # legs run again after an error of the code

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    def score(self, metric: str, epoch: int) -> float:
        """The metric at an epoch; -1 (COCO's "nothing of that kind") and what is missing count as NaN."""
        return metric_of(self.epochs[epoch], metric)

    def best_epoch(self, metric: str) -> int | None:
        """The epoch of the highest score, the earliest of equals; None before any."""
        scored = [epoch for epoch in sorted(self.epochs) if not math.isnan(self.score(metric, epoch))]
        return max(scored, key=lambda epoch: self.score(metric, epoch)) if scored else None

    def best_score(self, metric: str) -> float:
        """The score at `best_epoch`, NaN before any."""
        epoch = self.best_epoch(metric)
        return math.nan if epoch is None else self.score(metric, epoch)

    @property
    def seconds(self) -> float:
        """Time inside Trainer.step."""
        return float(sum(record["seconds"] for record in self.epochs.values()))


def metric_of(record: dict[str, Any], metric: str) -> float:
    """A metric of an epoch record; `class:NAME` is a class's AP; -1 and missing are NaN."""
    if metric.startswith("class:"):
        value = record["per_class"].get(metric.removeprefix("class:"), -1.0)
    else:
        value = record["metrics"].get(metric, -1.0)
    return math.nan if value is None or value < 0 else float(value)


class StudyState:
    """Everything that a study has decided and seen: the journal, replayed."""

    def __init__(self, metric: str, levels: list[int]) -> None:
        self.metric, self.levels = metric, levels
        self.trials: dict[str, Trial] = {}
        self.arrivals: list[dict[str, float]] = [{} for _ in levels]  # scores by trial, in order of arrival
        self.promoted: list[set[str]] = [set() for _ in levels]
        self.proposals = 0
        self.records: list[dict[str, Any]] = []
        self.ended: str = ""  # why the study ended, "" while it runs

    @classmethod
    def replay(cls, records: Iterable[dict[str, Any]], metric: str, levels: list[int]) -> StudyState:
        state = cls(metric, levels)
        for record in records:
            state.apply(record)
        return state

    def apply(self, record: dict[str, Any]) -> None:
        """Takes in one journal record; unknown events say nothing to the state."""
        self.records.append(record)
        method = getattr(self, f"_on_{record['event']}", None)
        if method is not None:
            method(record)

    def _on_trial_created(self, record: dict[str, Any]) -> None:
        trial = Trial(
            record["trial"], len(self.trials) + 1, record["role"], record["config_hash"], record["config"],
            record["varied"], record["seed"], record.get("proposal"), record.get("step", ""), leg_target=self.levels[0],
        )  # fmt: skip
        self.trials[trial.id] = trial
        self.proposals = max(self.proposals, trial.proposal or 0)

    # A proposal counts once it has become something: one whose fate a crash cut off is made again.
    def _on_proposal_known(self, record: dict[str, Any]) -> None:
        self.proposals = max(self.proposals, record["number"])

    _on_proposal_refused = _on_proposal_known

    def _on_leg_started(self, record: dict[str, Any]) -> None:
        trial = self.trials[record["trial"]]
        trial.leg_target, trial.legs, trial.reason = record["to_epoch"], trial.legs + 1, ""
        self.ended = ""

    def _on_promoted(self, record: dict[str, Any]) -> None:
        self.promoted[record["rung"]].add(record["trial"])
        self.trials[record["trial"]].leg_target = record["to_epoch"]

    def _on_epoch(self, record: dict[str, Any]) -> None:
        # The first report of an epoch counts: a leg that is run again after a crash may report it once more.
        self.trials[record["trial"]].epochs.setdefault(record["epoch"], record)

    def _on_leg_ended(self, record: dict[str, Any]) -> None:
        trial = self.trials[record["trial"]]
        outcome, target = record["outcome"], trial.leg_target
        if outcome == "reached":
            trial.leg_target = None
            self._arrive(trial, target)
        elif outcome in ("diverged", "failed", "infeasible"):
            trial.leg_target = None
            trial.outcome, trial.reason = outcome, record.get("reason", "")
        elif outcome == "lost":
            trial.losses += 1
        elif outcome == "error":
            trial.retries, trial.reason = trial.retries + 1, record.get("reason", "")
        # interrupted, lost and error keep leg_target: the leg runs again from its checkpoint.

    def _arrive(self, trial: Trial, target: int | None) -> None:
        if target not in self.levels:
            return
        trial.rung = self.levels.index(target)
        self.arrivals[trial.rung][trial.id] = trial.score(self.metric, target)
        if trial.rung == len(self.levels) - 1:
            trial.outcome = "finished"

    def _on_trial_pruned(self, record: dict[str, Any]) -> None:
        self.trials[record["trial"]].reason = record["reason"]

    def _on_study_ended(self, record: dict[str, Any]) -> None:
        self.ended = record["reason"]

    def final_state(self, trial: Trial) -> str:
        """A trial's word in the tables: finished, pruned, failed, diverged, infeasible or stopped."""
        if trial.outcome:
            return trial.outcome
        return "stopped" if trial.leg_target is not None else "pruned"

    def best_trial(self, role: str = "") -> Trial | None:
        """Highest score at the highest rung that any trial reached; before any rung, the highest score so far.

        Among the trials of one role: by default that of trial 1, search or ablation.
        """
        role = role or next((trial.role for trial in self.trials.values()), "")
        scored = [t for t in self.trials.values() if t.role == role and not math.isnan(t.best_score(self.metric))]
        return max(scored, key=lambda t: (t.rung, t.best_score(self.metric), -t.number), default=None)
