"""A study's state as a pure function of its journal: trials, rungs and what was decided.

Read by `search` (to decide and resume) and by `results` (to report): one replay for both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.records import JOURNAL_NAME, read_journal, read_plan

STATES = ("finished", "pruned", "failed", "diverged", "infeasible", "stopped")
RANK_ON = ("best", "last")
PRUNE_ON = ("last", "best", "mean3")
LOSSES_THAT_TELL = 3  # workers lost in one leg, their node alive: the kernel ends what asks for too much memory
# The roles that stand on rungs; all others are measured beside them. A `polish` is the winner on a longer schedule, `plain`
# the base for as long as the whole study.
ON_RUNGS = ("search", "ablation")


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
    of: str = ""  # the trial whose training this one goes on with (audit, longer schedule) or whose config it repeats
    reused: str = ""  # folder and trial of another study that has trained it
    levels: list[int] = field(default_factory=list)  # its rungs in epochs
    rank_on: str = "best"
    seconds_per_epoch: float | None = None  # as probed, where the budget is in seconds
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)  # epoch record by epoch
    leg_target: int | None = None  # the leg decided on or under way, in epochs
    legs: int = 0
    rung: int = -1  # index of the highest rung reached
    outcome: str = ""  # failed, diverged, infeasible, finished; "" while it may go on
    reason: str = ""
    losses: int = 0  # workers lost in the leg under way while their node lived
    memory_failures: int = 0  # times it asked for more memory than there was
    retries: int = 0  # legs run again after an error of the code
    checkpoint_dropped: bool = False  # to go on it trains from the start
    before_decay_dropped: bool = False  # to go on with a longer schedule too
    withdrawn: bool = False  # a user wants it to go no further

    @property
    def is_paused(self) -> bool:
        """Whether it stands at a rung below its top and could go on."""
        return (
            not (self.outcome or self.withdrawn) and self.leg_target is None and 0 <= self.rung < len(self.levels) - 1
        )

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    def score(self, metric: str, epoch: int) -> float:
        """The metric at an epoch; -1 (COCO's "nothing of that kind") and what is missing count as NaN."""
        return metric_of(self.epochs[epoch], metric)

    def ranked_epoch(self, metric: str) -> int | None:
        """The epoch that the tables show: the best one (the earliest of equals), or with --rank-on last the last one."""
        scored = [epoch for epoch in sorted(self.epochs) if not math.isnan(self.score(metric, epoch))]
        if not scored:
            return None
        return scored[-1] if self.rank_on == "last" else max(scored, key=lambda epoch: self.score(metric, epoch))

    def ranked_score(self, metric: str) -> float:
        """The score at `ranked_epoch`, NaN before any."""
        epoch = self.ranked_epoch(metric)
        return math.nan if epoch is None else self.score(metric, epoch)

    def rung_score(self, metric: str, epoch: int, prune_on: str) -> float:
        """What a rung at `epoch` judges by: the last score, the best so far, or the mean of the last three."""
        if prune_on == "last":
            return self.score(metric, epoch)
        scores = [self.score(metric, e) for e in sorted(self.epochs) if e <= epoch]
        counted = [score for score in (scores[-3:] if prune_on == "mean3" else scores) if not math.isnan(score)]
        if not counted:
            return math.nan
        return sum(counted) / len(counted) if prune_on == "mean3" else max(counted)

    def has_dropped(self, before_decay: bool) -> bool:
        """Whether its checkpoint is gone: the newest, or the one that a longer constant schedule goes on from."""
        return self.before_decay_dropped if before_decay else self.checkpoint_dropped

    @property
    def trained_fields(self) -> dict[str, Any]:
        """The consumed fields as they are trained: where the budget is in seconds, with the trial's own length."""
        if self.seconds_per_epoch is None:
            return self.config
        return {**self.config, "schedule_epochs": self.levels[-1]}

    @property
    def seconds(self) -> float:
        """Time inside Trainer.step that this trial's own legs spent."""
        return float(sum(record["seconds"] for record in self.epochs.values() if not record.get("taken_over")))


def metric_of(record: dict[str, Any], metric: str) -> float:
    """A metric of an epoch record; `class:NAME` is a class's AP; -1 and missing are NaN."""
    if metric.startswith("class:"):
        value = record["per_class"].get(metric.removeprefix("class:"), -1.0)
    else:
        value = record["metrics"].get(metric, -1.0)
    return math.nan if value is None or value < 0 else float(value)


class StudyState:
    """Everything that a study has decided and seen: the journal, replayed."""

    def __init__(self, metric: str, levels: list[int], prune_on: str = "last", rank_on: str = "best") -> None:
        self.metric, self.levels = metric, list(levels)
        self.prune_on, self.rank_on = prune_on, rank_on
        self.trials: dict[str, Trial] = {}
        self.arrivals: list[dict[str, float]] = [{} for _ in levels]  # scores by trial, in order of arrival
        self.promoted: list[set[str]] = [set() for _ in levels]
        self.num_finalists = (
            0  # trials besides the base that are trained to the top at least; 0: neither they nor the base
        )
        self.finalists: set[str] = set()  # trials that go to the top whatever their rungs say
        self.proposals = 0
        self.session: dict[str, Any] = {}  # how the last session began, and what it extended; nothing before the first
        self.added: list[dict[str, Any]] = []  # values that a user asked to try, in order
        self.asked: set[str] = set()  # ids of requests that were answered
        self.restarts: list[str] = []  # trials whose config trains to a longer study's top
        self.records: list[dict[str, Any]] = []
        self.ended: str = ""  # why the study ended, "" while it runs

    @classmethod
    def of_plan(cls, plan: dict[str, Any], records: Iterable[dict[str, Any]] = ()) -> StudyState:
        """The state of a study from its plan and journal."""
        state = cls(
            plan["metric"], plan["levels"], plan.get("prune_on", "last"), plan.get("rank_on", "best")
        )  # older plans have neither
        state.num_finalists = plan.get("finalists", 0)
        for record in records:
            state.apply(record)
        return state

    @classmethod
    def replay(cls, records: Iterable[dict[str, Any]], metric: str, levels: list[int]) -> StudyState:
        """The state after some records, judged and ranked by the defaults."""
        return cls.of_plan({"metric": metric, "levels": levels}, records)

    def apply(self, record: dict[str, Any]) -> None:
        """Takes in one journal record; unknown events say nothing to the state."""
        self.records.append(record)
        method = getattr(self, f"_on_{record['event']}", None)
        if method is not None:
            method(record)

    def with_role(self, role: str) -> list[Trial]:
        """The trials of one role, first created first."""
        return [trial for trial in self.trials.values() if trial.role == role]

    def _on_session_started(self, record: dict[str, Any]) -> None:
        self.session = record

    def _on_trial_created(self, record: dict[str, Any]) -> None:
        trial = Trial(
            record["trial"], len(self.trials) + 1, record["role"], record["config_hash"], record["config"],
            record["varied"], record["seed"], record.get("proposal"), record.get("step", ""), record.get("of", ""),
            record.get("reused", ""), list(self.levels), self.rank_on,
            leg_target=record.get("to_epoch", self.levels[0]),
        )  # fmt: skip
        source = self.trials.get(trial.of)
        if source is not None and trial.role not in ON_RUNGS:  # as long as the trial that it repeats or goes on with
            trial.levels, trial.seconds_per_epoch = list(source.levels), source.seconds_per_epoch
        if "levels" in record:  # a length of its own
            trial.levels, trial.seconds_per_epoch = list(record["levels"]), None
        self.trials[trial.id] = trial
        self.proposals = max(self.proposals, trial.proposal or 0)

    # A proposal counts once it has become something: one whose fate a crash cut off is made again.
    def _on_proposal_known(self, record: dict[str, Any]) -> None:
        self.proposals = max(self.proposals, record["number"])

    _on_proposal_refused = _on_proposal_known

    def _on_trial_probed(self, record: dict[str, Any]) -> None:
        """Rungs that are given in seconds become a trial's own, in epochs."""
        trial = self.trials[record["trial"]]
        trial.levels, trial.seconds_per_epoch = list(record["levels"]), record["seconds_per_epoch"]
        trial.leg_target = trial.levels[-1] if trial.role not in ON_RUNGS else trial.levels[0]

    def _on_leg_started(self, record: dict[str, Any]) -> None:
        trial = self.trials[record["trial"]]
        trial.leg_target, trial.legs, trial.reason = record["to_epoch"], trial.legs + 1, ""
        trial.checkpoint_dropped = False
        self.ended = ""

    def _on_promoted(self, record: dict[str, Any]) -> None:
        self.promoted[record["rung"]].add(record["trial"])
        if record.get("finalist"):
            self.finalists.add(record["trial"])
        self.trials[record["trial"]].leg_target = record["to_epoch"]

    def _on_epoch(self, record: dict[str, Any]) -> None:
        # The first report of an epoch counts: a leg that is run again after a crash may report it once more.
        self.trials[record["trial"]].epochs.setdefault(record["epoch"], record)

    def _on_leg_ended(self, record: dict[str, Any]) -> None:
        trial = self.trials[record["trial"]]
        outcome, target = record["outcome"], trial.leg_target
        if outcome == "reached":
            trial.leg_target, trial.losses = None, 0
            self._arrive(trial, target)
        elif outcome == "withdrawn":
            trial.leg_target, trial.reason = None, record.get("reason", "")
        elif outcome in ("diverged", "failed", "infeasible"):
            trial.leg_target = None
            trial.outcome, trial.reason = outcome, record.get("reason", "")
        elif outcome == "lost" and record.get("node_alive", True):
            trial.losses += 1
            if trial.losses == LOSSES_THAT_TELL:
                trial.losses, trial.memory_failures = 0, trial.memory_failures + 1
        elif outcome == "out_of_memory":
            trial.memory_failures, trial.reason = trial.memory_failures + 1, record.get("reason", "")
        elif outcome == "error":
            trial.retries, trial.reason = trial.retries + 1, record.get("reason", "")
        # interrupted, lost, out_of_memory and error keep leg_target: the leg runs again from its checkpoint.

    def _arrive(self, trial: Trial, target: int | None) -> None:
        if target not in trial.levels:
            return
        trial.rung = trial.levels.index(target)
        if trial.rung == len(trial.levels) - 1:
            trial.outcome = "finished"
        if trial.role in ON_RUNGS:
            self.arrivals[trial.rung][trial.id] = trial.rung_score(self.metric, target, self.prune_on)
            if trial.withdrawn or (trial.outcome == "finished" and trial.rung < len(self.levels) - 1):
                self.promoted[trial.rung].add(trial.id)  # its own schedule ends here, though the study's goes on

    def _on_asked(self, record: dict[str, Any]) -> None:
        """What a user asked of the running study (search.control)."""
        self.asked.add(record["request"])
        if record["ask"] == "add":
            self.added.append(record["values"])
        elif record["ask"] == "prune":
            trial = self.trials[record["trial"]]
            trial.withdrawn = True
            if trial.rung >= 0 and trial.role in ON_RUNGS:
                self.promoted[trial.rung].add(trial.id)  # whoever has gone on is not promoted again

    def _on_ask_refused(self, record: dict[str, Any]) -> None:
        self.asked.add(record["request"])

    def _on_levels_extended(self, record: dict[str, Any]) -> None:
        """A longer study: one more rung on top, for trials to come; those before keep the schedule they began."""
        old_top = len(self.levels) - 1
        self.promoted[old_top] |= set(self.arrivals[old_top])
        self.levels, self.restarts = list(record["levels"]), list(record["restart"])
        self.arrivals.append({})
        self.promoted.append(set())

    def _on_checkpoint_dropped(self, record: dict[str, Any]) -> None:
        trial = self.trials[record["trial"]]
        trial.checkpoint_dropped, trial.before_decay_dropped = True, bool(record.get("before_decay"))

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
        scored = [t for t in self.with_role(role) if not math.isnan(t.ranked_score(self.metric))]
        return max(scored, key=lambda t: (t.rung, t.ranked_score(self.metric), -t.number), default=None)


def read_live(folder: Path) -> tuple[dict[str, Any], StudyState]:
    """`read_study` of a study that may be writing its last line just now, which is not there yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_study(folder)


def read_study(folder: Path) -> tuple[dict[str, Any], StudyState]:
    """Plan and replayed state of a study folder.

    Raises: JournalError where the folder is no study.
    """
    plan = read_plan(folder)
    return plan, StudyState.of_plan(plan, read_journal(folder / JOURNAL_NAME))
