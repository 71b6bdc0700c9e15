"""The steps of an ablation from a space's chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detector.config import ConfigError, DetectorConfig
from search.given import Given, check_weights, fields_of_user
from search.options import DEFAULT_SEEDS, Options
from spaces.chain import ResolvedStep, resolve_chain


def settle_chain(options: Options, given: Given) -> dict[str, Any]:
    """The chain's steps, each trained to the end on every seed. What is left out is added to the space's notes.

    Raises: SpaceError, ConfigError for a step that cannot be.
    """
    space = given.space
    chain = [step.with_weights(options.imagenet_weights) for step in given.chain]

    def can_be_built(config: DetectorConfig) -> None:
        if config.train_split == "extended" and given.source.extended is None:
            raise ConfigError("there are no more training images; name them with --extended-annotations FILE")
        check_weights(config, given.dataset.class_names)

    steps, left_out = resolve_chain(chain, space.base, fields_of_user(options), can_be_built)
    for step in steps:
        given.check(space.config(step.values))
    space.notes += left_out
    told = settled(options, given, steps, options.epochs or space.budget.epochs, options.seed or 0)
    return {**told, "left_out": [step.name for step in chain if step.name not in {kept.name for kept in steps}]}


def settled(options: Options, given: Given, steps: Sequence[ResolvedStep], epochs: int, seed: int) -> dict[str, Any]:
    """What an ablation's plan says of its steps; nothing is searched."""
    given.space.fields = {}
    return {
        "metric": "mAP", "seed": seed, "sampler": "chain", "scheduler": "none", "levels": [epochs],
        "eta": 2, "grace": epochs, "epochs": epochs, "trials": len(steps) * (options.seeds or DEFAULT_SEEDS),
        "steps": [step.to_dict() for step in steps], "left_out": [],
    }  # fmt: skip


def wants_extended(plan: dict[str, Any]) -> bool:
    """Whether a step of the plan trains on the extended split."""
    return any(step["values"].get("train_split") == "extended" for step in plan.get("steps", []))
