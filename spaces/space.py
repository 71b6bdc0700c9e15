"""Space: what may vary, around which base, with which budget; and how a dataset completes it.

A space file is a Python module with `SPACE`, or a YAML file with the same parts; both are loaded by `load_space`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detector.config import FIELD_NAMES, ConfigError, DetectorConfig, active_fields, check_value
from spaces.distributions import (
    Choice,
    Distribution,
    Fitted,
    Float,
    Integer,
    SpaceEntry,
    SpaceError,
    When,
    as_tuple,
    entry_from_dict,
    entry_to_dict,
)
from spaces.fitting import DatasetFacts, fit_anchor_ratios, fit_anchor_size, fit_canvas

FITTED = "fitted"  # stands for a value that the dataset gives, in a base or among the options of a Choice


@dataclass(frozen=True)
class Budget:
    """How much a study trains unless the command line says otherwise."""

    trials: int
    epochs: int  # R
    grace: int  # r, the first rung
    eta: int = 3


@dataclass(frozen=True)
class StreetData:
    """How much of the simulated street a study makes when no dataset is named."""

    train: int
    val: int
    test: int
    degrees: int
    steps_per_epoch: int = 0  # on the street: a first look should not take long; 0 leaves the base's


@dataclass(frozen=True)
class Profile:
    """A base and what varies around it, for one kind of hardware."""

    base: Mapping[str, Any]
    fields: Mapping[str, SpaceEntry]
    budget: Budget
    max_pixels: int  # of a fitted canvas
    street: StreetData


@dataclass(frozen=True)
class Space:
    """A named space with its `cpu` and `gpu` profiles."""

    name: str
    about: str
    profiles: Mapping[str, Profile]
    full_turn_fields: tuple[str, ...] = ("roll_probability",)  # searched only where images are a full turn


@dataclass
class ResolvedSpace:
    """A profile completed by a dataset: plain values and distributions only."""

    space: str
    profile: str
    base: DetectorConfig
    fields: dict[str, Distribution | When]
    budget: Budget
    notes: list[str] = field(default_factory=list)  # what was fitted or left out, in words

    def config(self, values: Mapping[str, Any]) -> DetectorConfig:
        """The config of a proposal: base, then the values whose field that config consumes.

        Raises: ConfigError where the values break a rule across fields.
        """
        config = self.base.with_values(values)
        return self.base.with_values({name: value for name, value in values.items() if name in active_fields(config)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for study.json: a resumed study searches the space that was planned, whatever the file says now."""
        return {
            "space": self.space,
            "profile": self.profile,
            "base": self.base.to_dict(),
            "fields": {name: entry_to_dict(entry) for name, entry in self.fields.items()},
            "budget": vars(self.budget),
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ResolvedSpace:
        """The inverse of `to_dict`."""
        fields = {name: entry_from_dict(entry) for name, entry in plain["fields"].items()}
        base = DetectorConfig.from_dict(plain["base"])
        return cls(plain["space"], plain["profile"], base, fields, Budget(**plain["budget"]), list(plain["notes"]))

    def contains(self, name: str, value: Any) -> bool:
        """Whether a value of a field lies inside the space."""
        entry = self.fields[name]
        options = list(entry.cases.values()) if isinstance(entry, When) else [entry]
        return any(option.contains(value) for option in options)


def resolve(space: Space, profile: str, facts: DatasetFacts, fixed: Mapping[str, Any] | None = None) -> ResolvedSpace:
    """The space for one dataset; `fixed` fields (from --set) go into the base and are not searched.

    Raises: SpaceError or ConfigError for a base or field that cannot be.
    """
    chosen = space.profiles[profile]
    fixed = dict(fixed or {})
    notes: list[str] = []
    base_values = {**chosen.base, **fixed}
    if base_values.get("image_size_px") == FITTED:
        base_values["image_size_px"] = fit_canvas(facts, chosen.max_pixels)
        notes.append(
            f"canvas {base_values['image_size_px'][0]} x {base_values['image_size_px'][1]} fitted to the images"
        )
    base_values.setdefault("schedule_epochs", chosen.budget.epochs)
    canvas = tuple(_base_or_default(base_values, "image_size_px"))
    neck_levels = _base_or_default(base_values, "neck_levels")
    has_neck = _base_or_default(base_values, "neck") != "none"
    levels = len(neck_levels) + (_base_or_default(base_values, "extra_levels") if has_neck else 0)
    scales = tuple(_base_or_default(base_values, "anchor_scales"))
    fitted: dict[str, Any] = {
        "anchor_sizes": fit_anchor_size(facts, (canvas[0], canvas[1]), 2 ** neck_levels[0], levels, scales),
        "anchor_ratios": fit_anchor_ratios(facts),
    }
    for name, value in fitted.items():
        if base_values.get(name) == FITTED:
            base_values[name] = value
            notes.append(f"{name} {value} fitted to the training boxes")
    fields: dict[str, Distribution | When] = {}
    for name, entry in chosen.fields.items():
        if name in fixed:
            continue
        if name in space.full_turn_fields and not facts.full_turn:
            notes.append(f"{name} is not searched: the images are not a full turn")
            continue
        fields[name] = _complete(entry, fitted.get(name))
    base = DetectorConfig.from_dict(base_values)
    for name, entry in list(fields.items()):  # a condition on a field that is not searched is decided here
        if isinstance(entry, When) and entry.field not in fields:
            case = entry.cases.get(getattr(base, entry.field))
            if case is None:
                del fields[name]
            else:
                fields[name] = case
    return ResolvedSpace(space.name, profile, base, fields, chosen.budget, notes)


def _base_or_default(base: Mapping[str, Any], name: str) -> Any:
    return base.get(name, getattr(DetectorConfig, name))


def _complete(entry: SpaceEntry, fitted: Any) -> Distribution | When:
    if isinstance(entry, Fitted):
        return entry.around(fitted)
    if isinstance(entry, Choice) and FITTED in entry.options:
        options = [fitted if option == FITTED else option for option in entry.options]
        return Choice(*dict.fromkeys(options))
    return entry


def check_space(space: Space) -> Space:
    """The space itself.

    Raises: SpaceError for a name that is no DetectorConfig field, with the nearest one.
    """
    for profile_name, profile in space.profiles.items():
        for kind, names in (("base", profile.base), ("fields", profile.fields)):
            for name in names:
                if name not in FIELD_NAMES:
                    near = difflib.get_close_matches(name, FIELD_NAMES, n=1)
                    hint = f' Did you mean "{near[0]}"?' if near else ""
                    raise SpaceError(
                        f'space {space.name}, profile {profile_name}, {kind}: "{name}" is not a DetectorConfig field.{hint}'
                    )
        for name, entry in profile.fields.items():
            if isinstance(entry, Fitted) and name != "anchor_sizes":
                raise SpaceError(
                    f"space {space.name}, profile {profile_name}: only anchor_sizes can be fitted, not {name}"
                )
            for value in _ends(entry):
                try:
                    check_value(name, value)
                except ConfigError as error:
                    raise SpaceError(
                        f"space {space.name}, profile {profile_name}: fields.{name} offers what that field cannot be: {error}"
                    ) from None
            if isinstance(entry, When) and entry.field not in profile.fields and entry.field not in profile.base:
                raise SpaceError(
                    f"space {space.name}, profile {profile_name}: {name} depends on {entry.field}, which is neither in "
                    "base nor in fields"
                )
    return space


def _ends(entry: SpaceEntry) -> list[Any]:
    """The options of a choice, the ends of a range: values that a field must be able to take."""
    if isinstance(entry, Fitted):
        return []
    if isinstance(entry, When):
        return [value for case in entry.cases.values() for value in _ends(case)]
    if isinstance(entry, Choice):
        return [option for option in entry.options if option != FITTED]
    return [entry.low, entry.high]


def load_space(name: str, including: tuple[Path, ...] = ()) -> Space:
    """A space by name (a module of this package), or from a .py or .yaml file; `including` files led here.

    Raises: SpaceError naming what was looked for and what there is.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.resolve() in including:
            raise SpaceError(f"--space {path}: a space must not include itself ({' -> '.join(map(str, including))})")
        return check_space(_from_yaml(path, (*including, path.resolve())))
    if path.suffix == ".py":
        return check_space(_from_python_file(path))
    known = space_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise SpaceError(
            f'--space "{name}" is no space; there are {", ".join(known)}, or give a .py or .yaml file.{hint}'
        )
    space = importlib.import_module(f"spaces.{name}").SPACE
    assert isinstance(space, Space), name
    return check_space(space)


def space_names() -> list[str]:
    """The spaces of this package: its modules that define SPACE."""
    folder = Path(__file__).parent
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if re.search(r"^SPACE\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def _from_python_file(path: Path) -> Space:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SpaceError(f"--space {path}: there is no such file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises is the user's to mend, without our traceback
        raise SpaceError(f"--space {path}: running it said {type(error).__name__}: {error}") from None
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise SpaceError(f"--space {path}: it must define SPACE, a spaces.space.Space")
    return space


_YAML_KINDS = "float: [low, high], log: [low, high], integer: [low, high], choice: [...], fitted: [low, high]"


def _from_yaml(path: Path, including: tuple[Path, ...]) -> Space:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpaceError(f"--space {path}: must be a readable file ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise SpaceError(f"--space {path}: must be YAML; reading it said: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("fields"), dict):
        raise SpaceError(f"--space {path}: must have `fields:` (a mapping); optional: include, about, base, budget")
    unknown = sorted(set(content) - {"include", "about", "base", "budget", "fields"})
    if unknown:
        raise SpaceError(f"--space {path}: has {unknown}; it may have include, about, base, budget, fields")
    for part in ("base", "budget"):
        content[part] = content.get(part) or {}
        if not isinstance(content[part], dict):
            raise SpaceError(f"--space {path}: {part} must be a mapping, got {content[part]!r}")
    parent = load_space(str(content.get("include", "retinanet")), including)
    profiles = {}
    for name, profile in parent.profiles.items():
        fields = {key: _entry_from_yaml(path, key, value) for key, value in content["fields"].items()}
        budget = Budget(
            **{**vars(profile.budget), **_known(path, content.get("budget", {}), tuple(vars(profile.budget)))}
        )
        base = {**profile.base, **content.get("base", {})}
        profiles[name] = Profile(base, fields, budget, profile.max_pixels, profile.street)
    return Space(path.stem, str(content.get("about", f"from {path.name}")), profiles)


def _known(path: Path, values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    unknown = [key for key in values if key not in names]
    if unknown:
        raise SpaceError(f"--space {path}: budget has {unknown}, it may have {', '.join(names)}")
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpaceError(f"--space {path}: budget.{key} must be a whole number from 1 on, got {value!r}")
    return dict(values)


def _entry_from_yaml(path: Path, name: str, value: Any) -> SpaceEntry:
    if isinstance(value, dict) and len(value) == 1:
        kind, arguments = next(iter(value.items()))
        if isinstance(arguments, list):
            try:
                match kind:
                    case "float":
                        low, high = map(float, arguments)
                        return Float(low, high)
                    case "log":
                        low, high = map(float, arguments)
                        return Float(low, high, log=True)
                    case "integer":
                        whole_low, whole_high = (int(number) for number in arguments)
                        return Integer(whole_low, whole_high)
                    case "choice":
                        return Choice(*(as_tuple(option) for option in arguments))
                    case "fitted":
                        return Fitted(*map(float, arguments))
            except (TypeError, ValueError) as error:
                raise SpaceError(f"--space {path}: fields.{name}: {error}") from None
    raise SpaceError(f"--space {path}: fields.{name} must be one of {{{_YAML_KINDS}}}, got {value!r}")


__all__ = ["ConfigError", "ResolvedSpace", "Space", "load_space", "resolve", "space_names"]
