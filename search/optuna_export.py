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


def _entries(state: StudyState, space: ResolvedSpace, objectives: Sequence[str]) -> list[Any]:
    """The search's trials with readable options, their times, and what they are called here."""
    from optuna.distributions import CategoricalDistribution

    view = View(space.fields, objectives)
    entries = []
    for trial in view.shown(state):  # of ten thousand trials the dashboard gets those that a sampler would see
        entry = view.entry(trial, state)
        for field in list(entry.params):
            value = trial.config.get(field)
            if isinstance(entry.distributions[field], CategoricalDistribution):
                options = [str(option) for option in space.fields[field].options]  # type: ignore[union-attr]
                entry.distributions[field] = CategoricalDistribution(options)
                entry.params[field] = options[entry.params[field]]
            elif value is None:
                del entry.params[field], entry.distributions[field]
        times = [record["time"] for record in trial.epochs.values()]
        start = min(times, default=0.0) - (trial.epochs[min(trial.epochs)]["seconds"] if times else 0.0)
        entry.datetime_start = datetime.datetime.fromtimestamp(start)
        if entry.state.is_finished():
            entry.datetime_complete = datetime.datetime.fromtimestamp(max(times, default=start))
        entry.user_attrs.update({"trial": trial.id, "state": state.final_state(trial), "config": trial.config_hash})
        entries.append(entry)
    return entries
