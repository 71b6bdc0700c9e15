"""Simulated workers: the very engine and sampler of a study, over curves instead of training, in simulated time."""

from __future__ import annotations

import heapq
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from results.state import StudyState
from search.curves import Curves
from search.engine import Engine, Leg, Limits, Sampler
from search.rungs import make_scheduler, rung_levels
from search.sampler import make_sampler

FINGERPRINT = "simulated"


class MemoryJournal:
    """A journal that is kept in memory, with simulated times."""

    def __init__(self) -> None:
        self.now = 0.0

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        return {"event": event, "time": self.now, **values}

    def group(self) -> AbstractContextManager[None]:
        return nullcontext()


class PoolSampler:
    """What another sampler proposes, moved to the nearest configuration that has a curve; the sampler is told that one."""

    def __init__(self, inner: Sampler, curves: Curves) -> None:
        self.inner, self.curves = inner, curves
        self.used: set[str] = set()

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        values = self.inner.propose(number, state)
        if values is None:
            return None
        return self.curves.nearest_unused(values, self.used)


@dataclass
class Outcome:
    """How a simulated study went."""

    busy_seconds: float  # of all workers together, over the whole study
    to_target: float  # busy seconds until a config as good as the target was trained to the top; inf where none was
    best: float  # the best final score that was trained to the top, NaN where none was
    epochs: int
    trials: int
    state: StudyState = field(compare=False)
    decision_seconds: list[float] = field(default_factory=list)  # wall time of each decision, where asked for


def simulate_study(
    curves: Curves,
    *,
    scheduler: str,
    sampler: str,
    workers: int,
    seed: int,
    trials: int,
    grace: int = 1,
    eta: int = 3,
    clock: Any = None,
) -> Outcome:
    """One study, from its first proposal until nothing is left to do. `clock` times the decisions."""
    levels = rung_levels(grace, curves.epochs, eta)
    plan = make_scheduler(scheduler, levels[-1:] if scheduler == "none" else levels, eta)
    journal = MemoryJournal()
    state = StudyState("mAP", plan.levels)
    proposer = PoolSampler(make_sampler(sampler, curves.space, seed, ["mAP"], scheduler), curves)
    engine = Engine(
        state, journal, curves.space, proposer, plan, Limits(trials), FINGERPRINT, seed, clock=lambda: journal.now
    )
    return _Run(engine, journal, curves, workers, clock, proposer.used).run()


class _Run:
    """The workers of one simulated study."""

    def __init__(
        self, engine: Engine, journal: MemoryJournal, curves: Curves, workers: int, clock: Any, used: set[str]
    ) -> None:
        self.engine, self.journal, self.curves, self.workers, self.clock = engine, journal, curves, workers, clock
        self.used = used
        self.under_way: list[tuple[float, int, float, Leg, int]] = []  # (end, order, start, leg, last epoch)
        self.ended_seconds, self.epochs, self.order = 0.0, 0, 0
        self.known: dict[str, Any] = {}  # curve by trial

    def run(self) -> Outcome:
        """Gives legs to free workers, ends the earliest, until the engine has nothing left."""
        to_target, best, timings = math.inf, math.nan, []
        while True:
            while len(self.under_way) < self.workers:
                started = self.clock() if self.clock else 0.0
                leg = self.engine.next_leg()
                if self.clock:
                    timings.append(self.clock() - started)
                if leg is None:
                    break
                self._begin(leg)
            if not self.under_way:
                break
            final = self._end_earliest()
            if final is not None:
                best = final if math.isnan(best) else max(best, final)
                if final >= self.curves.target and math.isinf(to_target):
                    to_target = self._busy_seconds()
        return Outcome(
            self.ended_seconds, to_target, best, self.epochs, len(self.engine.by_config), self.engine.state, timings
        )

    def _begin(self, leg: Leg) -> None:
        trial = self.engine.state.trials[leg.trial]
        self.used.add(trial.config_hash)
        if leg.trial not in self.known:
            self.known[leg.trial] = self.curves.curve(trial.config_hash, trial.varied)
        curve = self.known[leg.trial]
        last = min(leg.to_epoch, len(curve.scores))
        seconds = sum(curve.seconds[trial.last_epoch : last])
        self.order += 1
        heapq.heappush(self.under_way, (self.journal.now + seconds, self.order, self.journal.now, leg, last))

    def _end_earliest(self) -> float | None:
        """Hands one leg's epochs and end to the engine; returns the final score where it was the trial's last."""
        end, _, start, leg, last = heapq.heappop(self.under_way)
        self.journal.now = end
        self.ended_seconds += end - start
        trial, curve = self.engine.state.trials[leg.trial], self.known[leg.trial]
        for epoch in range(trial.last_epoch + 1, last + 1):
            self.epochs += 1
            self.engine.on_epoch(leg.trial, _report(epoch, curve.scores[epoch - 1], curve.seconds[epoch - 1]))
        self.engine.on_leg_end(leg.trial, "reached" if last == leg.to_epoch else curve.ended)
        return curve.scores[-1] if trial.outcome == "finished" else None

    def _busy_seconds(self) -> float:
        """What all workers have spent up to now, unfinished legs included."""
        return self.ended_seconds + sum(self.journal.now - start for _, _, start, _, _ in self.under_way)


def _report(epoch: int, score: float, seconds: float) -> dict[str, Any]:
    return {"epoch": epoch, "metrics": {"mAP": score}, "per_class": {}, "seconds": seconds}
