"""Fixtures that start real commands, and the options of the fault tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.fault import Table, printed_table
from tests.running import ROOT, Command


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often each fault is tried, and from which seed their moments are drawn."""
    parser.addoption(
        "--repeat", type=int, default=1, help="times that each fault of tests/faults is tried (default: 1)"
    )
    parser.addoption(
        "--fault-seed", type=int, default=None, help="seed of the faults' moments (default: drawn, printed)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault so often as --repeat says."""
    if "attempt" in metafunc.fixturenames:
        metafunc.parametrize("attempt", range(metafunc.config.getoption("--repeat")))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """What the faults of a module came to, printed at its end."""
    with printed_table(request.config) as found:
        yield found


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all studies here: the street is made and decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def start(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts `python -m search.run ...`, with more environment by keywords; whatever still lives at the end is killed."""
    commands: list[Command] = []

    def begin(*arguments: str, **environs: str) -> Command:
        out = tmp_path_factory.mktemp("out") / "out.txt"
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
            **environs,
        }
        with out.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "search.run", *arguments],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        commands.append(Command(process, out))
        return commands[-1]

    try:
        yield begin
    finally:
        for command in commands:
            command.kill_tree()
