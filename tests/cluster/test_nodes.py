"""A study on a Ray cluster whose nodes die and come: nothing lost, nothing counted twice, new nodes get trials."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import ROOT, STUDY_TIMEOUT, Command, check_finished, journal, trained_epochs, wait_for_epochs

pytestmark = pytest.mark.slow
# Of the cluster's own processes and of whoever joins them.
ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}


class Nodes:
    """The cluster's process, told line by line."""

    def __init__(self, log: Path) -> None:
        self._errors = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.nodes"], cwd=ROOT, env={**os.environ, **ENVIRONMENT}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith(("[", " ", "20")):  # Ray's own remarks
                return line.strip()
        raise AssertionError("the cluster's process ended")

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self._errors.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path / "cluster.txt")
    yield cluster
    cluster.end()


def study(start: Callable[..., Command], nodes: Nodes, runs: Path, *more: str) -> Command:
    words = ("--space", "smoke", "--profile", "cpu", "--runs-dir", str(runs), "--name", "f", *more)
    return start(*words, RAY_ADDRESS=nodes.address, **ENVIRONMENT)


def workers(folder: Path) -> set[str]:
    """The processes that trained, by the trials' logs."""
    return {
        line.rsplit(" ", 1)[1]
        for log in folder.glob("trials/*/log.txt")
        for line in log.read_text().splitlines()
        if ", process " in line
    }


def test_a_node_that_dies_loses_nothing_and_one_that_comes_gets_trials(
    nodes: Nodes, start: Callable[..., Command], tmp_path: Path
) -> None:
    first, second = nodes.tell("add 1"), nodes.tell("add 1")
    command = study(start, nodes, tmp_path, "--concurrent", "2")
    folder = tmp_path / "f"
    wait_for_epochs(command, folder, 4)
    assert len(workers(folder)) == 2, "one trial a node"
    nodes.tell(f"kill {first}")
    wait_for_epochs(command, folder, 8)
    before = workers(folder)
    nodes.tell("add 1")
    nodes.tell(f"kill {second}")  # none but the new node can bring it to its end
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    check_finished(folder)
    lost = [r for r in journal(folder) if r["event"] == "leg_ended" and r["outcome"] == "lost"]
    assert lost, "the dead node was in a leg"
    assert not any(r["node_alive"] for r in lost), "a node's death is nobody's memory"
    repeated = {trial: sum(n - 1 for n in counts.values()) for trial, counts in trained_epochs(folder).items()}
    assert max(repeated.values()) <= 1, "at most the epoch that the node was in"
    assert {trial for trial, times in repeated.items() if times} <= {r["trial"] for r in lost}
    assert workers(folder) - before, "the new node trained too"


def test_a_cluster_that_is_not_there_is_one_message_and_exit_2(start: Callable[..., Command], tmp_path: Path) -> None:
    command = start("--space", "smoke", "--runs-dir", str(tmp_path), RAY_ADDRESS="127.0.0.1:1", **ENVIRONMENT)
    assert command.wait(STUDY_TIMEOUT) == 2, command.text()
    assert "RAY_ADDRESS=127.0.0.1:1: must be a running Ray cluster" in command.text()
    assert "Traceback" not in command.text()
