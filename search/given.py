"""What every plan starts from: the data, read and checked, and a space completed by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from detector.config import DetectorConfig
from detector.data.dataset import DataSource, DetectionDataset, check_roll
from search.dataset import config_check, open_dataset, user_source
from search.options import Options, StudyError, check_choices, parse_set_fields
from search.resources import hardware
from spaces.chain import Step, pinned
from spaces.fitting import DatasetFacts
from spaces.loading import load_space, space_names
from spaces.space import Budget, Profile, ResolvedSpace, Space, resolve, train_split_of


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
    profile = profile_for(space, name, options)
    if options.kind == "ablation" and not profile.chain:
        chains = [other for other in space_names() if load_space(other).profiles[name].chain]
        raise StudyError(
            f"--space {options.space_name} has no chain of steps to ablate; there is one in {', '.join(chains)}, or write "
            "`chain:` into a YAML file"
        )
    fixed = fields_of_user(options)
    if options.epochs is not None:
        fixed.setdefault("schedule_epochs", options.epochs)
    if user_source(options) is None:
        street = {"steps_per_epoch": profile.street.steps_per_epoch, "pretrained": profile.street.pretrained}
        fixed = {**{name: value for name, value in street.items() if value}, **fixed}
    train_split = train_split_of(space, name, fixed, options.from_step)
    source, dataset = open_dataset(options, profile, train_split, say)
    space = replace(space, profiles={**space.profiles, name: profile})
    resolved = resolve(space, name, DatasetFacts(**dataset.facts()), fixed, options.from_step)
    resolved.base = checked_base(resolved.base, dataset)
    check = config_check(dataset)
    check(resolved.base)
    return Given(name, profile.chain, source, dataset, resolved, check)


def profile_for(space: Space, name: str, options: Options) -> Profile:
    """The profile with the budget of the data that it trains on."""
    profile = space.profiles[name]
    street = user_source(options) is None and profile.street.budget is not None
    return replace(profile, budget=cast(Budget, profile.street.budget)) if street else profile


def fields_of_user(options: Options) -> dict[str, Any]:
    """What the user fixes: --set, and --pretrained, which is short for one of them.

    Raises: StudyError where the two say different things.
    """
    fixed = parse_set_fields(options.set_fields)
    if options.pretrained is not None:
        if fixed.get("pretrained", options.pretrained) != options.pretrained:
            raise StudyError(
                f"--pretrained {options.pretrained}: --set says pretrained={fixed['pretrained']}; give one"
            )
        fixed["pretrained"] = options.pretrained
    return fixed


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
