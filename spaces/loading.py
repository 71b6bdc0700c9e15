"""Spaces by name, or from a user's .py or .yaml file.

A Python file defines `SPACE`; a YAML file has the same parts, over another space that it includes.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

from spaces.chain import Step
from spaces.distributions import Choice, Fitted, Float, Integer, SpaceEntry, SpaceError, as_tuple
from spaces.space import Budget, Profile, Space, check_space


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
    if isinstance(content, dict) and "chain" in content:
        content.setdefault("fields", {})
    if not isinstance(content, dict) or not isinstance(content.get("fields"), dict):
        raise SpaceError(
            f"--space {path}: must have `fields:` (a mapping) or `chain:`; optional: include, about, base, budget"
        )
    unknown = sorted(set(content) - {"include", "about", "base", "budget", "fields", "chain"})
    if unknown:
        raise SpaceError(f"--space {path}: has {unknown}; it may have include, about, base, budget, fields, chain")
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
        chain = _chain_from_yaml(path, content["chain"]) if "chain" in content else profile.chain
        profiles[name] = Profile(base, fields, budget, profile.max_pixels, profile.street, chain)
    return Space(path.stem, str(content.get("about", f"from {path.name}")), profiles)


def _known(path: Path, values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    unknown = [key for key in values if key not in names]
    if unknown:
        raise SpaceError(f"--space {path}: budget has {unknown}, it may have {', '.join(names)}")
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpaceError(f"--space {path}: budget.{key} must be a whole number from 1 on, got {value!r}")
    return dict(values)


def _chain_from_yaml(path: Path, rows: Any) -> tuple[Step, ...]:
    """Steps written as {name: .., change: {field: value}}; a base step is put first."""
    if not isinstance(rows, list):
        raise SpaceError(
            f"--space {path}: chain must be a list of {{name: .., change: {{field: value}}}}, got {rows!r}"
        )
    steps = [Step("base", {})]
    for row in rows:
        change = row.get("change") if isinstance(row, dict) else None
        if not isinstance(row, dict) or set(row) != {"name", "change"} or not isinstance(change, dict):
            raise SpaceError(f"--space {path}: a step must be {{name: .., change: {{field: value}}}}, got {row!r}")
        steps.append(Step(str(row["name"]), {str(name): as_tuple(value) for name, value in change.items()}))
    return tuple(steps)


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
