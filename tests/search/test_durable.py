"""After a kill at any line of the journal a resumed study decides what an undisturbed one does, fed the same results."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.engine import Engine, Leg, Limits
from search.optuna_samplers import OptunaSampler
from search.screening import STARTUP_TRIALS
from tests.search.builders import hash_score, make_engine, smoke_space, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")

LIMITS = Limits(14, seeds_final=1, top=2, audit=5)
DECISIONS = ("trial_created", "promoted", "space_exhausted")


def decisions(engine: Engine) -> list[tuple[str, str, object]]:
    """What was decided, in order."""
    return [
        (r["event"], r.get("trial", ""), r.get("to_epoch")) for r in engine.state.records if r["event"] in DECISIONS
    ]


def fill(engine: Engine, running: dict[str, Leg], slots: int) -> None:
    while len(running) < slots and (leg := engine.next_leg()) is not None:
        running[leg.trial] = leg


def run(engine: Engine, slots: int, rng: random.Random) -> list[str]:
    """Trains until nothing is left, legs ending in random order; returns that order."""
    running: dict[str, Leg] = {}
    order: list[str] = []
    fill(engine, running, slots)
    while running:
        ended = rng.choice(sorted(running))
        order.append(ended)
        train_leg(engine, running.pop(ended), hash_score)
        fill(engine, running, slots)
    return order


def run_in_order(engine: Engine, slots: int, order: list[str]) -> None:
    """Trains until nothing is left, legs ending in a given order."""
    running: dict[str, Leg] = {}
    fill(engine, running, slots)
    for ended in order:
        train_leg(engine, running.pop(ended), hash_score)
        fill(engine, running, slots)
    assert not running


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000), slots=st.integers(1, 4), share=st.floats(0.02, 0.98),
    scheduler=st.sampled_from(["asha", "asha_stop", "none"]),
)  # fmt: skip
def test_the_decision_log_is_that_of_a_study_that_was_never_killed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, slots: int, share: float, scheduler: str
) -> None:
    place = tmp_path_factory.mktemp("durable")
    undisturbed = make_engine(place / "whole", scheduler=scheduler, limits=LIMITS)
    order = run(undisturbed, slots, random.Random(seed))
    lines = (place / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    cut = max(1, int(share * len(lines)))
    (place / "cut").mkdir()
    (place / "cut" / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
    ended = sum(json.loads(line)["event"] == "leg_ended" for line in lines[:cut])
    resumed = make_engine(place / "cut", scheduler=scheduler, limits=LIMITS)
    run_in_order(resumed, slots, order[ended:])
    assert decisions(resumed) == decisions(undisturbed)
    trained = [(r["trial"], r["epoch"]) for r in resumed.state.records if r["event"] == "epoch"]
    assert len(trained) == len(set(trained)), "no result counts twice"
    assert {t.id: t.last_epoch for t in resumed.state.trials.values()} == {
        t.id: t.last_epoch for t in undisturbed.state.trials.values()
    }


def test_a_line_torn_by_the_kill_is_cut_and_decided_again(tmp_path: Path) -> None:
    undisturbed = make_engine(tmp_path / "whole", limits=LIMITS)
    order = run(undisturbed, 1, random.Random(0))
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    middle = next(n for n, line in enumerate(lines) if b'"promoted"' in line)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "journal.jsonl").write_bytes(b"".join(lines[:middle]) + lines[middle][:20])
    ended = sum(json.loads(line)["event"] == "leg_ended" for line in lines[:middle])
    with pytest.warns(UserWarning, match="half-written"):
        resumed = make_engine(tmp_path / "cut", limits=LIMITS)
    run_in_order(resumed, 1, order[ended:])
    assert decisions(resumed) == decisions(undisturbed)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_resumed_study_of_tpe_proposes_what_it_would_have_without_the_kill(tmp_path: Path, share: float) -> None:
    """Twenty-four trials on one slot: eight of the screening design, then TPE itself on what the journal tells."""
    limits = Limits(24)

    def tpe() -> OptunaSampler:
        return OptunaSampler("tpe", smoke_space(), 0, ["mAP"])

    undisturbed = make_engine(tmp_path / "whole", sampler=tpe(), limits=limits)
    order = run(undisturbed, 1, random.Random(0))
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    cut = int(share * len(lines))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
    ended = sum(json.loads(line)["event"] == "leg_ended" for line in lines[:cut])
    resumed = make_engine(tmp_path / "cut", sampler=tpe(), limits=limits)
    run_in_order(resumed, 1, order[ended:])
    assert decisions(resumed) == decisions(undisturbed)
    assert [t.varied for t in resumed.state.trials.values()] == [t.varied for t in undisturbed.state.trials.values()]
    assert sum(t.proposal is not None and t.proposal > STARTUP_TRIALS for t in resumed.state.trials.values()) > 5
