"""What every command shares at the edge: a user's mistake is one message and exit 2, never a traceback."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detector.config import ConfigError
from detector.data.dataset import DataError

EXIT_USER_ERROR = 2
USER_ERRORS = (ConfigError, DataError)


class CommandError(ValueError):
    """A command called in a way that cannot work; the message gives rule, value and remedy."""


@contextlib.contextmanager
def command(*more_errors: type[Exception]) -> Iterator[None]:
    """Runs a command's body: our own errors about what the user gave become `error: ...` and exit 2.

    `more_errors` are those of other packages that the command calls.
    """
    refusals: tuple[type[Exception], ...] = (*USER_ERRORS, CommandError, *more_errors)
    try:
        yield
    except refusals as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def check_torch_pair() -> None:
    """Raises: CommandError where torch and torchvision do not work together."""
    from detector.torch_pair import torch_pair_problem

    problem = torch_pair_problem()
    if problem:
        raise CommandError(problem)


def check_device(name: str | None) -> None:
    """Raises: CommandError where torch has no device of this name here; None stands for the default."""
    import torch

    if name is None:
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(
            f"--device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu or cuda"
        ) from None


def check_out_folder(path: Path) -> None:
    """Raises: CommandError where --out names something that is no folder."""
    if path.exists() and not path.is_dir():
        raise CommandError(f"--out must be a folder; {path} is a file")


def check_extra(extra: str, *modules: str) -> None:
    """Raises: CommandError, with the command that installs it, where an optional dependency is missing."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise CommandError(
            f'detector.{extra} needs {error.name}; install it with pip install -e ".[{extra}]"'
        ) from None


def read_json_file(path: Path, kind: type) -> Any:
    """The JSON object (dict) or array (list) in a file.

    Raises: DataError where there is no such file or it holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: must be a readable file ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: must be JSON; reading it said: {error}") from None
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "an array"
        raise DataError(f"{path}: must hold JSON {wanted}, not a {type(content).__name__}")
    return content
