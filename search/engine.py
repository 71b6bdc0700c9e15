"""What happens next: retry, promote or propose, decided from the replayed journal alone.

The engine owns the journal. Whoever runs legs (Ray Tune here, a simulation in tests) asks `next_leg` when a slot is
free and hands back epochs and outcomes; every decision is on disk before it is returned.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detector.config import ConfigError, DetectorConfig
from results.records import StudyState, Trial
from search.journal import Journal
from search.rungs import Rung, Scheduler
from spaces.chain import ResolvedStep
from spaces.space import ResolvedSpace

MAX_LOSSES = 3  # legs of one trial lost with their worker before it is called infeasible
MAX_BARREN_PROPOSALS = 50  # known or impossible proposals in a row before the space counts as exhausted


class Sampler(Protocol):
    """Proposes values for the searched fields; pure in (study seed, number of the proposal, view)."""

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        """Values by field, or None where there is nothing left to propose."""


@dataclass(frozen=True)
class Leg:
    """A stretch of one trial's training, from where its checkpoint stands to a rung."""

    trial: str
    number: int
    config: dict[str, Any]  # every field
    seed: int
    to_epoch: int


@dataclass(frozen=True)
class Limits:
    """When a study has done enough."""

    trials: int
    max_seconds: float = math.inf
    max_failures: int = 1  # a leg that ends in an error of the code is run again this often


class Engine:
    """Decides for one study; `state` is always the replay of what the journal holds."""

    def __init__(
        self,
        state: StudyState,
        journal: Journal,
        space: ResolvedSpace,
        sampler: Sampler | None,
        scheduler: Scheduler,
        limits: Limits,
        fingerprint: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[DetectorConfig], None] = lambda config: None,
    ) -> None:
        self.state, self.journal, self.space = state, journal, space
        self.sampler, self.scheduler, self.limits = sampler, scheduler, limits
        self.fingerprint, self.seed = fingerprint, seed
        self.clock, self.started = clock, clock()
        self.check = check  # raises ConfigError for a config that this dataset cannot train
        self.running: dict[str, Leg] = {}  # by trial
        self.exhausted = False
        self.disk_full = False

    def record(self, event: str, **values: Any) -> None:
        """Journals an event, then takes it into the state."""
        self.state.apply(self.journal.append(event, **values))

    @property
    def out_of_time(self) -> bool:
        return self.clock() - self.started > self.limits.max_seconds

    def next_leg(self, **resources: Any) -> Leg | None:
        """The next thing to train on a free slot, or None while there is nothing (more) to start."""
        if self.out_of_time or self.disk_full:
            return None
        trial = self._interrupted() or self._promotion() or self._new_trial()
        if trial is None:
            return None
        target = trial.leg_target
        assert target is not None, trial
        self.record(
            "leg_started", trial=trial.id, leg=trial.legs + 1, from_epoch=trial.last_epoch, to_epoch=target, **resources
        )
        config = self.space.base.with_values(trial.varied)
        leg = Leg(trial.id, trial.legs, config.to_dict(), trial.seed, target)
        self.running[trial.id] = leg
        return leg

    def _interrupted(self) -> Trial | None:
        """A trial whose leg was decided on and never ended, first created first."""
        for trial in self.state.trials.values():
            if trial.leg_target is not None and trial.id not in self.running:
                self._judge(trial)
                if trial.leg_target is not None:
                    return trial
        return None

    def _judge(self, trial: Trial) -> None:
        """Gives up a trial that was lost or failed too often."""
        if trial.losses >= MAX_LOSSES:
            reason = f"its worker died {trial.losses} times"
            self.record("leg_ended", trial=trial.id, outcome="infeasible", reason=reason)
        elif trial.retries > self.limits.max_failures:
            self.record("leg_ended", trial=trial.id, outcome="failed", reason=trial.reason)

    def _promotion(self) -> Trial | None:
        arrivals, promoted = self.state.arrivals, self.state.promoted
        rungs = [Rung(scores, gone) for scores, gone in zip(arrivals, promoted, strict=True)]
        promotion = self.scheduler.next_promotion(rungs)
        if promotion is None:
            return None
        trial, rung = promotion
        self.record("promoted", trial=trial, rung=rung, to_epoch=self.scheduler.levels[rung + 1])
        return self.state.trials[trial]

    def _new_trial(self) -> Trial | None:
        """The next configuration that is neither known nor impossible; trial 1 is the base."""
        searched = [t for t in self.state.trials.values() if t.role == "search"]
        if len(searched) >= self.limits.trials or self.exhausted:
            return None
        assert self.sampler is not None
        if not searched:
            return self._create({}, None, self.seed)
        for _ in range(MAX_BARREN_PROPOSALS):
            number = self.state.proposals + 1
            values = self.sampler.propose(number, self.state)
            if values is None:
                break
            self.record("proposal", number=number, values=values)
            try:
                config = self.space.config(values)
                self.check(config)
            except ConfigError as error:
                self.record("proposal_refused", number=number, reason=str(error))
                continue
            known = next((t for t in searched if t.config_hash == config.hash()), None)
            if known is not None:
                self.record("proposal_known", number=number, known_as=known.id)
                continue
            return self._create(values, number, self.seed)
        self.exhausted = True
        self.record("space_exhausted", after=len(searched))
        return None

    def _create(
        self, values: dict[str, Any], proposal: int | None, seed: int, role: str = "search", step: str = ""
    ) -> Trial:
        config = self.space.config(values)
        active = config.active_dict()
        varied = {name: active[name] for name in values if name in active}
        identity = trial_id(config, self.fingerprint, seed)
        self.record(
            "trial_created", trial=identity, role=role, config_hash=config.hash(), config=active,
            varied=varied, seed=seed, proposal=proposal, **({"step": step} if step else {}),
        )  # fmt: skip
        return self.state.trials[identity]

    def on_epoch(self, trial: str, result: dict[str, Any]) -> None:
        """An epoch's result from a running leg."""
        if result["epoch"] not in self.state.trials[trial].epochs:
            self.record("epoch", trial=trial, **result)

    def on_leg_end(self, trial: str, outcome: str, **details: Any) -> None:
        """A leg's end: reached, diverged, infeasible, error (of the code), lost (with its worker) or interrupted."""
        self.running.pop(trial, None)
        self.disk_full = self.disk_full or bool(details.get("disk_full"))
        self.record("leg_ended", trial=trial, outcome=outcome, **details)
        self._judge(self.state.trials[trial])

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return not self.running


class AblationEngine(Engine):
    """Trains every step of a chain on every seed, a whole chain after another; nothing is proposed or pruned."""

    def __init__(
        self,
        state: StudyState,
        journal: Journal,
        space: ResolvedSpace,
        steps: Sequence[ResolvedStep],
        scheduler: Scheduler,
        limits: Limits,
        fingerprint: str,
        seed: int,
    ) -> None:
        super().__init__(state, journal, space, None, scheduler, limits, fingerprint, seed)
        self.steps = steps

    def _new_trial(self) -> Trial | None:
        """The first step of the first seed that is not there yet."""
        created = {(trial.step, trial.seed) for trial in self.state.trials.values()}
        for seed in range(self.seed, self.seed + self.limits.trials // len(self.steps)):
            for step in self.steps:
                if (step.name, seed) not in created:
                    return self._create(step.values, None, seed, "ablation", step.name)
        return None


def trial_id(config: DetectorConfig, fingerprint: str, seed: int) -> str:
    """Eight hex digits of (consumed config, dataset, seed): the same trial anywhere has the same id."""
    return hashlib.sha256(f"{config.hash()} {fingerprint} {seed}".encode()).hexdigest()[:8]
