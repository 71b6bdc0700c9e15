"""What every plan starts from: the data, read and checked, and a space completed by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detector.config import DetectorConfig
from detector.data.dataset import DataSource, DetectionDataset, check_roll
from search.dataset import config_check, open_dataset, user_source
from search.options import Options, StudyError, check_choices, parse_set_fields
from search.resources import hardware
from spaces.chain import Step, pinned
from spaces.fitting import DatasetFacts
from spaces.loading import load_space, space_names
from spaces.space import ResolvedSpace, resolve, train_split_of


@dataclass
class Given:
    """The data that was read, and a space completed by it."""

    profile_name: str
    chain: tuple[Step, ...]  # of the space's profile
    source: DataSource
    dataset: DetectionDataset
    space: ResolvedSpace
    check: Callable[[DetectorConfig], None]


def read_given(options: Options, say: Any) -> Given:
    """The data and the space that a user names.

    Raises: StudyError, SpaceError, ConfigError, DataError for what cannot be.
    """
    check_choices(options)
    space = load_space(options.space_name)
    try:
        name = options.profile if options.profile != "auto" else ("gpu" if hardware().gpus else "cpu")
    except ValueError as error:  # a cluster that is not there
        raise StudyError(str(error)) from None
    profile = space.profiles[name]
    if options.kind == "ablation" and not profile.chain:
        chains = [other for other in space_names() if load_space(other).profiles[name].chain]
        raise StudyError(
            f"--space {options.space_name} has no chain of steps to ablate; there is one in {', '.join(chains)}, or write "
            "`chain:` into a YAML file"
        )
    fixed = parse_set_fields(options.set_fields)
    if options.epochs is not None:
        fixed.setdefault("schedule_epochs", options.epochs)
    if profile.street.steps_per_epoch and user_source(options) is None:
        fixed.setdefault("steps_per_epoch", profile.street.steps_per_epoch)
    train_split = train_split_of(space, name, fixed, options.from_step)
    source, dataset = open_dataset(options, profile, train_split, say)
    resolved = resolve(space, name, DatasetFacts(**dataset.facts()), fixed, options.from_step)
    resolved.base = checked_base(resolved.base, dataset)
    check = config_check(dataset)
    check(resolved.base)
    return Given(name, profile.chain, source, dataset, resolved, check)


def checked_base(base: DetectorConfig, dataset: DetectionDataset) -> DetectorConfig:
    """The base with its weight file pinned by path and content.

    Whether weights fit, only a built detector can tell: search/sizes.py does that beside the plan.

    Raises: ConfigError for weights that cannot be read, or a roll of images that are no full turn.
    """
    check_roll(base, dataset)
    return base.with_values({"pretrained": pinned("pretrained", base.pretrained)})


def check_weights(config: DetectorConfig, class_names: Sequence[str]) -> None:
    """Raises: ConfigError for weights that cannot be had or do not fit: only building the detector can tell."""
    if config.pretrained != "none":
        from detector.model.detector import Detector
        from detector.model.pretrained import load_start

        load_start(Detector(config, len(class_names)), config, class_names)
