"""Who proposes: Optuna's TPE, random and grid, each shown a view of the study that is made from the journal.

The view (see docs/architecture.md): a trial that reached the top rung is COMPLETE; one that stopped below is PRUNED
with its intermediate values; one in a leg is RUNNING; a diverged one is PRUNED with value 0. Optuna refuses to change
a trial that was told PRUNED, and a paused trial may still be promoted, so the view is rebuilt for every proposal.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from results.state import StudyState, Trial
from search.engine import Sampler
from spaces.distributions import Choice, Distribution, Float, When, as_tuple
from spaces.space import ResolvedSpace

SAMPLERS = ("tpe", "random", "grid")
STARTUP_TRIALS = 8  # proposals before TPE has something to learn from; together a screening design
CANDIDATES = 60  # random columns to choose each column of the design from
NEWEST_SHOWN, BEST_SHOWN = 1000, 100  # TPE's time grows with its history; this keeps a proposal under 30 ms
GRID_POINTS = 3  # values per numeric field


def make_sampler(name: str, space: ResolvedSpace, seed: int, metric: str) -> Sampler:
    """A sampler by name: tpe, random or grid."""
    if name == "grid":
        return GridSampler(space, seed)
    return OptunaSampler(name, space, seed, metric)


class OptunaSampler:
    """TPE or random search by Optuna; its random state comes from (study seed, number of the proposal) alone.

    TPE's first proposals are a screening design around the base: in a study of 16 trials, independent draws leave one
    of two options untried in the first eight far too often.
    """

    def __init__(self, kind: str, space: ResolvedSpace, seed: int, metric: str) -> None:
        self.kind, self.space, self.seed, self.metric = kind, space, seed, metric

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        if self.kind == "tpe" and number <= STARTUP_TRIALS:
            return draw(self.space.fields, screening(self.seed, self.space, number - 1))
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = proposal_seed(self.seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.kind == "random":
                sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
            else:
                sampler = optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS // 2, multivariate=True, group=True, constant_liar=True
                )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            if self.kind != "random":
                study.add_trials([self._as_optuna(trial, state) for trial in shown_trials(state)])
            trial = study.ask()
            return draw(self.space.fields, lambda name, entry: _suggest(trial, name, entry))

    def _as_optuna(self, trial: Trial, state: StudyState) -> Any:
        """One of our trials as Optuna is shown it."""
        from optuna.distributions import BaseDistribution
        from optuna.trial import TrialState, create_trial

        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        values = {name: trial.config.get(name) for name in self.space.fields if name in trial.config}
        for name, entry in self.space.fields.items():
            label, concrete = _concrete(name, entry, values)
            value = as_tuple(values.get(name))
            if concrete is not None and value is not None and concrete.contains(value):
                params[label] = _to_parameter(concrete, value)
                distributions[label] = _to_distribution(concrete)
        intermediate = {
            epoch: score for epoch in sorted(trial.epochs) if not math.isnan(score := trial.score(self.metric, epoch))
        }
        if trial.outcome in ("diverged", "failed", "infeasible"):
            intermediate, told, value = {0: 0.0}, TrialState.PRUNED, 0.0
        elif trial.outcome == "finished":
            told, value = TrialState.COMPLETE, trial.ranked_score(self.metric)
            value = 0.0 if math.isnan(value) else value
        elif trial.leg_target is not None:
            told, value = TrialState.RUNNING, None
        else:
            told, value = TrialState.PRUNED, None
        return create_trial(
            state=told, value=value, params=params, distributions=distributions, intermediate_values=intermediate
        )


def screening(study_seed: int, space: ResolvedSpace, position: int) -> Callable[[str, Distribution], Any]:
    """Draws the values of proposal `position` of a screening design of STARTUP_TRIALS around the base.

    Every field keeps the base's value in half of the proposals; in the others it is drawn from a Latin hypercube
    (McKay et al. 1979): its range is cut into as many strata, each used once. Which half is the field's own. A base is
    better than most of its space; with twenty fields drawn at once, eight trials would show little but that.
    """
    orders = design_orders(study_seed, tuple(labels(space.fields)))
    base = space.base.to_dict()
    strata = STARTUP_TRIALS // 2

    def value(label: str, entry: Distribution) -> Any:
        kept = as_tuple(base[label.partition(" | ")[0]])
        stratum = orders[label][position] - strata
        if stratum < 0:
            if entry.contains(kept):
                return kept
            stratum += strata  # what the base does not have (the other optimizer's lr) has nothing to keep
        share = (stratum + random.Random(f"{study_seed}/{label}/{position}").random()) / strata
        if isinstance(entry, Float):
            return entry.at(share)
        if isinstance(entry, Choice):
            return entry.options[int(share * len(entry.options))]
        return entry.low + int(share * (entry.high - entry.low + 1))

    return value


def labels(fields: Mapping[str, Distribution | When]) -> list[str]:
    """The sampler's label of every field, one per case where it is conditional."""
    found = []
    for name, entry in fields.items():
        found += [f"{name} | {entry.field}={case}" for case in entry.cases] if isinstance(entry, When) else [name]
    return found


@functools.cache
def design_orders(study_seed: int, names: tuple[str, ...]) -> dict[str, list[int]]:
    """The order of strata of every label, each chosen among CANDIDATES to go together least with those before it.

    With eight proposals two independent columns often coincide (every trial of one optimizer with one loss), and then
    nothing can be learned about either.
    """
    rng = random.Random(f"{study_seed}/design")
    orders: dict[str, list[int]] = {}
    for name in names:
        candidates = [rng.sample(range(STARTUP_TRIALS), STARTUP_TRIALS) for _ in range(CANDIDATES)]
        orders[name] = min(
            candidates, key=lambda order: sum(_agreement(order, other) ** 4 for other in orders.values())
        )
    return orders


def _agreement(a: list[int], b: list[int]) -> int:
    """How far the upper halves of two columns coincide (or exclude each other): 0 .. STARTUP_TRIALS."""
    middle = STARTUP_TRIALS // 2
    return abs(sum(1 if (x >= middle) == (y >= middle) else -1 for x, y in zip(a, b, strict=True)))


def shown_trials(state: StudyState) -> list[Trial]:
    """The trials that TPE sees, in order of creation: the newest 1 000 and the best 100."""
    trials = [trial for trial in state.trials.values() if trial.role == "search"]
    if len(trials) <= NEWEST_SHOWN + BEST_SHOWN:
        return trials
    older, newest = trials[:-NEWEST_SHOWN], trials[-NEWEST_SHOWN:]
    score = {t.id: t.ranked_score(state.metric) for t in older}
    best = sorted(older, key=lambda t: (-t.rung, -score[t.id] if not math.isnan(score[t.id]) else math.inf))[
        :BEST_SHOWN
    ]
    return sorted(best, key=lambda t: t.number) + newest


class GridSampler:
    """Every combination of the fields' grids once, in an order that the study seed shuffles."""

    def __init__(self, space: ResolvedSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self._order: list[dict[str, Any]] | None = None

    def propose(self, number: int, state: StudyState) -> dict[str, Any] | None:
        if self._order is None:
            self._order = grid(self.space.fields)
            random.Random(self.seed).shuffle(self._order)
        return self._order[number - 1] if number <= len(self._order) else None


def grid_size(fields: Mapping[str, Distribution | When]) -> int:
    """An upper bound of the combinations in a grid (conditional fields counted as if always on)."""
    size = 1
    for entry in fields.values():
        options = list(entry.cases.values()) if isinstance(entry, When) else [entry]
        size *= max(len(option.grid(GRID_POINTS)) for option in options)
    return size


def grid(fields: Mapping[str, Distribution | When]) -> list[dict[str, Any]]:
    """All combinations; a field whose condition fails takes no value.

    Raises: ValueError where there are more than a million.
    """
    if grid_size(fields) > 1_000_000:
        raise ValueError(
            f"--sampler grid would have {grid_size(fields):,} combinations; search fewer fields (--set field=value fixes one)"
        )
    combinations: list[dict[str, Any]] = [{}]
    for name, entry in sorted(fields.items(), key=lambda item: isinstance(item[1], When)):
        grown = []
        for values in combinations:
            _, concrete = _concrete(name, entry, values)
            points = concrete.grid(GRID_POINTS) if concrete is not None else []
            grown += [{**values, name: point} for point in points] or [values]
        combinations = grown
    return combinations


def draw(fields: Mapping[str, Distribution | When], suggest: Any) -> dict[str, Any]:
    """Values for all fields whose condition holds; conditions are drawn before what depends on them."""
    values: dict[str, Any] = {}
    for name, entry in itertools.chain(
        ((n, e) for n, e in fields.items() if not isinstance(e, When)),
        ((n, e) for n, e in fields.items() if isinstance(e, When)),
    ):
        label, concrete = _concrete(name, entry, values)
        if concrete is not None:
            values[name] = suggest(label, concrete)
    return values


def _concrete(name: str, entry: Distribution | When, values: Mapping[str, Any]) -> tuple[str, Distribution | None]:
    """(the sampler's label, the distribution) of a field under the values of the fields that it depends on."""
    if not isinstance(entry, When):
        return name, entry
    case = values.get(entry.field)
    return f"{name} | {entry.field}={case}", entry.cases.get(case)


def _suggest(trial: Any, label: str, entry: Distribution) -> Any:
    if isinstance(entry, Float):
        return trial.suggest_float(label, entry.low, entry.high, log=entry.log)
    if isinstance(entry, Choice):
        return entry.options[trial.suggest_categorical(label, list(range(len(entry.options))))]
    return trial.suggest_int(label, entry.low, entry.high)


def _to_distribution(entry: Distribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(entry, Float):
        return FloatDistribution(entry.low, entry.high, log=entry.log)
    if isinstance(entry, Choice):
        return CategoricalDistribution(tuple(range(len(entry.options))))
    return IntDistribution(entry.low, entry.high)


def _to_parameter(entry: Distribution, value: Any) -> Any:
    if isinstance(entry, Choice):
        return entry.options.index(value)
    return min(entry.high, max(entry.low, value)) if isinstance(entry, Float) else value


def proposal_seed(study_seed: int, number: int) -> int:
    """A seed for one proposal, the same after a resume."""
    return random.Random(f"{study_seed}/{number}").getrandbits(32)
