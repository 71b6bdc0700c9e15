"""What a user may ask of a study, and what is refused before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detector.config import ConfigError, DetectorConfig, check_field_name, coerce
from detector.data.cache_rule import CacheRule
from results.state import PRUNE_ON, RANK_ON
from search.rungs import SCHEDULERS
from search.sampler import SAMPLERS

DEFAULT_RUNS_DIR = "runs"
DEFAULT_SEEDS = 3
AUTO = "auto"
BUDGET_UNITS = ("epochs", "seconds")
KEEP = ("all", "promotable", "top", "best")
LEAST_AUDIT = 5
DEFAULT_MAX_FAILURES = 1
DEFAULT_SPACES = {"search": "retinanet", "ablation": "tdt4265_report"}


# How long and on what a config is trained: the study's, whatever a file says that comes from another.
OF_THE_STUDY = ("image_size_px", "train_split", "schedule_epochs", "steps_per_epoch")


class StudyError(ValueError):
    """A study that cannot be started or resumed as asked; the message gives rule, value and remedy."""


@dataclass
class Options:
    """What a user may ask of a study; None stands for the default of the space, the machine or the plan."""

    kind: str = "search"  # or ablation
    space: str | None = None  # None: the kind's default
    from_step: str | None = None
    data: str | None = None
    train_annotations: str | None = None
    train_images: str | None = None
    val_annotations: str | None = None
    val_images: str | None = None
    extended_annotations: str | None = None
    skip_bad: bool = False
    runs_dir: str = DEFAULT_RUNS_DIR
    storage: str | None = None  # None: the runs_dir; else a folder, or a link to an object store
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
    objective: str | None = None
    seed: int | None = None
    seeds: int | None = None
    imagenet_weights: str | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | str | None = None
    concurrent: int | None = None
    accelerator_type: str | None = None  # of a cluster's nodes, as Ray names it; None: any
    set_fields: list[str] = field(default_factory=list)
    official_eval: bool = False
    seeds_final: int | None = None
    top: int | None = None
    audit: int | None = None
    audit_base: bool = False
    polish: bool | None = None  # None: as the space's budget says
    pretrained: str | None = None  # short for --set pretrained=..
    prune_on: str | None = None
    rank_on: str | None = None
    reuse: list[str] = field(default_factory=list)
    start_from: str | None = None
    space_edit: str | None = None
    budget_unit: str | None = None
    keep: str | None = None
    memory_per_trial: float | None = None
    cache: str | None = None  # how images are kept; None: what fits
    cache_limit: float | None = None  # GB of disk and memory
    max_failures: int | None = None
    trainer: str | None = None
    test: bool = False
    path: list[str] | None = None  # two configurations of a study
    study: str | None = None  # the one that found them; None: the newest search
    leave_one_out: bool = False
    dry_run: bool = False

    @property
    def space_name(self) -> str:
        """The space as given, or the default of this kind of study."""
        return self.space or DEFAULT_SPACES[self.kind]


def check_choices(options: Options) -> None:
    """Raises: StudyError, ConfigError for an option that cannot be right whatever the data."""
    for name, value, allowed in (
        ("--profile", options.profile, ("auto", "cpu", "gpu")),
        ("--sampler", options.sampler, (None, *SAMPLERS)),
        ("--scheduler", options.scheduler, (None, *SCHEDULERS)),
        ("--prune-on", options.prune_on, (None, *PRUNE_ON)),
        ("--rank-on", options.rank_on, (None, *RANK_ON)),
        ("--budget-unit", options.budget_unit, (None, *BUDGET_UNITS)),
    ):
        if value not in allowed:
            raise StudyError(f"{name} must be one of {', '.join(str(a) for a in allowed if a)}, got {value!r}")
    parse_set_fields(options.set_fields)
    positive = ("trials", "epochs", "max_hours", "concurrent", "seeds", "top", "memory_per_trial")
    for name in ("seeds_final", "audit", "max_failures"):
        if (getattr(options, name) or 0) < 0:
            raise StudyError(f"--{name.replace('_', '-')} must not be negative, got {getattr(options, name)}")
    if options.audit and options.audit < LEAST_AUDIT:
        raise StudyError(f"--audit must be at least {LEAST_AUDIT}, got {options.audit}: fewer tell next to nothing")
    check_keep(options.keep)
    cache_rule(options.cache, options.cache_limit)
    for name, number in [(f"--{n.replace('_', '-')}", getattr(options, n)) for n in positive]:
        if number is not None and number <= 0:
            raise StudyError(f"{name} must be positive, got {number}")
    if isinstance(options.gpus_per_trial, str):
        options.gpus_per_trial = _gpus(options.gpus_per_trial)
    if isinstance(options.gpus_per_trial, (int, float)) and options.gpus_per_trial < 0:
        raise StudyError(f"--gpus-per-trial must not be negative, got {options.gpus_per_trial}")
    if options.name and ("/" in options.name or options.name.startswith(".")):
        raise StudyError(f"--name must be a plain folder name, got {options.name!r}")


def cache_rule(mode: str | None, limit_gb: float | None) -> CacheRule:
    """How images are to be kept.

    Raises: StudyError for a mode or a limit that there cannot be.
    """
    try:
        return CacheRule(mode or AUTO, limit_gb)
    except ValueError as error:
        raise StudyError(str(error)) from None


def _gpus(text: str) -> float | str:
    """--gpus-per-trial as a number, or `auto`."""
    try:
        return AUTO if text == AUTO else float(text)
    except ValueError:
        raise StudyError(f"--gpus-per-trial must be a number or {AUTO}, got {text!r}") from None


def check_keep(keep: str | None) -> None:
    """Raises: StudyError where --keep is no rule about checkpoints."""
    rule, colon, number = (keep or "all").partition(":")
    if rule not in KEEP or (rule == "top") != (bool(colon) and number.isdigit() and int(number) > 0):
        raise StudyError(f"--keep must be one of all, promotable, top:N, best, got {keep!r}")


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


def changes_of_file(base: DetectorConfig, file: Path, option: str) -> dict[str, Any]:
    """What a config file changes on a study's base, as JSON-ready values, but for what is the study's.

    Raises: ConfigError for a file that holds no config.
    """
    from detector.train import read_config

    plain, values = base.to_dict(), read_config(file, option).to_dict()
    return {name: value for name, value in values.items() if value != plain[name] and name not in OF_THE_STUDY}
