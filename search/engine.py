"""What happens next: try again, promote or propose, decided from the replayed journal alone.

The engine owns the journal. Whoever runs legs (Ray Tune in placement.py, simulated workers in simulation.py) asks
`next_leg` when a slot is free and hands back epochs and outcomes; every decision is on disk before it is returned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from detector.config import ConfigError, DetectorConfig
from detector.identity import distinct_id
from results.state import ON_RUNGS, StudyState, Trial
from results.tables import LONGER, base_of
from search.afterwards import (
    DEFAULT_TOP,
    best_of_search,
    missing_audit,
    missing_final,
    missing_finalist,
    missing_plain,
    missing_polish,
)
from search.failures import remedy_for
from search.known import KnownElsewhere
from search.rungs import Rung, Scheduler
from spaces.distributions import as_tuple
from spaces.space import ResolvedSpace

WITHDRAWN = "pruned by a user"
MAX_BARREN_PROPOSALS = 50  # known or impossible proposals in a row before the space counts as exhausted


class JournalLike(Protocol):
    """Where decisions are written before they are acted on."""

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        """Writes one record and returns it."""

    def group(self) -> AbstractContextManager[None]:
        """Inside, records may be written together at the end, before which nothing is acted on."""


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
    start_from: str = (
        ""  # a trial's folder, in this study's or whole: its checkpoint is begun with where this trial has none
    )
    longer_schedule: bool = False  # that checkpoint lies before the decay of a shorter schedule
    alone: bool = False  # nothing else may run on its device
    micro_batch: int | None = None
    probe: bool = False  # measures an epoch's seconds and trains nothing


@dataclass(frozen=True)
class Limits:
    """When a study has done enough."""

    trials: int
    max_seconds: float = math.inf
    max_failures: int = 1  # a leg that ends in an error of the code is run again this often
    seeds_final: int = 0  # fresh seeds for each of the `top` best
    top: int = DEFAULT_TOP
    audit: int = 0  # pruned trials to train to the end
    finalists: int = 0  # trials besides the base that are trained to the top at least; 0: neither they nor the base are
    polish: int = 0  # epochs of the winner's longer training; 0: none
    audit_base: bool = False  # train the base for as long as the whole study took
    micro_batches: bool = True  # whether the trainer can take a batch in parts


class Engine:
    """Decides for one study; `state` is always the replay of what the journal holds."""

    def __init__(
        self,
        state: StudyState,
        journal: JournalLike,
        space: ResolvedSpace,
        sampler: Sampler | None,
        scheduler: Scheduler,
        limits: Limits,
        fingerprint: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[DetectorConfig], None] = lambda config: None,
        warm_starts: Sequence[dict[str, Any]] = (),
        elsewhere: KnownElsewhere | None = None,
        seconds_levels: Sequence[float] = (),
    ) -> None:
        self.state, self.journal, self.space = state, journal, space
        self.sampler, self.scheduler, self.limits = sampler, scheduler, limits
        self.fingerprint, self.seed = fingerprint, seed
        self.clock, self.started = clock, clock()
        self.check = check  # raises ConfigError for a config that this dataset cannot train
        self.warm_starts = warm_starts  # values to try right after the base
        self.elsewhere = elsewhere or KnownElsewhere()
        self.seconds_levels = seconds_levels  # the rungs where the budget is in seconds
        self.running: dict[str, Leg] = {}  # by trial
        self.exhausted = False
        self.storage_trouble = ""  # what is wrong with where the study lives, as a worker found it
        self.storage_reason = ""  # which, and what it was told
        self.asked_to_stop = False
        # Indexes of the state, so that a decision costs the same after ten thousand trials as after ten.
        self.rungs: list[Rung] = []
        self.owed: dict[str, None] = {}  # trials whose leg was decided on and is not under way
        self.by_config: dict[str, str] = {}  # the search's trials by hash of their config
        self.counted = 0  # trials of the search that count against --trials
        self._index_rungs()
        for trial in state.trials.values():
            self._index_trial(trial)
            self._index_leg(trial)

    def record(self, event: str, **values: Any) -> None:
        """Journals an event, then takes it into the state and its indexes."""
        self.state.apply(self.journal.append(event, **values))
        if event == "levels_extended":
            self._index_rungs()
        trial = self.state.trials.get(values.get("trial", ""))
        if trial is None:
            return
        if event == "trial_created":
            self._index_trial(trial)
        elif event == "promoted":
            self.rungs[values["rung"]].promote(trial.id)
        elif event == "asked" and trial.rung >= 0 and trial.role in ON_RUNGS:
            if trial.id not in self.rungs[trial.rung].promoted:  # withdrawn: nobody promotes it any more
                self.rungs[trial.rung].promote(trial.id)
        elif event == "leg_ended" and values["outcome"] == "reached" and trial.role in ON_RUNGS:
            self.rungs[trial.rung].arrive(trial.id, self.state.arrivals[trial.rung][trial.id])
            if trial.id in self.state.promoted[trial.rung]:
                self.rungs[trial.rung].promote(trial.id)
        self._index_leg(trial)

    def _index_rungs(self) -> None:
        both = zip(self.state.arrivals, self.state.promoted, strict=True)
        self.rungs = [Rung(scores, promoted) for scores, promoted in both]

    def _index_trial(self, trial: Trial) -> None:
        if trial.role == "search":
            self.by_config[trial.config_hash] = trial.id
            self.counted += not (trial.reused or trial.of)

    def _index_leg(self, trial: Trial) -> None:
        if trial.leg_target is not None and trial.id not in self.running:
            self.owed[trial.id] = None
        else:
            self.owed.pop(trial.id, None)

    @property
    def out_of_time(self) -> bool:
        return self.clock() - self.started > self.limits.max_seconds

    @property
    def stopping(self) -> bool:
        """Whether nothing new may start, and legs end at their next epoch."""
        return self.out_of_time or bool(self.storage_trouble) or self.asked_to_stop

    def is_withdrawn(self, trial: str) -> bool:
        """Whether a user wants a trial to go no further."""
        known = self.state.trials.get(trial)
        return known is not None and known.withdrawn

    def next_leg(self, **resources: Any) -> Leg | None:
        """The next thing to train on a free slot, or None while there is nothing (more) to start."""
        while not self.stopping and not any(leg.alone for leg in self.running.values()):
            trial = (
                self._owed()
                or self._promotion()
                or self._restart()
                or self._new_trial()
                or self._finalist()
                or self._afterwards()
            )
            if trial is None:
                return None
            remedy = remedy_for(trial, self.limits.max_failures, self.limits.micro_batches)
            if remedy.alone and self.running:
                return None  # it waits for the device to be empty; what is owed comes first, so it will be
            if self._answered(trial):
                continue
            try:
                return self._start(trial, remedy.alone, remedy.micro_batch, resources)
            except ConfigError as error:  # a schedule of so few epochs as its seconds allow
                self.record("leg_ended", trial=trial.id, outcome="infeasible", reason=str(error))
        return None

    def _start(self, trial: Trial, alone: bool, micro_batch: int | None, resources: dict[str, Any]) -> Leg:
        assert trial.leg_target is not None, trial
        probe = bool(self.seconds_levels) and trial.seconds_per_epoch is None and trial.role not in LONGER
        config = self.space.base.with_values(trial.trained_fields)
        start_from, longer = self._start_from(trial)
        leg = Leg(
            trial.id, trial.legs + 1, config.to_dict(), trial.seed, trial.leg_target, start_from, longer, alone,
            micro_batch, probe,
        )  # fmt: skip
        special: dict[str, Any] = {
            name: getattr(leg, name) for name in ("alone", "micro_batch", "probe", "start_from") if getattr(leg, name)
        }
        from_epoch = trial.last_epoch
        source = self.state.trials.get(trial.of) if start_from else None
        if trial.checkpoint_dropped:
            from_epoch, special["repeated_epochs"] = 0, trial.last_epoch
        elif source is not None and not trial.epochs and source.has_dropped(longer):
            special["repeated_epochs"] = source.last_epoch  # what this one was to go on from is gone
        self.record(
            "leg_started", trial=trial.id, leg=leg.number, from_epoch=from_epoch, to_epoch=leg.to_epoch, **special,
            **resources,
        )  # fmt: skip
        self.running[trial.id] = leg
        self._index_leg(trial)
        return leg

    def _start_from(self, trial: Trial) -> tuple[str, bool]:
        """(the folder of a trial that this one goes on from, whether before the decay of its schedule)."""
        if trial.reused:
            return trial.reused, False
        extends = trial.role == "search" and bool(trial.of)
        if trial.role == "audit" or (extends and trial.config["schedule"] == "constant"):
            return f"trials/{trial.of}", extends
        return "", False

    def _owed(self) -> Trial | None:
        """A trial whose leg was decided on and is not under way, first created first."""
        for identity in sorted(self.owed, key=lambda owed: self.state.trials[owed].number):
            trial = self.state.trials[identity]
            self.judge(trial)
            if trial.leg_target is not None:
                return trial
        return None

    def judge(self, trial: Trial) -> None:
        """Ends a trial that failed too often, or that a user wants to go no further."""
        if trial.withdrawn and trial.leg_target is not None and trial.id not in self.running:
            self.record("leg_ended", trial=trial.id, outcome="withdrawn", reason=WITHDRAWN)
        remedy = remedy_for(trial, self.limits.max_failures, self.limits.micro_batches)
        if remedy.outcome and trial.leg_target is not None:
            self.record("leg_ended", trial=trial.id, outcome=remedy.outcome, reason=remedy.reason)

    def _promotion(self) -> Trial | None:
        promotion = self.scheduler.next_promotion(self.rungs)
        if promotion is None:
            return None
        trial, rung = self.state.trials[promotion[0]], promotion[1]
        self.record("promoted", trial=trial.id, rung=rung, to_epoch=trial.levels[rung + 1])
        return trial

    def extend(self, epochs: int) -> None:
        """Makes the study longer: one more rung on top, for which the best finished trials start again or go on."""
        finished = [t for t in best_of_search(self.state, len(self.by_config)) if t.outcome == "finished"]
        restart = [trial.id for trial in finished[: self.limits.top]]
        base = base_of(self.state)
        if self.limits.finalists and base is not None and base.outcome == "finished" and base.id not in restart:
            restart.append(base.id)  # what the winner is compared with, to the same length
        self.record("levels_extended", levels=[*self.state.levels, epochs], restart=restart)
        self.scheduler.levels = list(self.state.levels)

    def _restart(self) -> Trial | None:
        """A trial that is due to train to a longer study's top: its config with the longer schedule."""
        for identity in self.state.restarts:
            trial, top = self.state.trials[identity], self.state.levels[-1]
            config = self.space.base.with_values({**trial.config, "schedule_epochs": top})
            if config.hash() not in self.by_config:
                own = self._id(config, trial.seed)
                more = {"of": identity, "to_epoch": top}
                return self._add(
                    own, "search", config.hash(), config.active_dict(), trial.varied, trial.seed, None, more
                )
        return None

    def _new_trial(self) -> Trial | None:
        """The next configuration that is neither known nor impossible; trial 1 is the base, warm starts follow it."""
        if self.counted >= self.limits.trials + len(self.state.added):
            return None
        assert self.sampler is not None
        if not self.by_config:
            return self._create({}, None, self.seed)
        for values in self._untried_warm_starts():
            if self.space.config(values).hash() not in self.by_config:
                return self._create(values, None, self.seed)
        if self.exhausted:
            return None
        for _ in range(MAX_BARREN_PROPOSALS):
            number = self.state.proposals + 1
            values_or_none = self.sampler.propose(number, self.state)
            if values_or_none is None:
                break
            self.record("proposal", number=number, values=values_or_none)
            try:
                config = self.space.config(values_or_none)
                self.check(config)
            except ConfigError as error:
                self.record("proposal_refused", number=number, reason=str(error))
                continue
            known = self.by_config.get(config.hash())
            if known is not None:
                self.record("proposal_known", number=number, known_as=known)
                continue
            return self._create(values_or_none, number, self.seed)
        self.exhausted = True
        self.record("space_exhausted", after=len(self.by_config))
        return None

    def _untried_warm_starts(self) -> Sequence[dict[str, Any]]:
        """Those that no trial was made of yet; they are the trials, besides the base, that nobody proposed."""
        known = [*self.warm_starts, *({name: as_tuple(v) for name, v in added.items()} for added in self.state.added)]
        if not known:
            return ()
        return known[sum(t.proposal is None and not t.of for t in self.state.with_role("search")) - 1 :]

    def _create(
        self, values: dict[str, Any], proposal: int | None, seed: int, role: str = "search", step: str = ""
    ) -> Trial:
        config = self.space.config(values)
        active = config.active_dict()
        varied = {name: active[name] for name in values if name in active}
        reused = self.elsewhere.find(config.hash(), seed) if role == "search" else ""
        more = {name: value for name, value in (("step", step), ("reused", reused)) if value}
        return self._add(self._id(config, seed), role, config.hash(), active, varied, seed, proposal, more)  # fmt: skip

    def _repeat(self, trial: Trial, role: str, seed: int, top: int) -> Trial:
        """A trial of another role with the config of one that there is, trained to the top in one leg."""
        config = self.space.base.with_values(trial.config)
        identity = self._id(config, seed, "" if role == "final" else role)
        more: dict[str, Any] = {"of": trial.id, "to_epoch": top}
        return self._add(identity, role, trial.config_hash, trial.config, trial.varied, seed, None, more)

    def _id(self, config: DetectorConfig, seed: int, purpose: str = "") -> str:
        """The id of a new trial, which no other trial of this study has."""
        return trial_id(config, self.fingerprint, seed, purpose, self.state.trials)

    def _add(
        self, identity: str, role: str, config_hash: str, config: dict[str, Any], varied: dict[str, Any], seed: int,
        proposal: int | None, more: dict[str, Any],
    ) -> Trial:  # fmt: skip
        self.record(
            "trial_created", trial=identity, role=role, config_hash=config_hash, config=config, varied=varied, seed=seed,
            proposal=proposal, **more,
        )  # fmt: skip
        return self.state.trials[identity]

    def _finalist(self) -> Trial | None:
        """Once nothing is left to propose: the base, and the best besides, go on to the top rung by rung."""
        trial = missing_finalist(self.state, self.limits.finalists)
        if trial is not None:
            to_epoch = trial.levels[trial.rung + 1]
            self.record("promoted", trial=trial.id, rung=trial.rung, to_epoch=to_epoch, finalist=True)
        return trial

    def _afterwards(self) -> Trial | None:
        """Once the search is over: the best on fresh seeds, the winner's longer training, the base's, the audit of pruned trials."""
        if any(self.state.trials[trial].role == "search" for trial in self.running):
            return None
        final = missing_final(self.state, self.limits.seeds_final, self.limits.top, self.seed)
        if final is not None:
            trial, seed = final
            return self._repeat(trial, "final", seed, trial.levels[-1])
        longer = self._polish() or self._plain()
        if longer is not None or self._longer_is_due():
            return longer
        return self._audit()

    def _longer_is_due(self) -> bool:
        """Whether a longer training waits for what runs now: audits come after it."""
        if any(self.state.trials[trial].role in LONGER for trial in self.running):
            return True
        polish = self.limits.polish and missing_polish(self.state, self.limits.polish) is not None
        return bool(self.running) and bool(polish or (self.limits.audit_base and missing_plain(self.state) is not None))

    def _audit(self) -> Trial | None:
        audited = missing_audit(self.state, self.limits.audit, self.seed) if self.limits.audit else None
        return self._repeat(audited, "audit", audited.seed, audited.levels[-1]) if audited is not None else None

    def _polish(self) -> Trial | None:
        """The winner on a longer schedule, which is known once all fresh seeds have been trained."""
        if not self.limits.polish or self.running:
            return None
        best = missing_polish(self.state, self.limits.polish)
        return self._longer(best, "polish", self.limits.polish) if best is not None else None

    def _plain(self) -> Trial | None:
        """The base for as many worker-seconds as all before."""
        missing = missing_plain(self.state) if self.limits.audit_base and not self.running else None
        return self._longer(missing[0], "plain", missing[1]) if missing is not None else None

    def _longer(self, trial: Trial, role: str, epochs: int) -> Trial:
        """A trial of another role with the config of one that there is on a longer schedule, from its start."""
        config = self.space.base.with_values({**trial.config, "schedule_epochs": epochs})
        more: dict[str, Any] = {"of": trial.id, "to_epoch": epochs, "levels": [epochs]}
        return self._add(
            self._id(config, trial.seed, role), role, config.hash(), config.active_dict(), trial.varied, trial.seed, None, more
        )  # fmt: skip

    def _answered(self, trial: Trial) -> bool:
        """Whether another study's journal answered the leg that a trial owes: then nothing has to be trained."""
        target = trial.leg_target
        known = self.elsewhere.epochs(trial)
        if target is None or any(epoch not in known for epoch in range(1, target + 1)):
            return False
        for epoch in range(trial.last_epoch + 1, target + 1):
            self.record("epoch", trial=trial.id, **{**known[epoch], "taken_over": True})
        self.record("leg_ended", trial=trial.id, outcome="reached", reason=f"known from {trial.reused}")
        return True

    def on_epoch(self, trial: str, result: dict[str, Any]) -> None:
        """An epoch's result from a running leg."""
        known = self.state.trials[trial]
        if result["epoch"] in known.epochs:
            return
        source = self.state.trials.get(known.of)
        trained_before = source.epochs if source is not None else self.elsewhere.epochs(known)
        if result.get("absorbed") and result["epoch"] in trained_before:
            result = {**result, "taken_over": True}
        self.record("epoch", trial=trial, **result)

    def on_leg_end(self, trial: str, outcome: str, **details: Any) -> None:
        """A leg's end: reached, diverged, out_of_memory, error (of the code), lost (with its worker), interrupted, probed."""
        self.running.pop(trial, None)
        if details.get("storage_trouble") and not self.storage_trouble:
            self.storage_trouble, self.storage_reason = details["storage_trouble"], details.get("reason", "")
        self.record("leg_ended", trial=trial, outcome=outcome, **details)
        if outcome == "probed":
            levels = epochs_of_seconds(self.seconds_levels, details["seconds_per_epoch"])
            self.record("trial_probed", trial=trial, seconds_per_epoch=details["seconds_per_epoch"], levels=levels)
        self.judge(self.state.trials[trial])

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return not self.running


def epochs_of_seconds(levels: Sequence[float], seconds_per_epoch: float) -> list[int]:
    """Rungs in seconds as whole epochs of a trial's own speed, each at least one more than the one below."""
    epochs: list[int] = []
    for level in levels:
        epochs.append(max(epochs[-1] + 1 if epochs else 1, round(level / seconds_per_epoch)))
    return epochs


def trial_id(
    config: DetectorConfig, fingerprint: str, seed: int, purpose: str = "", taken: Collection[str] = ()
) -> str:
    """Twelve hex digits of (consumed config, dataset, seed), more where `taken` has those: the same trial has the same id anywhere.

    `purpose` parts a trial that is trained again for another reason (an audit) from the one that it repeats.
    """
    return distinct_id(f"{config.hash()} {fingerprint} {seed} {purpose}".rstrip(), taken)
