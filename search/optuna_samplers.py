"""Optuna's samplers, each shown a view of the study that is made from the journal.

The view (see docs/architecture.md): a trial that reached the top rung is COMPLETE; one that stopped below is PRUNED
with its intermediate values; one in a leg is RUNNING; a diverged one is PRUNED with value 0; an infeasible one is PRUNED
with a violated constraint. Optuna refuses to change a trial that was told PRUNED, and a paused trial may still be
promoted, so an entry of the view is replaced when its trial has changed, never told.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import importlib.util
import math
import random
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from results.pareto import MINIMISED, objective_values
from results.state import StudyState, Trial
from search.screening import STARTUP_TRIALS, screening
from search.shown import Shown
from spaces.distributions import Choice, Distribution, Float, When, as_tuple, concrete, draw
from spaces.space import ResolvedSpace

OPTUNA_SAMPLERS = ("tpe", "gp", "nsga2", "cmaes")
MIDDLE = 0.5  # where a conditional field stands that a trial does not have
POPULATION = 10  # NSGA-II's trials a generation
GENERATION, CONSTRAINTS = "NSGAIISampler:generation", "constraints"  # where Optuna's samplers look for them
EPOCH = datetime.datetime(1970, 1, 1)  # Optuna wants a date that nothing of ours depends on


def why_unfit(name: str, scheduler: str) -> str:
    """Why one of Optuna's samplers cannot serve under this scheduler; "" where it can."""
    if name == "tpe":
        return ""
    if name == "cmaes":
        return "Optuna keeps its state in pickles between trials, which no journal of ours carries or loads"
    if scheduler != "none":
        return f"it learns only from trials that were trained to the end, and --scheduler {scheduler} ends most before"
    if name == "gp" and importlib.util.find_spec("scipy") is None:
        return "it needs scipy, which is not installed"
    return ""


class OptunaSampler:
    """TPE, GP or NSGA-II by Optuna; its random state comes from (study seed, number of the proposal) alone.

    TPE's first proposals are a screening design around the base: in a study of 16 trials, independent draws leave one
    of two options untried in the first eight far too often.
    """

    def __init__(self, kind: str, space: ResolvedSpace, seed: int, objectives: Sequence[str]) -> None:
        self.kind, self.space, self.seed, self.objectives = kind, space, seed, tuple(objectives)
        self.shown, self.view = Shown(), View(space.fields, self.objectives)

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        if self.kind == "tpe" and number <= STARTUP_TRIALS:
            return draw(self.space.fields, screening(self.seed, self.space, number - 1))
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            directions: list[Any] = ["minimize" if name in MINIMISED else "maximize" for name in self.objectives]
            storage = self.view.storage(self.shown.of(state), state)
            sampler = self._sampler(proposal_seed(self.seed, number))
            study = optuna.create_study(directions=directions, sampler=sampler, storage=storage)
            trial = study.ask()
            folded = {name for name, entry in self.space.fields.items() if isinstance(entry, When)}
            return draw(self.space.fields, lambda label, entry: suggest(trial, label, entry, folded))

    def _sampler(self, seed: int) -> Any:
        from optuna.samplers import GPSampler, NSGAIISampler, TPESampler

        space, rows = self.view.searched, self.view.rows

        if self.kind == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        if self.kind == "nsga2":
            return NSGAIISampler(seed=seed, population_size=POPULATION)

        _take_normal_tails_from_scipy()

        class Tpe(TPESampler):
            """Told its space: finding it out from a thousand trials takes longer than sampling from it."""

            def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
                return space

            def _get_internal_repr(self, trials: Any, search_space: Any, study: Any) -> Any:
                """The same numbers as Optuna's own, made once a trial; should Optuna drop it, nobody calls this."""
                if list(search_space) != list(space):
                    return super()._get_internal_repr(trials, search_space, study)
                told = [rows[trial.number] for trial in trials if trial.number in rows]
                table = np.array(told, dtype=np.float64).reshape(len(told), len(space))
                return {name: table[:, column] for column, name in enumerate(space)}

        return Tpe(seed=seed, n_startup_trials=STARTUP_TRIALS // 2, multivariate=True, constant_liar=True)


@functools.cache
def _take_normal_tails_from_scipy() -> None:
    """Optuna's TPE works out the logarithm of the normal distribution value by value in Python; scipy's is the same in C.

    About a seventh of a proposal's time where the history is long; an Optuna that has moved it stays as it is.
    """
    from scipy.special import log_ndtr

    with contextlib.suppress(ImportError):
        tails: Any = importlib.import_module("optuna.samplers._tpe._truncnorm")
        if hasattr(tails, "_log_ndtr"):
            tails._log_ndtr = log_ndtr


class View:
    """The study's trials as Optuna's own, each made once and again only when it has changed."""

    def __init__(self, fields: Mapping[str, Distribution | When], objectives: Sequence[str]) -> None:
        self.fields, self.objectives = fields, objectives
        self.distributions = {name: to_distribution(entry) for name, entry in sorted(fields.items())}
        # A range of one value is no dimension: its density is no number.
        self.searched = {name: entry for name, entry in self.distributions.items() if not entry.single()}
        self.rows: dict[int, list[float]] = {}  # Optuna's own numbers of every trial that has all fields, by its number
        self._made: dict[str, tuple[tuple[Any, ...], Any]] = {}  # by trial: (what it was made from, the entry)

    def storage(self, trials: Sequence[Trial], state: StudyState) -> Any:
        """An Optuna storage that holds these trials and takes one more."""
        from optuna.storages import InMemoryStorage

        entries = [self.entry(trial, state) for trial in trials]
        by_states: dict[Any, list[Any]] = {}

        class Shown(InMemoryStorage):
            """Ours in front of what Optuna adds; told in one piece, since add_trial copies each deeply."""

            def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
                states = None if states is None else tuple(states)
                if states not in by_states:
                    by_states[states] = [entry for entry in entries if states is None or entry.state in states]
                return by_states[states] + super().get_all_trials(study_id, deepcopy, states)

        return Shown()

    def entry(self, trial: Trial, state: StudyState) -> Any:
        """One of our trials as Optuna is shown it."""
        version = (trial.outcome, trial.leg_target, len(trial.epochs), trial.rung)
        made = self._made.get(trial.id)
        if made is None or made[0] != version:
            self._made[trial.id] = made = (version, self._make(trial, state))
        return made[1]

    def _make(self, trial: Trial, state: StudyState) -> Any:
        from optuna.trial import FrozenTrial, TrialState

        parameters = self._parameters(trial)
        distributions = {name: self.distributions[name] for name in parameters}
        if self.searched.keys() <= parameters.keys():
            self.rows[trial.number] = [d.to_internal_repr(parameters[name]) for name, d in self.searched.items()]
        intermediate = {
            epoch: score for epoch in sorted(trial.epochs) if not math.isnan(score := trial.score(state.metric, epoch))
        }
        attributes: dict[str, Any] = {GENERATION: (trial.number - 1) // POPULATION}
        values: list[float] | None = None
        if trial.outcome in ("diverged", "failed", "infeasible"):
            intermediate, told = {0: 0.0}, TrialState.PRUNED
            values = [0.0] if len(self.objectives) == 1 else None
            if trial.outcome == "infeasible":
                attributes[CONSTRAINTS] = (1.0,)
        elif trial.outcome == "finished":
            told, values = TrialState.COMPLETE, self._values(trial, state)
        else:
            told = TrialState.RUNNING if trial.leg_target is not None else TrialState.PRUNED
        if len(self.objectives) > 1:
            intermediate = {}  # Optuna knows no pruning of several objectives
        return FrozenTrial(
            number=trial.number, trial_id=trial.number, state=told, value=None, values=values, datetime_start=EPOCH,
            datetime_complete=EPOCH if told.is_finished() else None, params=parameters, distributions=distributions,
            user_attrs={}, system_attrs=attributes, intermediate_values=intermediate,
        )  # fmt: skip

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        """A trial's values as Optuna's parameters; a base may have an option that the space does not offer."""
        values = {name: as_tuple(trial.config[name]) for name in self.fields if name in trial.config}
        parameters = {name: to_parameter(name, entry, values) for name, entry in self.fields.items()}
        return {name: value for name, value in parameters.items() if value is not None}

    def _values(self, trial: Trial, state: StudyState) -> list[float]:
        """The objectives of a finished trial at its ranked epoch; what is missing counts as worst."""
        if len(self.objectives) == 1:
            score = trial.ranked_score(self.objectives[0])
            return [0.0 if math.isnan(score) else score]
        values = objective_values(state, trial, self.objectives)
        worst = [math.inf if name in MINIMISED else 0.0 for name in self.objectives]
        return [bad if math.isnan(value) else value for value, bad in zip(values, worst, strict=True)]


def suggest(trial: Any, label: str, entry: Distribution, folded: Container[str]) -> Any:
    """A value of a distribution from an Optuna trial that was asked for."""
    name = label.partition(" | ")[0]
    if name in folded:
        return entry.at(trial.suggest_float(name, 0.0, 1.0))
    if isinstance(entry, Float):
        high = entry.quantised(entry.high)
        return entry.quantised(trial.suggest_float(name, entry.low, high, log=entry.log, step=entry.step))
    if isinstance(entry, Choice):
        return entry.options[trial.suggest_categorical(name, list(range(len(entry.options))))]
    return trial.suggest_int(name, entry.low, entry.high)


def to_distribution(entry: Distribution | When) -> Any:
    """A field as Optuna's own distribution: choices by their number, conditional fields by their share of the range.

    Folded into shares, a conditional space has the same dimensions in every trial: TPE then models the learning rate
    together with its optimizer (with group=True it would model each case apart from everything else).
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(entry, When):
        return FloatDistribution(0.0, 1.0)
    if isinstance(entry, Float):
        return FloatDistribution(entry.low, entry.quantised(entry.high), log=entry.log, step=entry.step)
    if isinstance(entry, Choice):
        return CategoricalDistribution(tuple(range(len(entry.options))))
    return IntDistribution(entry.low, entry.high)


def to_parameter(name: str, entry: Distribution | When, values: Mapping[str, Any]) -> Any:
    """A field's value as Optuna's parameter, the nearest there is; None for an option that the space does not offer."""
    value = values.get(name)
    if isinstance(entry, When):
        _, found = concrete(name, entry, values)
        if found is None or value is None or (isinstance(found, Choice) and value not in found.options):
            return MIDDLE
        return found.share(value)
    if isinstance(entry, Choice):
        return entry.options.index(value) if value in entry.options else None
    return None if value is None else entry.at(entry.share(value))


def proposal_seed(study_seed: int, number: int) -> int:
    """A seed for one proposal, the same after a resume."""
    return random.Random(f"{study_seed}/{number}").getrandbits(32)
