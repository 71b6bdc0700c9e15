"""A space in YAML: the parts of a Python space, over another one that it includes. Mistakes are told with their line.

include: retinanet                  # the space underneath (default: retinanet)
base: {trunk: resnet34}             # changes on its base
budget: {trials: 12, epochs: 24}
fields:
  lr: {log: [0.0005, 0.005]}        # also float, integer, choice, fitted: [low, high] as a factor
  zoom_max: {quantised: [0, 0.4, 0.1]}
  sgd_momentum: {float: [0.8, 0.99], only_if: {optimizer: sgd}}
  batch_size: 8                     # a constant
constraints: ["match_iou_low < match_iou_high"]
chain: [{name: +giou, change: {box_loss: giou}}]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from detector.config import ConfigError, check_field_name, check_value
from spaces.chain import Step
from spaces.constraints import Constraint
from spaces.distributions import Choice, Distribution, Fitted, Float, Integer, SpaceEntry, SpaceError, When, as_tuple
from spaces.space import ANCHORS, FITTED, Space, Start, ends

PARTS = ("include", "about", "base", "budget", "fields", "constraints", "chain")
KINDS = "float: [low, high], log: [low, high], quantised: [low, high, step], integer: [low, high], choice: [...], fitted: [low, high]"


class YamlFile:
    """A YAML file's content, and the line of every part of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.content = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"--space {path}: must be a readable file ({getattr(error, 'strerror', error)})") from None
        except (yaml.YAMLError, ValueError) as error:
            raise SpaceError(f"--space {path}: must be YAML; reading it said: {error}") from None
        self._lines: dict[tuple[Any, ...], int] = {}
        self._note(node, ())

    def _note(self, node: Any, place: tuple[Any, ...]) -> None:
        """Remembers where a node and what is inside it stand."""
        if node is None:
            return
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                line = key.start_mark.line + 1
                if (*place, key.value) in self._lines:
                    first = self._lines[(*place, key.value)]
                    raise SpaceError(
                        f"--space {self.path}, line {line}: {key.value!r} stands on line {first} already; keep one"
                    )
                self._lines[(*place, key.value)] = line
                self._note(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self._note(item, (*place, number))

    def error(self, place: tuple[Any, ...], text: str) -> SpaceError:
        """A mistake at a place (keys and positions from the top), with the line of the nearest known part."""
        while place and place not in self._lines:
            place = place[:-1]
        line = f", line {self._lines[place]}" if place in self._lines else ""
        return SpaceError(f"--space {self.path}{line}: {text}")


def read_yaml_space(path: Path, load_parent: Callable[[str], Space]) -> Space:
    """The space that a YAML file describes.

    Raises: SpaceError with file and line for whatever is wrong.
    """
    file = YamlFile(path)
    content = file.content
    if not isinstance(content, dict) or not ({"fields", "chain"} & set(content)):
        raise file.error(
            (), "must have `fields:` (a mapping) or `chain:`; optional: include, about, base, budget, constraints"
        )
    unknown = sorted(str(name) for name in set(content) - set(PARTS))
    if unknown:
        raise file.error((unknown[0],), f"has {unknown}; it may have {', '.join(PARTS)}")
    parts = {name: _mapping(file, name) for name in ("base", "budget", "fields")}
    parent = load_parent(str(content.get("include", "retinanet")))
    constants = _constants(file, "fields", {k: v for k, v in parts["fields"].items() if not isinstance(v, dict)})
    base_values = _constants(file, "base", parts["base"])
    fields = {
        str(name): _entry(file, ("fields", name), value)
        for name, value in parts["fields"].items()
        if isinstance(value, dict)
    }
    constraints = (*parent.constraints, *_constraints(file))
    profiles = {}
    for name, profile in parent.profiles.items():
        asked = _budget(file, parts["budget"], tuple(vars(profile.budget)))
        own = {**base_values, **constants}
        profile = profile.from_start(str(own.get("pretrained", "")))
        street = profile.street
        if street.budget is not None:
            street = replace(street, budget=replace(street.budget, **asked))
        if "pretrained" in own or "pretrained" in fields:
            street = replace(street, pretrained="")  # the file's own start, on any data
        profiles[name] = replace(
            profile, base={**profile.base, **own}, fields=fields, budget=replace(profile.budget, **asked), street=street,
            chain=_chain(file) if "chain" in content else profile.chain,
            starts={start: Start({k: v for k, v in other.base.items() if k not in own})
                    for start, other in profile.starts.items()},
        )  # fmt: skip
    return Space(path.stem, str(content.get("about", f"from {path.name}")), profiles, constraints=constraints)


def _mapping(file: YamlFile, part: str) -> dict[Any, Any]:
    value = file.content.get(part) or {}
    if not isinstance(value, dict):
        raise file.error((part,), f"{part} must be a mapping, got {value!r}")
    return value


def _constants(file: YamlFile, part: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    """Fields that are given as one value, in the base or as a constant among the fields."""
    constants = {}
    for name, value in values.items():
        kinds = f". A range is one of {{{KINDS}}}" if part == "fields" else ""
        if value == FITTED and name == ANCHORS:
            constants[ANCHORS] = value
            continue
        _check_name(file, (part, name))
        try:
            if value != FITTED:
                check_value(str(name), as_tuple(value))
        except ConfigError as error:
            raise file.error((part, name), f"{part}.{name}: {error}{kinds}") from None
        constants[str(name)] = as_tuple(value)
    return constants


def _check_name(file: YamlFile, place: tuple[Any, ...]) -> None:
    """Raises: SpaceError, with its line, for a name that is no field."""
    try:
        check_field_name(str(place[-1]), ".".join(map(str, place)))
    except ConfigError as error:
        raise file.error(place, str(error)) from None


def _budget(file: YamlFile, values: Mapping[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for key, value in values.items():
        if key not in names:
            raise file.error(("budget", key), f"budget has {key!r}, it may have {', '.join(names)}")
        kinds = (int, float) if key == "polish" else int
        if not isinstance(value, kinds) or isinstance(value, bool) or not value >= 1:
            whole = "number" if key == "polish" else "whole number"
            raise file.error(("budget", key), f"budget.{key} must be a {whole} from 1 on, got {value!r}")
    return dict(values)


def _constraints(file: YamlFile) -> tuple[Constraint, ...]:
    rows = file.content.get("constraints") or []
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise file.error(("constraints",), f"constraints must be a list of texts, got {rows!r}")
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(Constraint(row))
        except SpaceError as error:
            raise file.error(("constraints", number), str(error)) from None
    return tuple(found)


def _chain(file: YamlFile) -> tuple[Step, ...]:
    """Steps written as {name: .., change: {field: value}}; a base step is put first."""
    rows = file.content["chain"]
    if not isinstance(rows, list):
        raise file.error(("chain",), f"chain must be a list of {{name: .., change: {{field: value}}}}, got {rows!r}")
    steps = [Step("base", {})]
    for number, row in enumerate(rows):
        change = row.get("change") if isinstance(row, dict) else None
        if not isinstance(row, dict) or set(row) != {"name", "change"} or not isinstance(change, dict):
            raise file.error(("chain", number), f"a step must be {{name: .., change: {{field: value}}}}, got {row!r}")
        for name in change:
            _check_name(file, ("chain", number, "change", name))
        steps.append(Step(str(row["name"]), {str(name): as_tuple(value) for name, value in change.items()}))
    return tuple(steps)


def _entry(file: YamlFile, place: tuple[Any, ...], value: dict[Any, Any]) -> SpaceEntry:
    """A field's distribution, under its condition where it has one."""
    _check_name(file, place)
    condition = value.get("only_if")
    if "only_if" not in value:
        return _distribution(file, place, value)
    if not isinstance(condition, dict) or len(condition) != 1:
        raise file.error((*place, "only_if"), f"only_if must be {{field: value}} with one field, got {condition!r}")
    ((field, cases),) = condition.items()
    found = _distribution(file, place, {key: v for key, v in value.items() if key != "only_if"})
    if isinstance(found, Fitted):
        raise file.error(place, f"{place[-1]}: a fitted field cannot stand under a condition")
    options = cases if isinstance(cases, list) else [cases]
    for case in options:
        try:
            check_field_name(str(field), f"{place[-1]}: only_if")
            check_value(str(field), as_tuple(case))
        except ConfigError as error:
            raise file.error((*place, "only_if"), str(error)) from None
    return When(str(field), {as_tuple(case): found for case in options})


def _distribution(file: YamlFile, place: tuple[Any, ...], value: dict[Any, Any]) -> Distribution | Fitted:
    name = ".".join(map(str, place))
    if len(value) == 1:
        kind, arguments = next(iter(value.items()))
        if isinstance(arguments, list):
            try:
                found = _of_kind(str(kind), arguments)
                for value_of_field in ends(found):
                    check_value(str(place[-1]), value_of_field)
                return found
            except KeyError:
                pass
            except (TypeError, ValueError, OverflowError) as error:
                raise file.error((*place, kind), f"{name}: {error}") from None
    raise file.error(place, f"{name} must be a constant or one of {{{KINDS}}}, got {value!r}")


def _of_kind(kind: str, arguments: list[Any]) -> Distribution | Fitted:
    match kind:
        case "float":
            low, high = map(float, arguments)
            return Float(low, high)
        case "log":
            low, high = map(float, arguments)
            return Float(low, high, log=True)
        case "quantised":
            low, high, step = map(float, arguments)
            return Float(low, high, step=step)
        case "integer":
            whole_low, whole_high = (_whole(number) for number in arguments)
            return Integer(whole_low, whole_high)
        case "choice":
            return Choice(*(as_tuple(option) for option in arguments))
        case "fitted":
            return Fitted(*map(float, arguments))
    raise KeyError(kind)


def _whole(number: Any) -> int:
    if isinstance(number, bool) or float(number) != int(number):
        raise ValueError(f"an integer range has whole ends, got {number!r}")
    return int(number)
