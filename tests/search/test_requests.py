"""What a user asks of a running study: followed or refused with a reason, journaled, and the same after a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.records import read_journal
from results.state import StudyState
from search.engine import Engine
from search.requests import Inbox, drop_old_stops, obey, post
from search.storage.copies import REQUESTS
from search.storage.store import FolderStore
from tests.search.builders import hash_score, make_engine, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")


def again_after(engine: Engine, folder: Path, **options: Any) -> Engine:
    """The engine of the next session."""
    engine.journal.close()  # type: ignore[attr-defined]
    return make_engine(folder, **options)


def take_all(engine: Engine) -> None:
    while (leg := engine.next_leg()) is not None:
        train_leg(engine, leg, hash_score)


def replayed(folder: Path) -> StudyState:
    return StudyState.replay(read_journal(folder / "journal.jsonl"), "mAP", [1, 3, 9])


def test_stop_starts_nothing_more(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    leg = engine.next_leg()
    assert leg is not None
    obey(engine, "1", "stop")
    assert engine.stopping
    assert engine.next_leg() is None
    assert engine.state.records[-1]["event"] == "asked"
    again = again_after(engine, tmp_path)  # it was the other session that was to stop
    assert not again.stopping


def test_a_pruned_trial_that_waits_is_never_promoted(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    legs = [engine.next_leg() for _ in range(4)]
    scores = {leg.trial: 0.1 * n for n, leg in enumerate(legs, 1) if leg is not None}
    for leg in legs:
        assert leg is not None
        train_leg(engine, leg, lambda trial, epoch: scores[trial])
    best = max(scores, key=lambda trial: scores[trial])
    obey(engine, "1", "prune", trial=best)
    take_all(engine)
    assert engine.state.trials[best].last_epoch == 1
    assert engine.state.final_state(engine.state.trials[best]) == "pruned"
    others = [t for t in engine.state.trials.values() if t.id != best]
    assert any(t.rung >= 1 for t in others), "the others go on"
    assert replayed(tmp_path).trials[best].withdrawn


def test_a_pruned_trial_that_runs_ends_with_its_leg(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    leg = engine.next_leg()
    assert leg is not None
    obey(engine, "1", "prune", trial=leg.trial)
    assert leg.trial in engine.running, "the leg's end is the placement's to bring about"
    engine.on_leg_end(leg.trial, "withdrawn", reason="pruned by a user")
    trial = engine.state.trials[leg.trial]
    assert trial.leg_target is None
    assert engine.state.final_state(trial) == "pruned"
    take_all(engine)
    assert trial.legs == 1


def test_a_leg_that_comes_to_its_rung_first_is_not_promoted_from_there(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=1)
    leg = engine.next_leg()
    assert leg is not None
    obey(engine, "1", "prune", trial=leg.trial)
    train_leg(engine, leg, hash_score)
    assert engine.next_leg() is None
    assert engine.state.trials[leg.trial].rung == 0
    assert again_after(engine, tmp_path, trials=1).next_leg() is None, "nor after a resume"


def test_a_pruned_trial_whose_leg_is_owed_is_not_started(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    leg = engine.next_leg()
    assert leg is not None
    engine.on_leg_end(leg.trial, "lost", node_alive=False)  # to be run again
    obey(engine, "1", "prune", trial=leg.trial)
    after = engine.next_leg()
    assert after is not None
    assert after.trial != leg.trial


def test_added_values_are_tried_next_beyond_the_number_that_was_asked_for(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=3)
    first = engine.next_leg()
    assert first is not None
    train_leg(engine, first, hash_score)
    obey(engine, "1", "add", values={"lr": 0.0042})
    second = engine.next_leg()
    assert second is not None
    assert engine.state.trials[second.trial].config["lr"] == 0.0042
    train_leg(engine, second, hash_score)
    take_all(engine)
    assert len(engine.state.trials) == 3 + 1
    assert sum(t.config["lr"] == 0.0042 for t in engine.state.trials.values()) == 1


def test_added_after_the_search_was_over_it_is_still_tried(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=3)
    take_all(engine)
    obey(engine, "1", "add", values={"lr": 0.0042})
    again = again_after(engine, tmp_path, trials=3)  # and a crash between loses nothing
    take_all(again)
    assert [t.config["lr"] for t in again.state.trials.values()][-1] == 0.0042
    assert len(again.state.trials) == 4


@pytest.mark.parametrize(
    ("ask", "details", "said"),
    [
        ("prune", {"trial": "nobody"}, "there is no trial nobody"),
        ("add", {"values": {"lr": -1.0}}, "DetectorConfig.lr must lie in"),
        ("add", {"values": {"learning_rate": 0.1}}, "learning_rate"),
        ("add", {"values": {}}, "that configuration is trial"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_with_a_reason(
    tmp_path: Path, ask: str, details: dict[str, Any], said: str
) -> None:
    engine = make_engine(tmp_path)
    engine.next_leg()
    obey(engine, "1", ask, **details)
    last = engine.state.records[-1]
    assert last["event"] == "ask_refused"
    assert said in last["reason"]
    assert "1" in replayed(tmp_path).asked


def test_a_finished_trial_is_not_pruned(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, scheduler="none", trials=1)
    take_all(engine)
    trial = next(iter(engine.state.trials))
    obey(engine, "1", "prune", trial=trial)
    assert engine.state.records[-1]["reason"] == f"trial {trial} is finished"


class TestInbox:
    def test_requests_are_followed_in_order_and_once(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        leg = engine.next_leg()
        assert leg is not None
        ids = [post(FolderStore(tmp_path), "add", values={"lr": 0.002 + n / 1000}) for n in range(3)] + [
            post(FolderStore(tmp_path), "prune", trial=leg.trial)
        ]
        Inbox(engine, FolderStore(tmp_path)).take_up()
        assert [r["request"] for r in engine.state.records if r["event"] == "asked"] == ids
        assert not list((tmp_path / REQUESTS).iterdir())

    def test_one_that_a_crash_left_lying_after_its_answer_is_not_followed_again(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        engine.next_leg()
        request = post(FolderStore(tmp_path), "add", values={"lr": 0.0042})
        content = (tmp_path / REQUESTS / f"{request}.json").read_bytes()
        Inbox(engine, FolderStore(tmp_path)).take_up()
        (tmp_path / REQUESTS / f"{request}.json").write_bytes(content)
        again = again_after(engine, tmp_path)
        Inbox(again, FolderStore(tmp_path)).take_up()
        assert len(again.state.added) == 1

    def test_what_is_no_request_is_passed_over(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        (tmp_path / REQUESTS).mkdir()
        for name, content in (
            ("a.json", "{"),
            ("b.json", "[]"),
            ("c.json", '{"ask": "dance"}'),
            ("d.txt", '{"ask": "stop"}'),
        ):
            (tmp_path / REQUESTS / name).write_text(content)
        Inbox(engine, FolderStore(tmp_path)).take_up()
        assert engine.state.records == []

    def test_a_stop_that_nobody_followed_does_not_stop_who_resumes(self, tmp_path: Path) -> None:
        post(FolderStore(tmp_path), "stop")
        kept = post(FolderStore(tmp_path), "add", values={"lr": 0.0042})
        drop_old_stops(FolderStore(tmp_path))
        assert [path.stem for path in (tmp_path / REQUESTS).iterdir()] == [kept]
