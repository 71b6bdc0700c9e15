"""Who may look into whom: every package imported in a fresh interpreter, and what that brought with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("detector", "spaces", "results", "search")


def modules_of(package: str) -> list[str]:
    """Dotted names of a package's modules, found on disk."""
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def brought_by(modules: list[str]) -> set[str]:
    """Top-level names in sys.modules after importing `modules` in a fresh interpreter."""
    code = (
        f"import importlib, json, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", OURS)
def test_a_package_alone_brings_nothing_of_ours_but_itself(package: str) -> None:
    found = brought_by([package])
    assert package in found
    assert found & {*OURS, "torch", "ray", "optuna"} == {package}


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("spaces", {"torch", "torchvision", "ray", "optuna", "search", "results"}),
        ("detector", {"ray", "optuna", "search", "results", "spaces"}),
        ("results", {"ray", "torch", "torchvision", "search", "spaces"}),
    ],
)
def test_all_modules_of_a_package_together(package: str, never: set[str]) -> None:
    modules = modules_of(package)
    assert len(modules) > 3
    assert brought_by(modules) & never == set()


@pytest.mark.parametrize("module", modules_of("spaces"))
def test_each_space_module_alone_brings_neither_torch_nor_ray(module: str) -> None:
    assert brought_by([module]) & {"torch", "ray"} == set()


@pytest.mark.parametrize(
    "module",
    [
        "detector.config",
        "detector.data.coco",
        "detector.data.dataset",
        "detector.commands",
        "results.records",
        "search.rungs",
        "search.engine",
    ],
)
def test_what_must_be_light_brings_neither_torch_nor_ray(module: str) -> None:
    assert brought_by([module]) & {"torch", "ray"} == set()


def test_the_search_command_parses_without_torch_or_ray() -> None:
    """--help and a mistake are answered at once; ray reads its settings only when a study starts."""
    assert brought_by(["search.run", "search.study"]) & {"torch", "ray"} == set()


def test_the_config_needs_the_standard_library_only() -> None:
    assert brought_by(["detector.config"]) <= set(sys.stdlib_module_names) | {"detector", "__main__"} | brought_by(
        ["json"]
    )
