"""Chains: a base and the steps of an ablation, each keeping what stands above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detector.config import ConfigError, DetectorConfig, unreadable_weights
from detector.identity import pin_weights
from spaces.distributions import SpaceError, as_tuple


@dataclass(frozen=True)
class Reported:
    """What a published source prints for a step; None where it prints nothing."""

    mAP: float | None = None  # 0..1
    ms_per_batch: float | None = None
    parameters: int | None = None  # trainable, without what is never used


@dataclass(frozen=True)
class Step:
    """One line of an ablation: what it changes on the step above it."""

    name: str
    changes: Mapping[str, Any]
    about: str = ""
    reported: Reported = Reported()
    optional: bool = False  # left out, and said so, where its weights cannot be had

    def with_weights(self, file: str | None) -> Step:
        """This step with ImageNet weights from a file, where it wants them and one is given."""
        if not file or self.changes.get("pretrained") != "imagenet":
            return self
        return replace(self, changes={**self.changes, "pretrained": file}, optional=False)


@dataclass(frozen=True)
class ResolvedStep:
    """A step as it is trained: plain values only."""

    name: str
    about: str
    changes: dict[str, Any]  # on the step above
    values: dict[str, Any]  # on the base
    reported: Reported

    def to_dict(self) -> dict[str, Any]:
        """Plain values for study.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ResolvedStep:
        """The inverse of `to_dict`; JSON's lists become tuples again."""
        changes, values = ({k: as_tuple(v) for k, v in plain[part].items()} for part in ("changes", "values"))
        return cls(plain["name"], plain["about"], changes, values, Reported(**plain["reported"]))


def steps_up_to(chain: Sequence[Step], name: str, place: str) -> Sequence[Step]:
    """A chain from its base to the step of this name.

    Raises: SpaceError naming the steps that there are.
    """
    names = [step.name for step in chain]
    if name in names:
        return chain[: names.index(name) + 1]
    steps = f"its steps are {', '.join(names)}" if chain else "it has no chain"
    raise SpaceError(f"{place} has no step {name!r}; {steps}")


def resolve_chain(
    chain: Sequence[Step],
    base: DetectorConfig,
    fixed: Mapping[str, Any],
    check: Callable[[DetectorConfig], None] = lambda config: None,
) -> tuple[list[ResolvedStep], list[str]]:
    """(the steps over `base`, notes on what was left out). `fixed` are fields that no step may change.

    `check` raises ConfigError for a config that cannot be built here, asked of steps that are optional or name weights; an
    optional step is left out for that.

    Raises: SpaceError, ConfigError for a step that cannot be, that changes nothing, or that changes a fixed field.
    """
    steps: list[ResolvedStep] = []
    notes: list[str] = []
    values: dict[str, Any] = {}
    known: dict[str, str] = {}  # name of the step by the hash of its config
    for step in chain:
        taken = sorted(set(step.changes) & set(fixed))
        if taken:
            raise SpaceError(
                f"--set {taken[0]}: the step {step.name} changes that field; fix another, or search --from it"
            )
        changes = {name: pinned(name, value) for name, value in step.changes.items()}
        tried = {**values, **changes}
        try:
            config = base.with_values(tried)
            if step.optional or "pretrained" in changes:
                check(config)
        except ConfigError as error:
            if not step.optional:
                raise ConfigError(f"step {step.name}: {error}") from None
            notes.append(f"{step.name} is left out: {error}")
            continue
        twin = known.setdefault(config.hash(), step.name)
        if steps and twin == steps[-1].name:
            raise SpaceError(f"step {step.name} changes nothing that its detector reads: {changes}")
        if twin != step.name:
            raise SpaceError(f"step {step.name} comes back to the detector of step {twin}; leave it out")
        values = tried
        steps.append(ResolvedStep(step.name, step.about, changes, dict(values), step.reported))
    return steps, notes


def pinned(name: str, value: Any) -> Any:
    """A field's value; a weight file by its absolute path (a worker runs elsewhere) and the digest of its content.

    Raises: ConfigError where the file cannot be read.
    """
    try:
        return pin_weights(value) if name == "pretrained" else value
    except OSError as error:
        raise unreadable_weights(value, error) from None
