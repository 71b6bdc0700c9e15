"""From what the user asked to the frozen plan (study.json), for a new study and for one that goes on."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.config import ConfigError, DetectorConfig
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset
from detector.evaluate import METRIC_NAMES
from results.records import JOURNAL_NAME, PLAN_NAME, JournalError, read_journal, read_plan
from search.dataset import dataset_facts, decode_canvases, describe_dataset, images_to_show, names_data, open_dataset
from search.journal import write_atomically
from search.options import Options, StudyError, check_choices, parse_set_fields
from search.provenance import command_line, commit, versions
from search.resources import Resources, count_gpus, plan_resources
from search.rungs import rung_levels
from search.sampler import grid_size
from spaces.space import ResolvedSpace, load_space, resolve

MAX_GRID = 10_000
# The options that name data file by file: split of the source, and whether annotations or images.
SPLIT_OPTIONS = {
    "train_annotations": ("train", 0), "train_images": ("train", 1), "val_annotations": ("val", 0), "val_images": ("val", 1),
}  # fmt: skip


@dataclass
class Study:
    """A planned study: the plan as study.json holds it, and what was built from it."""

    folder: Path
    plan: dict[str, Any]
    space: ResolvedSpace
    resources: Resources
    resumed: bool


# What --resume may change; everything else is the plan's.
MAY_CHANGE = ("runs_dir", "name", "resume", "trials", "max_hours", "cpus_per_trial", "gpus_per_trial", "concurrent", "test",
              "dry_run")  # fmt: skip


def make_plan(options: Options, say: Any) -> Study:
    """A new study's plan, its data made or found, checked and decoded. Nothing is written to the study folder yet.

    Raises: StudyError, SpaceError, ConfigError, DataError: all a user's to mend.
    """
    check_choices(options)
    space = load_space(options.space)
    profile = options.profile if options.profile != "auto" else ("gpu" if count_gpus()[0] else "cpu")
    source, dataset = open_dataset(options, space, profile, say)
    facts = dataset_facts(dataset)
    fixed = parse_set_fields(options.set_fields)
    if options.epochs is not None:
        fixed.setdefault("schedule_epochs", options.epochs)
    street_steps = space.profiles[profile].street.steps_per_epoch
    if street_steps and not names_data(options):
        fixed.setdefault("steps_per_epoch", street_steps)
    resolved = resolve(space, profile, facts, fixed)
    resolved.base = checked_base(resolved.base, dataset)
    budget = resolved.budget
    epochs = options.epochs or budget.epochs
    grace = options.grace if options.grace is not None else min(budget.grace, epochs)
    eta = options.eta if options.eta is not None else budget.eta
    trials = options.trials or budget.trials
    scheduler, sampler = options.scheduler or "asha", options.sampler or "tpe"
    levels = _levels(scheduler, grace, epochs, eta)
    if sampler == "grid":
        all_of_it = grid_trials(resolved)
        trials = options.trials or all_of_it
    resources = resources_of(options, trials, profile == "gpu")
    caches = decode_canvases(dataset, resolved, options.skip_bad, say)
    metric = options.metric or "mAP"
    _check_metric(metric, dataset)
    seed = options.seed or 0
    plan: dict[str, Any] = {
        "format": 1,
        "name": options.name or f"{Path(options.space).stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        "space": resolved.to_dict(),
        "space_option": options.space,
        "profile": profile,
        "metric": metric,
        "seed": seed,
        "sampler": sampler,
        "scheduler": scheduler,
        "levels": levels,
        "eta": eta,
        "grace": grace,
        "epochs": epochs,
        "trials": trials,
        "max_hours": options.max_hours,
        "official_eval": options.official_eval,
        "skip_bad": options.skip_bad,
        "source": source.to_dict(),
        "dataset": describe_dataset(dataset, caches),
        "shown_images": images_to_show(dataset.val),
        "dropped": dataset.dropped,
        "versions": versions(),
        "commit": commit(),
        "command": command_line(),
    }
    folder = Path(options.runs_dir) / plan["name"]
    if not all(part.is_dir() for part in (folder, *folder.parents) if part.exists()):
        raise StudyError(f"--runs-dir {options.runs_dir}: must be a folder, or one that can be made")
    if (folder / PLAN_NAME).exists():
        raise StudyError(
            f"{folder} holds a study already; continue it with --resume --name {plan['name']}, or choose another --name"
        )
    return Study(folder, plan, resolved, resources, resumed=False)


def resume_plan(options: Options, say: Any) -> Study:
    """The plan of a study that is to go on; trials and hours may be extended, the rest stays as it was.

    Raises: StudyError where there is no such study, its data changed, or something else was asked to change.
    """
    check_choices(options)
    folder = find_study(options)
    plan = read_plan(folder)
    default = Options()
    if options.space != default.space and not _searches(plan, options.space):
        raise StudyError(f"--resume: {folder} searches the space {plan['space_option']}, not {options.space}")
    changed = [
        name for name in vars(options)
        if name not in MAY_CHANGE and name != "space" and getattr(options, name) != getattr(default, name)
        and not _says_what_the_plan_says(options, name, plan)
    ]  # fmt: skip
    if changed:
        raise StudyError(
            f"--resume goes on with the study's own plan; {', '.join(_option_name(c) for c in changed)} cannot change"
        )
    source = DataSource.from_dict(plan["source"])
    dataset = load_dataset(source, plan["skip_bad"])
    space = ResolvedSpace.from_dict(plan["space"])
    caches = decode_canvases(dataset, space, plan["skip_bad"], say)
    fingerprint = describe_dataset(dataset, caches)["fingerprint"]
    if fingerprint != plan["dataset"]["fingerprint"]:
        raise StudyError(
            f"{folder} was begun on data with fingerprint {plan['dataset']['fingerprint']}, {plan['dataset']['name']} now has "
            f"{fingerprint}: scores would not compare. Restore the data, or start a new study"
        )
    # study.json is never rewritten: what an earlier session extended stands in the journal.
    before = {"trials": plan["trials"], "max_hours": plan["max_hours"], **_last_session(folder)}
    trials = options.trials or before["trials"]
    plan = {**plan, "trials": trials, "max_hours": options.max_hours or before["max_hours"]}
    return Study(folder, plan, space, resources_of(options, trials, plan["profile"] == "gpu"), resumed=True)


def _searches(plan: dict[str, Any], space: str) -> bool:
    """Whether a plan is of the space that an option names: by its name, or by the file it was given as."""
    return space in (plan["space"]["space"], plan["space_option"])


def _last_session(folder: Path) -> dict[str, Any]:
    """Trials and hours as the study's last session had them; nothing before the first."""
    journal = folder / JOURNAL_NAME
    records = read_journal(journal) if journal.is_file() else []
    sessions = [record for record in records if record["event"] == "session_started"]
    return {name: sessions[-1][name] for name in ("trials", "max_hours")} if sessions else {}


def _option_name(attribute: str) -> str:
    return "--set" if attribute == "set_fields" else f"--{attribute.replace('_', '-')}"


def _says_what_the_plan_says(options: Options, name: str, plan: dict[str, Any]) -> bool:
    """Whether an option repeats the plan (a user who adds --resume to the old command line asks for no change)."""
    asked = getattr(options, name)
    if name in SPLIT_OPTIONS:
        split, place = SPLIT_OPTIONS[name]
        return bool(str(Path(asked).resolve()) == plan["source"][split][place])
    if name in plan and name != "space":
        return bool(plan[name] == asked)
    if name == "data":
        return bool(str(Path(asked).resolve() / "train.json") == plan["source"]["train"][0])
    if name == "set_fields":
        base = plan["space"]["base"]
        return all(
            DetectorConfig.from_dict(base).with_values({k: v}).to_dict() == base
            for k, v in parse_set_fields(asked).items()
        )
    return False


def find_study(options: Options) -> Path:
    """The folder that --resume means: --name, else the newest study of this space."""
    runs = Path(options.runs_dir)
    if options.name:
        if not (runs / options.name / PLAN_NAME).is_file():
            raise StudyError(f"--resume --name {options.name}: {runs / options.name} holds no study ({PLAN_NAME})")
        return runs / options.name
    plans = sorted(runs.glob(f"*/{PLAN_NAME}"), key=lambda path: path.stat().st_mtime)
    found = []
    for path in plans:
        with contextlib.suppress(JournalError):  # a torn plan is no study to go on with
            if _searches(read_plan(path.parent), options.space):
                found.append(path)
    if not found:
        raise StudyError(f"--resume: there is no study of space {options.space} in {runs}; name one with --name")
    return found[-1].parent


def checked_base(base: DetectorConfig, dataset: DetectionDataset) -> DetectorConfig:
    """The base with weight files by absolute path (a worker runs elsewhere), refused if no trial could be built on it.

    Raises: ConfigError for weights that cannot be had or do not fit, or a roll of images that are no full turn.
    """
    if base.roll_probability > 0 and not dataset.full_turn:
        raise ConfigError(
            f"roll_probability={base.roll_probability:g} needs images that are a full turn, and {dataset.name} does not "
            'say so; set it to 0, or put "detector_search": {"full_turn": true} into the "info" of train.json'
        )
    names = [name for name in ("trunk_weights", "detector_weights") if getattr(base, name)]
    if not names:
        return base
    files = {name: getattr(base, name) for name in names if getattr(base, name) != "imagenet"}
    base = base.with_values({name: str(Path(path).resolve()) for name, path in files.items()})
    from detector.model.detector import Detector

    Detector(base, len(dataset.class_names))
    return base


def grid_trials(space: ResolvedSpace) -> int:
    """The base and every combination of the grid.

    Raises: StudyError where nobody could want to wait for that.
    """
    size = grid_size(space.fields)
    if size > MAX_GRID:
        raise StudyError(
            f"--sampler grid has {size:,} combinations of {len(space.fields)} fields, at most {MAX_GRID:,} can be; fix "
            "fields with --set field=value, or search a smaller --space"
        )
    return size + 1


def _check_metric(metric: str, dataset: DetectionDataset) -> None:
    if metric.startswith("class:"):
        if metric.removeprefix("class:") not in dataset.class_names:
            raise StudyError(f"--metric {metric}: the dataset's classes are {', '.join(dataset.class_names)}")
        index = dataset.class_names.index(metric.removeprefix("class:"))
        if not any(
            (labels[~crowd] == index).any() for labels, crowd in zip(dataset.val.labels, dataset.val.crowd, strict=True)
        ):
            raise StudyError(f"--metric {metric}: the validation split has no box of that class; nothing could score")
    elif metric not in METRIC_NAMES:
        raise StudyError(f"--metric must be one of {', '.join(METRIC_NAMES)} or class:NAME, got {metric!r}")


def _levels(scheduler: str, grace: int, epochs: int, eta: int) -> list[int]:
    try:
        levels = rung_levels(grace, epochs, eta)
    except ValueError as error:
        raise StudyError(str(error)) from None
    return levels[-1:] if scheduler == "none" else levels


def resources_of(options: Options, trials: int, use_gpu: bool) -> Resources:
    """The machine's shares as asked, in words where they do not fit."""
    try:
        return plan_resources(options.cpus_per_trial, options.gpus_per_trial, options.concurrent, trials, use_gpu)
    except ValueError as error:
        raise StudyError(str(error)) from None


def write_plan(study: Study) -> None:
    """study.json, whole or not at all."""
    study.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(study.folder / PLAN_NAME, (json.dumps(study.plan, indent=1) + "\n").encode())
