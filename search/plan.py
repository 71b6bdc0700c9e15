"""From what the user asked to the frozen plan (study.json): data found and checked, space resolved, budget settled."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detector.config import ConfigError, DetectorConfig, check_field_name, coerce
from detector.data.cache import CachedSplit, cache_home, cached_split
from detector.data.coco import DataSource, DetectionDataset, load_dataset
from detector.data.lidar import make_dataset_once
from detector.evaluate import METRIC_NAMES
from results.records import PLAN_NAME, read_plan
from search.journal import write_atomically
from search.resources import Resources, count_gpus, plan_resources
from search.rungs import SCHEDULERS, rung_levels
from search.sampler import SAMPLERS, grid_size
from spaces.distributions import Choice, SpaceError
from spaces.fitting import DatasetFacts
from spaces.space import ResolvedSpace, Space, StreetData, load_space, resolve

MAX_GRID = 10_000
MAX_CANVASES = 3  # each is a decoded copy of the dataset on disk
STREET_SEED = 0
DEFAULT_RUNS_DIR = "runs"
PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "faster-coco-eval",
    "pycocotools",
    "numpy",
    "pandas",
    "tensorboard",
)


class StudyError(ValueError):
    """A study that cannot be started or resumed as asked; the message gives rule, value and remedy."""


@dataclass
class Options:
    """What a user may ask of a study; None stands for the default of the space, the machine or the plan."""

    space: str = "retinanet"
    data: str | None = None
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    skip_bad: bool = False
    runs_dir: str = DEFAULT_RUNS_DIR
    name: str | None = None
    resume: bool = False
    profile: str = "auto"
    sampler: str | None = None
    scheduler: str | None = None
    trials: int | None = None
    max_hours: float | None = None
    epochs: int | None = None
    eta: int | None = None
    grace: int | None = None
    metric: str | None = None
    seed: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    set_fields: list[str] = field(default_factory=list)
    official_eval: bool = False
    test: bool = False
    dry_run: bool = False


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
    _check_choices(options)
    space = load_space(options.space)
    profile = options.profile if options.profile != "auto" else ("gpu" if count_gpus()[0] else "cpu")
    source, dataset = open_dataset(options, space, profile, say)
    facts = dataset_facts(dataset)
    fixed = parse_set_fields(options.set_fields)
    if options.epochs is not None:
        fixed.setdefault("schedule_epochs", options.epochs)
    resolved = resolve(space, profile, facts, fixed)
    budget = resolved.budget
    epochs = options.epochs or budget.epochs
    grace = options.grace if options.grace is not None else min(budget.grace, epochs)
    eta = options.eta if options.eta is not None else budget.eta
    trials = options.trials or budget.trials
    scheduler, sampler = options.scheduler or "asha", options.sampler or "tpe"
    levels = _levels(scheduler, grace, epochs, eta)
    if sampler == "grid":
        trials = options.trials or grid_trials(resolved)
    resources = resources_of(options, trials, profile == "gpu")
    caches = decode_canvases(dataset, resolved, options.skip_bad, say)
    metric = options.metric or "mAP"
    _check_metric(metric, dataset)
    seed = options.seed or 0
    plan: dict[str, Any] = {
        "format": 1,
        "name": options.name or f"{Path(options.space).stem}-{time.strftime('%Y%m%d-%H%M%S')}",
        "space": resolved.to_dict(),
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
        "dropped": dataset.dropped,
        "versions": versions(),
        "commit": commit(),
        "command": command_line(),
    }
    folder = Path(options.runs_dir) / plan["name"]
    if (folder / PLAN_NAME).exists():
        raise StudyError(
            f"{folder} holds a study already; continue it with --resume --name {plan['name']}, or choose another --name"
        )
    return Study(folder, plan, resolved, resources, resumed=False)


def resume_plan(options: Options, say: Any) -> Study:
    """The plan of a study that is to go on; trials and hours may be extended, the rest stays as it was.

    Raises: StudyError where there is no such study, its data changed, or something else was asked to change.
    """
    folder = find_study(options)
    plan = read_plan(folder)
    default = Options()
    if options.space != default.space and Path(options.space).stem != plan["space"]["space"]:
        raise StudyError(f"--resume: {folder} searches the space {plan['space']['space']}, not {options.space}")
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
    trials = options.trials or plan["trials"]
    plan = {**plan, "trials": trials, "max_hours": options.max_hours}
    return Study(folder, plan, space, resources_of(options, trials, plan["profile"] == "gpu"), resumed=True)


def _option_name(attribute: str) -> str:
    return "--set" if attribute == "set_fields" else f"--{attribute.replace('_', '-')}"


def _says_what_the_plan_says(options: Options, name: str, plan: dict[str, Any]) -> bool:
    """Whether an option repeats the plan (a user who adds --resume to the old command line asks for no change)."""
    asked = getattr(options, name)
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
    found = sorted(runs.glob(f"{Path(options.space).stem}-*/{PLAN_NAME}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise StudyError(f"--resume: there is no study of space {options.space} in {runs}; name one with --name")
    return found[-1].parent


def open_dataset(options: Options, space: Space, profile: str, say: Any) -> tuple[DataSource, DetectionDataset]:
    """The user's dataset, checked; the simulated street, made once per machine, where none is named."""
    named = [options.train_annotations, options.train_images, options.val_annotations, options.val_images]
    if options.data and any(named):
        raise StudyError("give either --data or the four --train-/--val- options, not both")
    if any(named) and not all(named):
        raise StudyError(
            "--train-annotations, --train-images, --val-annotations and --val-images go together; some are missing"
        )
    if options.data:
        source = DataSource.from_folder(options.data)
    elif all(named):
        train, val = (Path(str(named[0])), Path(str(named[1]))), (Path(str(named[2])), Path(str(named[3])))
        source = DataSource(train, val, None, train[0].stem)
    else:
        source = make_street(space.profiles[profile].street, say)
    return source, load_dataset(source, options.skip_bad)


def make_street(street: StreetData, say: Any) -> DataSource:
    """The simulated street of a profile, from the cache where this machine has made it before."""
    counts = {"train": street.train, "val": street.val, "test": street.test}
    code = hashlib.sha256()
    for name in ("lidar.py", "lidar_scene.py"):  # another generator makes other data
        code.update((Path(__file__).parents[1] / "detector" / "data" / name).read_bytes())
    label = f"street-{street.train}-{street.val}-{street.test}-{street.degrees}-{code.hexdigest()[:8]}"
    out = cache_home() / "made" / label
    if not out.is_dir():
        say(f"making the simulated street ({sum(counts.values())} images) in {out}")
    make_dataset_once(out, counts, STREET_SEED, street.degrees)
    source = DataSource.from_folder(out)
    source.name = "simulated LiDAR street"
    return source


def dataset_facts(dataset: DetectionDataset) -> DatasetFacts:
    """What a space may fit itself to."""
    train = dataset.train
    boxes = [
        (n, box)
        for n, rows in enumerate(train.boxes_xyxy)
        for box, crowd in zip(rows.tolist(), train.crowd[n], strict=True)
        if not crowd
    ]
    return DatasetFacts(
        tuple((record.height, record.width) for record in train.images),
        tuple((box[3] - box[1], box[2] - box[0]) for _, box in boxes),
        tuple(n for n, _ in boxes),
        dataset.full_turn,
    )


def decode_canvases(
    dataset: DetectionDataset, space: ResolvedSpace, skip_bad: bool, say: Any
) -> dict[str, CachedSplit]:
    """All splits decoded onto every canvas of the space, so that no trial has to; returns those of the base's canvas."""
    entry = space.fields.get("image_size_px")
    others = [tuple(option) for option in entry.options] if isinstance(entry, Choice) else []
    canvases = list(dict.fromkeys([space.base.image_size_px, *others]))
    if len(canvases) > MAX_CANVASES:
        raise SpaceError(
            f"a space may offer at most {MAX_CANVASES} canvases (image_size_px), this one has {len(canvases)}"
        )
    say(f"reading {sum(len(split.images) for split in dataset.splits)} images")
    caches: dict[str, CachedSplit] = {}
    for canvas in reversed(canvases):
        caches = {split.name: cached_split(split, (canvas[0], canvas[1]), skip_bad) for split in dataset.splits}
    dataset.train, dataset.val = caches["train"].split, caches["val"].split
    dataset.test = caches["test"].split if "test" in caches else None
    return caches


def describe_dataset(dataset: DetectionDataset, caches: dict[str, CachedSplit]) -> dict[str, Any]:
    """The dataset's entry of study.json and summary.json."""
    return {
        "name": dataset.name,
        "fingerprint": f"{caches['train'].fingerprint[:8]}{caches['val'].fingerprint[:8]}",
        "train_images": len(dataset.train.images),
        "val_images": len(dataset.val.images),
        "test_images": len(dataset.test.images) if dataset.test else 0,
        "train_boxes": dataset.train.num_boxes,
        "val_boxes": dataset.val.num_boxes,
        "classes": dataset.class_names,
        "full_turn": dataset.full_turn,
        "area_ranges_px": list(dataset.area_ranges_px),
    }


def parse_set_fields(pairs: list[str]) -> dict[str, Any]:
    """`field=value` texts as checked values; values are YAML (numbers, true, [1, 2]).

    Raises: ConfigError with the nearest field's name, or the value's rule.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set takes field=value, got {pair!r}")
        check_field_name(name, "--set")
        try:
            values[name] = coerce(name, yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {name}: {text!r} must be a YAML value; reading it said: {error}") from None
    return values


def _check_choices(options: Options) -> None:
    for name, value, allowed in (
        ("--profile", options.profile, ("auto", "cpu", "gpu")),
        ("--sampler", options.sampler, (None, *SAMPLERS)),
        ("--scheduler", options.scheduler, (None, *SCHEDULERS)),
    ):
        if value not in allowed:
            raise StudyError(f"{name} must be one of {', '.join(str(a) for a in allowed if a)}, got {value!r}")
    parse_set_fields(options.set_fields)
    positive = ("trials", "epochs", "max_hours", "concurrent")
    for name, number in [(f"--{n.replace('_', '-')}", getattr(options, n)) for n in positive]:
        if number is not None and number <= 0:
            raise StudyError(f"{name} must be positive, got {number}")
    if options.gpus_per_trial is not None and options.gpus_per_trial < 0:
        raise StudyError(f"--gpus-per-trial must not be negative, got {options.gpus_per_trial}")
    if options.name and ("/" in options.name or options.name.startswith(".")):
        raise StudyError(f"--name must be a plain folder name, got {options.name!r}")


def grid_trials(space: ResolvedSpace) -> int:
    """The base and every combination of the grid.

    Raises: StudyError where nobody could want to wait for that.
    """
    size = grid_size(space.fields)
    if size > MAX_GRID:
        raise StudyError(
            f"--sampler grid has {size:,} combinations of {len(space.fields)} fields, at most {MAX_GRID:,} make sense; fix "
            "fields with --set field=value, search a smaller --space, or cap it with --trials"
        )
    return size + 1


def _check_metric(metric: str, dataset: DetectionDataset) -> None:
    if metric.startswith("class:"):
        if metric.removeprefix("class:") not in dataset.class_names:
            raise StudyError(f"--metric {metric}: the dataset's classes are {', '.join(dataset.class_names)}")
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


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the code, marked where files were changed; "" outside a checkout."""
    try:
        run = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def command_line() -> str:
    """How this process was called, for the record."""
    import shlex

    program = Path(sys.argv[0])
    head = f"python -m {program.parent.name}.{program.stem}" if program.suffix == ".py" else program.name
    return " ".join([head, *map(shlex.quote, sys.argv[1:])])


def write_plan(study: Study) -> None:
    """study.json, whole or not at all."""
    study.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(study.folder / PLAN_NAME, (json.dumps(study.plan, indent=1) + "\n").encode())
