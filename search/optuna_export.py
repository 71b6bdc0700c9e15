"""The study as Optuna's own database, for optuna-dashboard; written for people, never read by us."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.pareto import MINIMISED
from results.state import StudyState
from search.optuna_samplers import View
from search.shown import Shown
from spaces.distributions import Choice, Distribution, Float, When, as_tuple
from spaces.space import ResolvedSpace

DATABASE = "optuna.db"


def write_optuna_database(
    folder: Path, name: str, state: StudyState, space: ResolvedSpace, objectives: Sequence[str]
) -> Path:
    """optuna.db in the study's folder: `optuna-dashboard sqlite:///<folder>/optuna.db`. Replaces an older one whole."""
    import optuna
    from sqlalchemy.pool import NullPool

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    unfinished = folder / f"{DATABASE}.unfinished"
    unfinished.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = optuna.storages.RDBStorage(f"sqlite:///{unfinished}", engine_kwargs={"poolclass": NullPool})
        directions: list[Any] = ["minimize" if objective in MINIMISED else "maximize" for objective in objectives]
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        study.set_metric_names(list(objectives))
        study.add_trials(_entries(state, space, objectives))
    unfinished.replace(folder / DATABASE)
    return folder / DATABASE


def _readable(entry: Distribution | When, value: Any) -> tuple[Any, Any] | None:
    """(value, distribution) of a choice or a conditional field as people read it; None where the view's own is."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    cases = list(entry.cases.values()) if isinstance(entry, When) else [entry]
    options = [str(option) for case in cases if isinstance(case, Choice) for option in case.options]
    if options:
        return str(value), CategoricalDistribution(list(dict.fromkeys([*options, str(value)])))
    if not isinstance(entry, When):
        return None
    ranges = [case for case in cases if not isinstance(case, Choice)]
    low, high = min(case.low for case in ranges), max(case.high for case in ranges)
    log = all(isinstance(case, Float) and case.log for case in ranges)
    return min(high, max(low, float(value))), FloatDistribution(low, high, log=log)


def _entries(state: StudyState, space: ResolvedSpace, objectives: Sequence[str]) -> list[Any]:
    """The search's trials with readable options, their times, and what they are called here."""
    view = View(space.fields, objectives)
    entries = []
    for trial in Shown().of(state):  # of ten thousand trials the dashboard gets those that a sampler would see
        entry = view.entry(trial, state)
        for field in list(entry.params):
            value = trial.config.get(field)
            if value is None:  # its condition does not hold: the view has it at the middle
                del entry.params[field], entry.distributions[field]
                continue
            readable = _readable(space.fields[field], as_tuple(value))
            if readable is not None:
                entry.params[field], entry.distributions[field] = readable
        times = [record["time"] for record in trial.epochs.values()]
        start = min(times, default=0.0) - (trial.epochs[min(trial.epochs)]["seconds"] if times else 0.0)
        entry.datetime_start = datetime.datetime.fromtimestamp(start)
        if entry.state.is_finished():
            entry.datetime_complete = datetime.datetime.fromtimestamp(max(times, default=start))
        entry.user_attrs.update({"trial": trial.id, "state": state.final_state(trial), "config": trial.config_hash})
        entries.append(entry)
    return entries
