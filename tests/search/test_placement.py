"""The searcher between Tune and the engine: a lone leg's cores, ends that nobody reported; and processes that start slowly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.engine import Leg
from search.leg import THREADS
from search.resources import Resources
from search.simulation import MemoryJournal
from tests.running import ROOT, STUDY_TIMEOUT, Command

TWO_SLOTS = Resources(slots=2, cpus_per_trial=1, gpus_per_trial=0, threads=1, lone_threads=2, device="CPU")


class EngineOfOneLeg:
    """Gives out one leg, then has nothing more to start."""

    def __init__(self) -> None:
        self.running: dict[str, Leg] = {}
        self.ended: list[tuple[str, str]] = []
        self.waiting = [Leg("lone", 1, {}, 0, 4)]
        self.withdrawn: set[str] = set()
        self.journal = MemoryJournal()

    @property
    def idle(self) -> bool:
        return not self.running

    def next_leg(self, **resources: Any) -> Leg | None:
        if not self.waiting:
            return None
        leg = self.waiting.pop()
        self.running[leg.trial] = leg
        return leg

    def is_withdrawn(self, trial: str) -> bool:
        return trial in self.withdrawn

    def on_epoch(self, trial: str, result: dict[str, Any]) -> None:
        raise AssertionError("no epoch was reported")

    def on_leg_end(self, trial: str, outcome: str, **details: Any) -> None:
        self.running.pop(trial)
        self.ended.append((trial, outcome))
        self.details = details


@pytest.fixture
def searcher(tmp_path: Path) -> Any:
    from search.placement import LegSearcher

    flag = SimpleNamespace(stopping=False)
    made = LegSearcher(EngineOfOneLeg(), {"folder": str(tmp_path)}, TWO_SLOTS, lambda: None, lambda: flag.stopping, {})  # type: ignore[arg-type]
    made.flag = flag
    return made


def test_a_lone_leg_is_given_all_cores_in_a_file_that_is_never_half_written(searcher: Any, tmp_path: Path) -> None:
    assert json.loads(searcher.suggest("t1")["leg"])["leg"]["trial"] == "lone"
    file = tmp_path / "trials" / "lone" / THREADS
    assert not file.exists()
    assert searcher.suggest("t2") is None
    assert file.read_text() == "2"
    first = file.stat().st_mtime_ns, file.stat().st_ino
    for _ in range(20):  # Tune polls; a file that is written again could be read when it is empty
        assert searcher.suggest("t2") is None
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == first


def test_nothing_runs_and_nothing_is_left_finishes_the_search(searcher: Any) -> None:
    searcher.suggest("t1")
    searcher.on_trial_complete("t1", {"report": json.dumps({"epochs": [], "outcome": "reached", "reason": ""})})
    assert searcher.engine.ended == [("lone", "reached")]
    assert searcher.suggest("t2") == "FINISHED"


@pytest.mark.parametrize(
    ("stopping", "error", "outcome"), [(False, True, "lost"), (False, False, "lost"), (True, False, "interrupted")]
)
def test_a_leg_that_ends_without_a_verdict_is_lost_unless_the_study_stops(
    searcher: Any, stopping: bool, error: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.placement.ray.nodes", lambda: [{"NodeID": "here", "Alive": True}])
    searcher.suggest("t1")
    searcher.flag.stopping = stopping
    searcher.on_trial_complete("t1", None, error=error)
    assert searcher.engine.ended == [("lone", outcome)]


def test_a_leg_that_a_user_withdrew_is_not_lost(searcher: Any) -> None:
    searcher.suggest("t1")
    searcher.engine.withdrawn.add("lone")
    searcher.on_trial_complete("t1", {"report": json.dumps({"epochs": [], "outcome": ""})})
    assert searcher.engine.ended == [("lone", "withdrawn")]


@pytest.mark.parametrize(("node", "alive"), [("here", True), ("gone", False), ("mute", False), (None, False)])
def test_a_lost_leg_tells_whether_its_node_lives(
    searcher: Any, node: str | None, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was never heard of is not blamed while any node is dead."""
    nodes = [{"NodeID": "here", "Alive": True}, {"NodeID": "mute", "Alive": True}, {"NodeID": "gone", "Alive": False}]
    monkeypatch.setattr("search.placement.answers", lambda asked: asked["NodeID"] == "here")  # Ray hears of it later
    monkeypatch.setattr("search.placement.ray.nodes", lambda: nodes)
    searcher.suggest("t1")
    if node is not None:
        searcher.on_trial_result("t1", {"report": json.dumps({"epochs": []}), "node": node})
    searcher.on_trial_complete("t1", None, error=True)
    assert searcher.engine.details == {"reason": "its worker ended" if alive else "its node died", "node_alive": alive}


def test_a_node_answers_by_its_raylets_port() -> None:
    from search.placement import answers

    with socket.create_server(("127.0.0.1", 0)) as server:
        node = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1]}
        assert answers(node)
    assert not answers(node)


def test_where_ray_names_its_parts_otherwise_the_first_leg_that_waits_goes_first() -> None:
    from search.placement import KeepsStarting

    trials = [
        SimpleNamespace(name=name, status=status)
        for name, status in (("runs", "RUNNING"), ("first", "PENDING"), ("second", "PENDING"))
    ]
    assert KeepsStarting().choose_trial_to_run(SimpleNamespace(get_trials=lambda: trials)) is trials[1]


SLOW_START = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from search.ray_session import RaySession
from tests.search.test_placement import TWO_SLOTS, EngineOfShortLegs

folder, slots, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with RaySession() as session:
    session.start(2, lambda: 0)
    from search import placement

    class Leg(placement.LegTrainable):
        def setup(self, config):
            try:
                (folder / "first").touch(exist_ok=False)
                self.is_first = True
            except FileExistsError:
                self.is_first = False
                (folder / f"starting-{os.getpid()}").touch()
                while not (folder / "may start").exists():
                    time.sleep(0.1)

        def reset_config(self, new_config):
            return True

        def step(self):
            while self.is_first and not list(folder.glob("starting-*")):
                time.sleep(0.1)
            report = {"epochs": [], "outcome": "reached", "reason": "first" if self.is_first else "slow"}
            return {"report": json.dumps(report), "done": True}

    placement.LegTrainable = Leg
    resources = replace(TWO_SLOTS, slots=slots)
    engine = EngineOfShortLegs(folder, most)
    inbox = SimpleNamespace(take_up=lambda: None)
    assert not placement.run_legs(engine, {"folder": str(folder)}, resources, inbox, lambda: None)
    slow = len(list(folder.glob("starting-*")))
    print(json.dumps({"by": engine.by, "ended": engine.ended, "slow processes": slow}))
"""
FEW, MANY = 5, 300  # legs: those before the slow process may start; those after which it will never train


class EngineOfShortLegs:
    """Legs until the slow process has trained one, `most` at most; it may start once a few legs have ended."""

    stopping = False

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.running: set[str] = set()
        self.given = 0
        self.ended: list[int] = []
        self.by: list[str] = []
        self.journal = MemoryJournal()

    @property
    def idle(self) -> bool:
        return not self.running

    def next_leg(self, **resources: Any) -> Leg | None:
        if "slow" in self.by or self.given == self.most:
            return None
        self.given += 1
        self.running.add(str(self.given))
        return Leg(str(self.given), 1, {}, 0, 4)

    def is_withdrawn(self, trial: str) -> bool:
        return False

    def on_leg_end(self, trial: str, outcome: str, reason: str) -> None:
        assert outcome == "reached", (outcome, reason)
        self.running.remove(trial)
        self.ended.append(int(trial))
        self.by.append(reason)
        if len(self.ended) == FEW:
            (self.folder / "may start").touch()


def run_beside_a_slow_start(folder: Path, slots: int, most: int) -> dict[str, Any]:
    """What became of legs on two cores, where the second process starts slowly."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with (folder / "out.txt").open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_START, str(folder), str(slots), str(most)],
            env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    command = Command(process, folder / "out.txt")
    try:
        assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    finally:
        command.kill_tree()
    told = json.loads(command.text().splitlines()[-1])
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize("slots", [2, 3])
def test_a_process_that_starts_slowly_is_waited_for_and_not_begun_anew(tmp_path: Path, slots: int) -> None:
    """As on a cold host; also where the cluster lacks a place: there the leg that waits for one goes first."""
    told = run_beside_a_slow_start(tmp_path, slots, most=MANY)
    assert told["slow processes"] == 1
    assert told["by"][:FEW] == ["first"] * FEW
    assert "slow" in told["by"]
    assert told["ended"][:FEW] == sorted(set(range(1, FEW + 2)) & set(told["ended"][:FEW])), "in order, but for one"


def test_the_last_leg_does_not_wait_for_its_process(tmp_path: Path) -> None:
    """One that stands ready takes it."""
    told = run_beside_a_slow_start(tmp_path, slots=2, most=FEW - 1)
    assert told["by"] == ["first"] * (FEW - 1)
    assert sorted(told["ended"]) == list(range(1, FEW))
