"""`search.ablate --path base best` and `--leave-one-out`: which of the changes between two configurations earned the gain.

The order comes from the surrogate of the study that found them (results/path.py); what it expects to matter is trained
step by step, the rest in one step at the end. On the study's data, at its full budget, on seeds that it has not used.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detector.config import ConfigError, DetectorConfig
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource
from results.ablation import FIRST
from results.importance import Importance
from results.path import PathStep, ablation_path, changed_fields, that_matter, together
from results.records import PLAN_NAME, JournalError, read_plan
from results.state import StudyState, read_study
from results.tables import configurations, winner
from search.ablation_plan import settled
from search.dataset import config_check
from search.given import Given
from search.options import Options, StudyError, changes_of_file, check_choices, parse_set_fields
from search.storage.data import source_here
from spaces.chain import Reported, ResolvedStep
from spaces.distributions import as_tuple
from spaces.space import ResolvedSpace

BASE, BEST = "base", "best"
SHARE_THAT_MATTERS = 0.05  # of all predicted gains: a change that is to bring less is trained with the rest
MOST_NAMED = 3  # fields in a step's name
# What the study that found the configurations settles; asking for other data or another space would compare nothing.
SETTLED_THERE = (
    "space", "from_step", "data", "train_annotations", "train_images", "val_annotations", "val_images", "extended_annotations", "trainer",
    "imagenet_weights", "pretrained",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The study that found two configurations, and the two."""

    folder: Path
    plan: dict[str, Any]
    state: StudyState
    importance: Importance
    start: DetectorConfig
    target: DetectorConfig


def settle_path(options: Options) -> tuple[Options, Given, dict[str, Any]]:
    """(the options as the study has them, its data and space, the plan's steps).

    Raises: StudyError, ConfigError, JournalError, DataError for ends that are none, or data that changed.
    """
    check_choices(options)
    found = _find(options)
    plan = found.plan
    options = replace(
        options, space=plan["space_option"], profile=plan["profile"], trainer=plan.get("trainer") or None,
        official_eval=plan["official_eval"], skip_bad=plan["skip_bad"],
        name=options.name or f"{found.folder.name}-{'without' if options.leave_one_out else 'path'}-{time.strftime('%Y%m%d-%H%M%S')}",
    )  # fmt: skip
    epochs = options.epochs or _full_length(found)
    ends = [config.with_values({"schedule_epochs": epochs}) for config in (found.start, found.target)]
    given = _given(found, ends[0])
    way = _way(found, *ends)
    if len(way) < 2:
        raise StudyError(
            f"--path {' '.join(options.path or (BASE, BEST))}: both are the same configuration, there is no way between them"
        )
    build = given.space.config
    steps, notes = leave_one_out(way, ends[0], build) if options.leave_one_out else path_steps(way, build)
    for step in steps:
        given.check(given.space.config(step.values))
    given.space.notes += [f"from study {found.folder}", _how_sure(found), *notes]
    fresh = 1 + max(trial.seed for trial in found.state.trials.values())
    seed = fresh if options.seed is None else options.seed
    told = settled(options, given, steps, epochs, seed)
    path = {
        "path": list(options.path or (BASE, BEST)),
        "study": str(found.folder),
        "leave_one_out": options.leave_one_out,
        "study_fingerprint": plan["dataset"]["fingerprint"],
    }
    more = {"compare": FIRST} if options.leave_one_out else {}
    return options, given, {**told, **path, **more}


def _find(options: Options) -> Found:
    given = [name for name in SETTLED_THERE if getattr(options, name) != getattr(Options(), name)]
    if given:
        raise StudyError(
            f"--{given[0].replace('_', '-')}: --path and --leave-one-out take space, data and trainer from the study that found the "
            "configurations; leave it out, or name another --study"
        )  # fmt: skip
    folder = Path(options.study) if options.study else newest_search(Path(options.runs_dir))
    plan, state = read_study(folder)
    if "steps" in plan:
        raise StudyError(f"--study {folder}: must be a search, it is an ablation")
    base = DetectorConfig.from_record(plan["space"]["base"]).with_values(parse_set_fields(options.set_fields))
    fixed = set(parse_set_fields(options.set_fields))
    start, target = (_end(word, base, fixed, folder, state) for word in options.path or (BASE, BEST))
    return Found(folder, plan, state, Importance(plan, state), start, target)


def _full_length(found: Found) -> int:
    """Epochs of a full training: the top rung; of a budget in seconds what the best was given."""
    best = winner(found.state)
    in_seconds = found.plan.get("budget_unit", "epochs") == "seconds"
    return best.levels[-1] if in_seconds and best is not None else found.state.levels[-1]


def _how_sure(found: Found) -> str:
    """What the order of the steps rests on."""
    if found.importance.surrogate is None:
        return "the order of steps is that of the config: too few trials to predict one"
    explained = max(0.0, found.importance.explained)
    return (
        f"the order of steps is predicted from {found.importance.surrogate.n} trials at the first rung, of whose spread the surrogate "
        f"explains {explained:.0%}"
    )


def newest_search(runs: Path) -> Path:
    """The newest search of a folder of studies that has a best configuration.

    Raises: StudyError where there is none.
    """
    for path in sorted(runs.glob(f"*/{PLAN_NAME}"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(JournalError):
            if "steps" not in read_plan(path.parent):
                return path.parent
    raise StudyError(f"--path: there is no search in {runs}; name a study's folder with --study")


def _end(word: str, base: DetectorConfig, fixed: set[str], folder: Path, state: StudyState) -> DetectorConfig:
    """An end of the path: the study's base or best, one of its trials or configurations, or a file.

    Raises: StudyError, ConfigError for a word that is none of those.
    """
    if word == BASE:
        return base
    own = {"schedule_epochs", "train_split", *fixed}
    if Path(word).suffix in (".yaml", ".yml", ".json"):
        values = changes_of_file(base, Path(word), "--path")
    else:
        values = _trial_fields(word, folder, state)
    return base.with_values({name: as_tuple(value) for name, value in values.items() if name not in own})


def _trial_fields(word: str, folder: Path, state: StudyState) -> dict[str, Any]:
    if word == BEST:
        rows = configurations(state)
        if not rows or state.best_trial("search") is None:
            raise StudyError(f"--path {word}: no trial of {folder} has scored")
        return state.trials[rows[0]["trial"]].config
    for trial in state.trials.values():
        if word in (trial.id, trial.config_hash):
            return trial.config
    raise StudyError(
        f"--path {word}: must be {BASE}, {BEST}, a trial or a config of {folder / 'results' / 'leaderboard.csv'}, or a config file "
        "(.yaml, .json)"
    )  # fmt: skip


def _given(found: Found, start: DetectorConfig) -> Given:
    """The study's data and space, its base being the start.

    Raises: DataError, ConfigError where the data is gone or cannot be trained on.
    """
    plan = found.plan
    source = DataSource.from_dict(source_here(plan["source"]))
    space = ResolvedSpace.from_dict(plan["space"])
    dataset = load_dataset(source, plan["skip_bad"], space.base.train_split)
    space.base, space.notes = start, []
    check = config_check(dataset)
    check(start)
    return Given(plan["profile"], (), source, dataset, space, check)


def _way(found: Found, start: DetectorConfig, target: DetectorConfig) -> list[PathStep]:
    """The path as the study's surrogate orders it; in the order of the config where there are too few trials for one."""
    importance = found.importance
    if importance.surrogate is not None:
        return ablation_path(importance.surrogate, importance.prior, start.active_dict(), target.active_dict())
    changes = together(importance.prior, changed_fields(start, target.active_dict()))
    return [PathStep({}, math.nan), *(PathStep(change, math.nan, gain=math.nan) for change in changes)]


Build = Callable[[Mapping[str, Any]], DetectorConfig]  # raises ConfigError where a rule or a constraint forbids it


def path_steps(way: Sequence[PathStep], build: Build) -> tuple[list[ResolvedStep], list[str]]:
    """(steps that lead from the start to the target, notes): a change that is expected to matter each, then the rest.

    What cannot be built before a later change goes with that one, in one step that names both.
    """
    predicted = {tuple(step.changes): step.gain for step in way}
    steps = [ResolvedStep(BASE, "", {}, {}, Reported())]
    values: dict[str, Any] = {}
    waiting: dict[str, Any] = {}
    for changes in that_matter(way, SHARE_THAT_MATTERS):
        waiting |= _tuples(changes)
        try:
            if build({**values, **waiting}).hash() == build(values).hash():
                continue
        except ConfigError:
            continue
        values |= waiting
        steps.append(ResolvedStep(_name(waiting), _expected(waiting, predicted), waiting, dict(values), Reported()))
        waiting = {}
    return steps, [f"{', '.join(waiting)} left out: no step with it can be built"] if waiting else []


def _name(changes: Mapping[str, Any]) -> str:
    """A step's name: its fields, as long as they are few."""
    return "".join(f"+{field}" for field in changes) if len(changes) <= MOST_NAMED else "+others"


def _expected(changes: Mapping[str, Any], predicted: Mapping[tuple[str, ...], float]) -> str:
    gain = predicted.get(tuple(changes), math.nan)
    return "" if math.isnan(gain) else f"predicted {gain:+.3f} at the first rung"


def leave_one_out(way: Sequence[PathStep], start: DetectorConfig, build: Build) -> tuple[list[ResolvedStep], list[str]]:
    """(the target, then the target without each of its changes, notes on what cannot be left out alone)."""
    everything = {name: value for step in way for name, value in _tuples(step.changes).items()}
    steps = [ResolvedStep(BEST, "", {}, everything, Reported())]
    known = {build(everything).hash(): BEST}
    notes = []
    for step in way[1:]:
        back = {name: getattr(start, name) for name in step.changes}
        values = {name: value for name, value in everything.items() if name not in back}
        name = "".join(f"-{field}" for field in back)
        try:
            config = build(values).hash()
        except ConfigError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        if config in known:
            notes.append(f"{name} is left out: it makes the detector of {known[config]}")
        else:
            known[config] = name
            steps.append(ResolvedStep(name, "", back, values, Reported()))
    return steps, notes


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: as_tuple(value) for name, value in values.items()}
