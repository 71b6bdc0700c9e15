"""The searcher between Tune and the engine: a lone leg's cores, ends that nobody reported; and Tune's way with processes."""

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
from tests.running import ROOT

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


@pytest.mark.parametrize(("cores", "chosen"), [((1, 1), None), ((2,), None), ((1,), "first"), ((), "first")])
def test_the_first_leg_that_waits_goes_first_where_the_cluster_lacks_a_place(
    cores: tuple[int, ...], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its own process would be waited for, on a host that is gone or has never come."""
    from search.placement import KeepsStarting

    there = [{"Alive": True, "Resources": {"CPU": float(number)}} for number in cores]
    gone = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr("search.placement.ray.nodes", lambda: [*there, gone])
    trials = [
        SimpleNamespace(name=name, status=status)
        for name, status in (("runs", "RUNNING"), ("first", "PENDING"), ("second", "PENDING"))
    ]
    found = KeepsStarting(TWO_SLOTS).choose_trial_to_run(SimpleNamespace(get_trials=lambda: trials))
    assert (found and found.name) == chosen


SLOW_START = """
import json, os, time
from pathlib import Path
from types import SimpleNamespace
from search.ray_session import RaySession
from search.resources import Resources
from tests.search.test_placement import EngineOfShortLegs

folder = Path(os.environ["STUDY"])
with RaySession() as session:
    session.start(2, lambda: 0)
    from search import placement

    class Leg(placement.LegTrainable):
        def setup(self, config):
            (folder / f"process-{os.getpid()}").touch()
            try:
                (folder / "first").touch(exist_ok=False)
            except FileExistsError:
                while not (folder / "others may start").exists():
                    time.sleep(0.1)

        def reset_config(self, new_config):
            return True

        def step(self):
            report = {"epochs": [], "outcome": "reached", "reason": str(os.getpid())}
            return {"report": json.dumps(report), "done": True}

    placement.LegTrainable = Leg
    two = Resources(slots=2, cpus_per_trial=1, gpus_per_trial=0, threads=1, lone_threads=2, device="CPU")
    engine = EngineOfShortLegs(folder)
    inbox = SimpleNamespace(take_up=lambda: None)
    assert not placement.run_legs(engine, {"folder": str(folder)}, two, inbox, lambda: None)
    print(json.dumps({"trained": engine.trained, "processes": len(list(folder.glob("process-*")))}))
"""


class EngineOfShortLegs:
    """Legs without end until two processes have trained; the second may not start before the first has trained a few."""

    stopping = False
    most = 300

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: set[str] = set()
        self.given = 0
        self.trained: dict[str, int] = {}
        self.journal = MemoryJournal()

    @property
    def idle(self) -> bool:
        return not self.running

    def next_leg(self, **resources: Any) -> Leg | None:
        if len(self.trained) == 2 or self.given == self.most:
            return None
        self.given += 1
        leg = Leg(f"trial-{self.given}", 1, {}, 0, 4)
        self.running.add(leg.trial)
        return leg

    def is_withdrawn(self, trial: str) -> bool:
        return False

    def on_leg_end(self, trial: str, outcome: str, reason: str) -> None:
        assert outcome == "reached", (outcome, reason)
        self.running.remove(trial)
        self.trained[reason] = self.trained.get(reason, 0) + 1
        if sum(self.trained.values()) == 5:
            (self.folder / "others may start").touch()


def test_a_process_that_starts_slowly_is_waited_for_and_not_begun_anew(tmp_path: Path) -> None:
    """As on a cold host of a cluster: by Tune's own order every leg that ended elsewhere would throw it away."""
    done = subprocess.run(
        [sys.executable, "-c", SLOW_START],
        env={**os.environ, "STUDY": str(tmp_path)},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["processes"] == len(told["trained"]) == 2
    assert sum(told["trained"].values()) > 5
