"""Spaces by name, or from a user's .py or .yaml file.

A Python file defines `SPACE`; a YAML file has the same parts, over another space that it includes.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from pathlib import Path

from spaces.distributions import SpaceError
from spaces.space import Space, check_space
from spaces.yaml_space import read_yaml_space


def load_space(name: str, including: tuple[Path, ...] = ()) -> Space:
    """A space by name (a module of this package), or from a .py or .yaml file; `including` files led here.

    Raises: SpaceError naming what was looked for and what there is.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.resolve() in including:
            raise SpaceError(f"--space {path}: a space must not include itself ({' -> '.join(map(str, including))})")
        led_here = (*including, path.resolve())
        return check_space(read_yaml_space(path, lambda parent: load_space(_beside(parent, path), led_here)))
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


def _beside(parent: str, path: Path) -> str:
    """What a file includes: another file of its own folder where there is one of that name, else as it is written."""
    beside = path.parent / parent
    return str(beside) if Path(parent).suffix and not Path(parent).is_absolute() and beside.is_file() else parent


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
