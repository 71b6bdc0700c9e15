"""What a user may ask of a study, and what is refused before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from detector.config import ConfigError, check_field_name, coerce
from search.rungs import SCHEDULERS
from search.sampler import SAMPLERS

DEFAULT_RUNS_DIR = "runs"
DEFAULT_SEEDS = 3
DEFAULT_SPACES = {"search": "retinanet", "ablation": "tdt4265_report"}


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
    seeds: int | None = None
    imagenet_weights: str | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    set_fields: list[str] = field(default_factory=list)
    official_eval: bool = False
    test: bool = False
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
    ):
        if value not in allowed:
            raise StudyError(f"{name} must be one of {', '.join(str(a) for a in allowed if a)}, got {value!r}")
    parse_set_fields(options.set_fields)
    positive = ("trials", "epochs", "max_hours", "concurrent", "seeds")
    for name, number in [(f"--{n.replace('_', '-')}", getattr(options, n)) for n in positive]:
        if number is not None and number <= 0:
            raise StudyError(f"{name} must be positive, got {number}")
    if options.gpus_per_trial is not None and options.gpus_per_trial < 0:
        raise StudyError(f"--gpus-per-trial must not be negative, got {options.gpus_per_trial}")
    if options.name and ("/" in options.name or options.name.startswith(".")):
        raise StudyError(f"--name must be a plain folder name, got {options.name!r}")


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
