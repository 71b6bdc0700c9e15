"""Space: what may vary, around which base, with which budget; and how a dataset completes it (spaces/loading.py loads one)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from detector.config import FIELD_NAMES, ConfigError, DetectorConfig, active_fields, check_value, coerce
from detector.identity import WEIGHTS_BY_NAME
from detector.weights import at_hand
from spaces.chain import Step, resolve_chain, steps_up_to
from spaces.constraints import Constraint
from spaces.distributions import (
    AtHand,
    Choice,
    Distribution,
    Fitted,
    SpaceEntry,
    SpaceError,
    When,
    as_tuple,
    entry_from_dict,
    entry_to_dict,
)
from spaces.fitting import DatasetFacts, fit_anchor_ratios, fit_anchor_size, fit_anchors, fit_canvas

ANCHORS = "anchors"  # not a field: `anchors: fitted` in a base stands for these, fitted together by k-means
KMEANS_ANCHORS = frozenset({"anchor_kind", "anchor_sizes", "anchor_ratios", "anchor_scales"})
FITTED = "fitted"  # stands for a value that the dataset gives, in a base or among the options of a Choice


@dataclass(frozen=True)
class Budget:
    """How much a study trains unless the command line says otherwise."""

    trials: int
    epochs: int  # R
    grace: int  # r, the first rung
    eta: int = 3
    polish: float = 1.0  # the winner is trained again for so many times `epochs`; 1 is not at all


@dataclass(frozen=True)
class Start:
    """What is other where training starts from other weights than a profile's own: over its base and its fields."""

    base: Mapping[str, Any]
    fields: Mapping[str, SpaceEntry | None] = field(default_factory=dict)  # None: not searched


@dataclass(frozen=True)
class StreetData:
    """The simulated street that a study makes when no dataset is named, and how it is trained on."""

    train: int
    val: int
    test: int
    degrees: int
    steps_per_epoch: int = 0  # on the street: a first look should not take long; 0 leaves the base's
    extended: int = 0  # more training images, for a step that asks for them
    pretrained: str = ""  # where training on it starts; "" as on other data
    budget: Budget | None = None  # None as on other data


@dataclass(frozen=True)
class Profile:
    """A base and what varies around it, for one kind of hardware."""

    base: Mapping[str, Any]
    fields: Mapping[str, SpaceEntry]
    budget: Budget
    max_pixels: int  # of a fitted canvas
    street: StreetData
    chain: tuple[Step, ...] = ()  # an ablation over the base; the first step is the base itself
    starts: Mapping[str, Start] = field(
        default_factory=dict
    )  # by `pretrained` (none, imagenet, coco, file), but its own

    def from_start(self, pretrained: str) -> Profile:
        """This profile as it is where training starts from these weights: "" is its own start."""
        own = self.base.get("pretrained", DetectorConfig.pretrained)
        start = self.starts.get(pretrained if pretrained in WEIGHTS_BY_NAME else "file")
        if pretrained in ("", own) or start is None:
            return self if pretrained in ("", own) else replace(self, base={**self.base, "pretrained": pretrained})
        fields = {**self.fields, **start.fields}
        return replace(
            self, base={**self.base, **start.base, "pretrained": pretrained},
            fields={name: entry for name, entry in fields.items() if entry is not None},
        )  # fmt: skip


@dataclass(frozen=True)
class Space:
    """A named space with its `cpu` and `gpu` profiles."""

    name: str
    about: str
    profiles: Mapping[str, Profile]
    full_turn_fields: tuple[str, ...] = ("roll_probability",)  # searched only where images are a full turn
    constraints: tuple[Constraint, ...] = ()  # what must hold across fields of every config that is tried

    def place(self, profile: str) -> str:
        """Where something stands, for messages."""
        return f"space {self.name}, profile {profile}"


@dataclass
class ResolvedSpace:
    """A profile completed by a dataset: plain values and distributions only."""

    space: str
    profile: str
    base: DetectorConfig
    fields: dict[str, Distribution | When]
    budget: Budget
    notes: list[str] = field(default_factory=list)  # what was fitted or left out, in words
    constraints: tuple[Constraint, ...] = ()

    def config(self, values: Mapping[str, Any]) -> DetectorConfig:
        """The config of a proposal: base, then the values whose field that config consumes.

        Raises: ConfigError where the values break a rule across fields, or a constraint of the space.
        """
        active = active_fields(self.base.with_values(values))
        config = self.base.with_values({name: value for name, value in values.items() if name in active})
        for constraint in self.constraints:
            constraint.check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain values for study.json: a resumed study searches the space that was planned, whatever the file says now."""
        return {
            "space": self.space,
            "profile": self.profile,
            "base": self.base.to_dict(),
            "fields": {name: entry_to_dict(entry) for name, entry in self.fields.items()},
            "budget": vars(self.budget),
            "notes": self.notes,
            "constraints": [constraint.text for constraint in self.constraints],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ResolvedSpace:
        """The inverse of `to_dict`."""
        fields = {name: entry_from_dict(entry) for name, entry in plain["fields"].items()}
        base = DetectorConfig.from_record(plain["base"])
        constraints = tuple(Constraint(text) for text in plain.get("constraints", ()))
        budget = Budget(**plain["budget"])
        return cls(plain["space"], plain["profile"], base, fields, budget, list(plain["notes"]), constraints)

    def contains(self, name: str, value: Any) -> bool:
        """Whether a value of a field lies inside the space."""
        entry = self.fields[name]
        options = list(entry.cases.values()) if isinstance(entry, When) else [entry]
        return any(option.contains(value) for option in options)


def train_split_of(space: Space, profile: str, fixed: Mapping[str, Any], step: str | None = None) -> str:
    """The training split that a study's base asks for, known before any data is read."""
    chosen = space.profiles[profile]
    values = [s.changes for s in steps_up_to(chosen.chain, step, space.place(profile))] if step else []
    return str(next((v["train_split"] for v in (fixed, *reversed(values), chosen.base) if "train_split" in v), "train"))


def resolve(
    space: Space,
    profile: str,
    facts: DatasetFacts,
    fixed: Mapping[str, Any] | None = None,
    step: str | None = None,
) -> ResolvedSpace:
    """The space for one dataset; `fixed` fields (from --set) go into the base and are not searched.

    With `step`, the base is that step of the space's chain.

    Raises: SpaceError or ConfigError for a base or field that cannot be.
    """
    fixed = dict(fixed or {})
    chosen = space.profiles[profile].from_start(str(fixed.get("pretrained", "")))
    notes: list[str] = []
    base_values = {"schedule_epochs": chosen.budget.epochs, **chosen.base, **fixed}
    settled = set(fixed)
    by_kmeans = base_values.pop(ANCHORS, None) == FITTED
    scales = base_values.get("anchor_scales", DetectorConfig.anchor_scales)
    if by_kmeans:
        base_values |= dict.fromkeys(KMEANS_ANCHORS - set(fixed), FITTED)
        settled |= KMEANS_ANCHORS
    fitted = _fit(base_values, chosen.max_pixels, facts, len(scales) if by_kmeans else 0)
    for name, value in fitted.items():
        if base_values.get(name) == FITTED:
            base_values[name] = value
            source = "images" if name == "image_size_px" else "training boxes"
            notes.append(f"{name} {value} fitted to the {source}")
    if step:
        chain = steps_up_to(chosen.chain, step, space.place(profile))
        # What the user fixes is laid over the step, not under the chain: a step may change the same field on its way.
        passed = set(fixed) & {name for above in chain for name in above.changes}
        own = {name: chosen.base[name] for name in passed if name in chosen.base}
        plain = DetectorConfig.from_dict({**{k: v for k, v in base_values.items() if k not in passed}, **own})
        steps, left_out = resolve_chain(chain, plain, {})
        if steps[-1].name != step:
            raise SpaceError(f"--from {step}: {left_out[-1]}")
        notes += [f"the base is step {step}", *left_out]
        base = plain.with_values({**steps[-1].values, **fixed})
    else:
        base = DetectorConfig.from_dict(base_values)
    fields: dict[str, Distribution | When] = {}
    for name, entry in chosen.fields.items():
        if name in settled:
            continue
        if name in space.full_turn_fields and not facts.full_turn:
            notes.append(f"{name} is not searched: the images are not a full turn")
            continue
        if isinstance(entry, AtHand):
            options = [trunk for trunk in entry.trunks if trunk == base.trunk or at_hand(trunk)]
            if len(options) < 2 or base.pretrained != "imagenet" or base.trunk not in options:
                notes.append(f"{name} is not searched: no other trunk than {base.trunk} has its weights at hand")
                continue
            entry = Choice(*options)
        fields[name] = _complete(name, entry, fitted.get(name))
    for name, entry in list(fields.items()):  # a condition on a field that is not searched is decided here
        if isinstance(entry, When) and entry.field not in fields:
            case = entry.cases.get(getattr(base, entry.field))
            if case is None:
                notes.append(f"{name} is not searched: {entry.field} is {getattr(base, entry.field)!r} throughout")
                del fields[name]
            else:
                fields[name] = case
    for constraint in space.constraints:
        constraint.check(base)
    return ResolvedSpace(space.name, profile, base, fields, chosen.budget, notes, space.constraints)


def _fit(values: Mapping[str, Any], max_pixels: int, facts: DatasetFacts, kmeans_sizes: int) -> dict[str, Any]:
    """What a dataset gives to a base of these values, by field, whether the base asks for it or not.

    `kmeans_sizes`: so many sizes a level, fitted with the ratios by k-means; 0 fits one ladder of sizes.
    """
    canvas = values.get("image_size_px", DetectorConfig.image_size_px)
    neck_levels = _base_or_default(values, "neck_levels")
    if canvas == FITTED:
        deepest = neck_levels[-1] if _base_or_default(values, "trunk") == "report_ssd" else 5
        canvas = fit_canvas(facts, max_pixels, 2**deepest)
    canvas = (canvas[0], canvas[1])
    has_neck = _base_or_default(values, "neck") != "none"
    levels = len(neck_levels) + (_base_or_default(values, "extra_levels") if has_neck else 0)
    if kmeans_sizes:
        strides = [2 ** (neck_levels[0] + n) for n in range(levels)]
        sizes, ratios = fit_anchors(facts, canvas, strides, sizes_per_level=kmeans_sizes)
        made = {"anchor_kind": "retinanet", "anchor_sizes": sizes, "anchor_ratios": ratios, "anchor_scales": (1.0,)}
        return {"image_size_px": canvas, **made}
    scales = tuple(_base_or_default(values, "anchor_scales"))
    return {
        "image_size_px": canvas,
        "anchor_sizes": fit_anchor_size(facts, canvas, 2 ** neck_levels[0], levels, scales),
        "anchor_ratios": fit_anchor_ratios(facts),
    }


def _base_or_default(base: Mapping[str, Any], name: str) -> Any:
    return base.get(name, getattr(DetectorConfig, name))


def _complete(name: str, entry: SpaceEntry, fitted: Any) -> Distribution | When:
    """An entry as it is searched: fitted, and its options and conditions in the form that a config holds them in."""
    if isinstance(entry, When):
        cases = {coerce(entry.field, case): _complete(name, option, fitted) for case, option in entry.cases.items()}
        return When(entry.field, cases)  # type: ignore[arg-type]
    assert not isinstance(entry, AtHand), name
    if isinstance(entry, Fitted):
        return entry.around(fitted)
    if isinstance(entry, Choice) and FITTED in entry.options:
        options = [fitted if option == FITTED else option for option in entry.options]
        return Choice(*dict.fromkeys(coerce(name, as_tuple(option)) for option in options))
    if isinstance(entry, Choice):
        return Choice(*dict.fromkeys(coerce(name, as_tuple(option)) for option in entry.options))
    return entry


def check_space(space: Space) -> Space:
    """The space itself.

    Raises: SpaceError for a name that is no DetectorConfig field, with the nearest one.
    """
    for profile_name, profile in space.profiles.items():
        steps = [(f"step {step.name}", step.changes) for step in profile.chain]
        for kind, names in (("base", profile.base), ("fields", profile.fields), *steps):
            for name in names:
                if name == ANCHORS and kind == "base" and names[name] == FITTED:
                    continue
                if name not in FIELD_NAMES:
                    near = difflib.get_close_matches(name, FIELD_NAMES, n=1)
                    hint = f' Did you mean "{near[0]}"?' if near else ""
                    raise SpaceError(
                        f'space {space.name}, profile {profile_name}, {kind}: "{name}" is not a DetectorConfig field.{hint}'
                    )
        step_names = [step.name for step in profile.chain]
        if len(set(step_names)) < len(step_names):
            raise SpaceError(f"{space.place(profile_name)}: steps must have names of their own, got {step_names}")
        for name, entry in profile.fields.items():
            if isinstance(entry, Fitted) and name != "anchor_sizes":
                raise SpaceError(f"{space.place(profile_name)}: only anchor_sizes can be fitted, not {name}")
            for value in ends(entry):
                try:
                    check_value(name, value)
                except ConfigError as error:
                    raise SpaceError(
                        f"{space.place(profile_name)}: fields.{name} offers what that field cannot be: {error}"
                    ) from None
            for case in entry.cases if isinstance(entry, When) else ():
                assert isinstance(entry, When)
                try:
                    check_value(entry.field, case)
                except (ConfigError, KeyError) as error:
                    raise SpaceError(
                        f"{space.place(profile_name)}: {name} stands under a case that cannot be: {error}"
                    ) from None
            if isinstance(entry, When) and entry.field not in profile.fields and entry.field not in profile.base:
                raise SpaceError(
                    f"{space.place(profile_name)}: {name} depends on {entry.field}, which is neither in "
                    "base nor in fields"
                )
    return space


def ends(entry: SpaceEntry) -> list[Any]:
    """The options of a choice, the ends of a range: values that a field must be able to take."""
    if isinstance(entry, (Fitted, AtHand)):
        return []
    if isinstance(entry, When):
        return [value for case in entry.cases.values() for value in ends(case)]
    if isinstance(entry, Choice):
        return [option for option in entry.options if option != FITTED]
    return [entry.low, entry.high]
