"""What a result may depend on besides the plan: versions, commit, command line."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "optuna",
    "faster-coco-eval",
    "pycocotools",
    "numpy",
    "pandas",
    "tensorboard",
)


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the code, marked where files were changed; "" outside a checkout."""
    try:
        run = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def command_line() -> str:
    """How this process was called, for the record."""
    program = Path(sys.argv[0])
    head = f"python -m {program.parent.name}.{program.stem}" if program.suffix == ".py" else program.name
    return " ".join([head, *map(shlex.quote, sys.argv[1:])])
