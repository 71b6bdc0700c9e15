"""What comes from outside is data and never code; what is secret stays out of what is written."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
import torch

from detector.checkpoint import load_checkpoint
from tests.running import ROOT

PACKAGES = ("search", "detector", "spaces", "results", "clusters")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# Modules that run code found in what they read, and calls that do without the argument named.
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SAFE_CALLS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
FORBIDDEN_CALLS = {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "eval", "exec"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_can_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not FORBIDDEN_MODULES & {name.partition(".")[0] for name in names}, names
    for name, call in calls(path):
        assert name not in FORBIDDEN_CALLS, f"line {call.lineno}: {name}"
        if name in SAFE_CALLS:
            argument, value = SAFE_CALLS[name]
            given = {
                keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == argument
            }
            assert given.get(argument, False) is value, f"line {call.lineno}: {name}"


class RunsWhenUnpickled:
    """What a hostile checkpoint would hold."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_hostile_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    torch.save({"format": 1, "model": RunsWhenUnpickled(mark)}, tmp_path / "checkpoint.pt")
    assert load_checkpoint(tmp_path / "checkpoint.pt") is None
    assert not mark.exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert mark.exists(), "it would have run"


def test_a_hostile_space_is_refused(tmp_path: Path) -> None:
    from spaces.distributions import SpaceError
    from spaces.loading import load_space

    mark = tmp_path / "it ran"
    file = tmp_path / "space.yaml"
    file.write_text(f"include: smoke\nbase: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(SpaceError):
        load_space(str(file))
    assert not mark.exists()


def test_what_a_plan_remembers_of_its_command_and_machine_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from search.provenance import command_line, commit, versions

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-4711")
    assert "planted-secret-4711" not in json.dumps([command_line(), commit(), versions()])
