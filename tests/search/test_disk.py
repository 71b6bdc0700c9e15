"""What --keep lets go: never what may still be promoted, never without the journal saying so."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.state import StudyState
from results.tables import delivered
from search.clean import main
from search.disk import apply_keep, droppable, may_go_on, worst_case_bytes
from search.engine import Engine, Limits
from search.storage.store import FolderStore
from tests.search.builders import hash_score, make_engine, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")


def put_checkpoints(folder: Path, state: StudyState) -> None:
    for trial in state.trials.values():
        place = folder / "trials" / trial.id
        place.mkdir(parents=True, exist_ok=True)
        for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt", "detections.json"):
            (place / name).write_bytes(b"x" * 100)


def run_some(engine: Engine, legs: int) -> None:
    for _ in range(legs):
        leg = engine.next_leg()
        if leg is None:
            return
        train_leg(engine, leg, hash_score)


@pytest.mark.parametrize("scheduler", ["asha", "asha_stop", "none"])
@pytest.mark.parametrize("legs", [5, 9, 14, 20])
def test_promotable_keeps_whoever_is_promoted_later(tmp_path: Path, scheduler: str, legs: int) -> None:
    engine = make_engine(tmp_path, scheduler=scheduler, trials=15)
    run_some(engine, legs)
    gone = {trial.id for trial in droppable(engine.state, "promotable", 15, 3, scheduler)}
    before = len(engine.state.records)
    run_some(engine, 100)
    promoted = {r["trial"] for r in engine.state.records[before:] if r["event"] == "promoted"}
    assert not gone & promoted
    if scheduler != "none":
        assert droppable(engine.state, "promotable", 15, 3, scheduler), "in the end most may go"


@pytest.mark.parametrize("keep", ["promotable", "best", "top:1"])
def test_every_rule_keeps_who_goes_to_the_top_at_the_end_and_the_winners_longer_training(
    tmp_path: Path, keep: str
) -> None:
    engine = make_engine(tmp_path, limits=Limits(9, finalists=2, polish=20))
    engine.state.num_finalists = 2
    gone: set[str] = set()
    while (leg := engine.next_leg()) is not None:
        assert not (leg.trial in gone and engine.state.trials[leg.trial].id in engine.state.finalists), (
            "a finalist begins anew"
        )
        train_leg(engine, leg, hash_score)
        gone |= {trial.id for trial in droppable(engine.state, keep, 9, 3, "asha")}
    best = delivered(engine.state)
    assert best is not None
    assert best.id not in {trial.id for trial in droppable(engine.state, keep, 9, 3, "asha")} or keep == "promotable"


def test_who_trains_is_never_dropped(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=9)
    run_some(engine, 3)
    running = engine.next_leg()
    assert running is not None
    for keep in ("promotable", "best", "top:1"):
        assert running.trial not in {trial.id for trial in droppable(engine.state, keep, 9, 3, "asha")}


def test_all_drops_nothing_and_top_keeps_so_many(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=9)
    run_some(engine, 100)
    assert droppable(engine.state, "all", 9, 3, "asha") == []
    assert len(droppable(engine.state, "top:3", 9, 3, "asha")) == 6
    best = engine.state.best_trial()
    assert best is not None
    assert best.id not in {trial.id for trial in droppable(engine.state, "best", 9, 3, "asha")}


def test_a_dropped_trial_that_is_promoted_trains_from_the_start_and_the_journal_says_so(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=9)
    run_some(engine, 3)  # three at the first rung: their best goes on next
    put_checkpoints(tmp_path, engine.state)
    _, freed = apply_keep(engine.state, FolderStore(tmp_path), "best", 9, 3, "asha", engine.record)
    kept = [trial.id for trial in engine.state.trials.values() if not trial.checkpoint_dropped]
    assert len(kept) == 1
    assert freed == 2 * 2 * 100 + 1 * 2 * 100 or freed > 0
    assert (tmp_path / "trials" / kept[0] / "checkpoint.pt").exists()
    for trial in engine.state.trials.values():
        assert (tmp_path / "trials" / trial.id / "checkpoint.pt").exists() == (trial.id == kept[0])
    engine.record("checkpoint_dropped", trial=kept[0])
    leg = engine.next_leg()
    assert leg is not None
    assert leg.to_epoch == 3
    started = engine.state.records[-1]
    assert (started["from_epoch"], started["repeated_epochs"]) == (0, 1)
    assert not engine.state.trials[leg.trial].checkpoint_dropped


def test_an_audit_of_a_dropped_trial_journals_what_it_repeats(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, limits=Limits(6, audit=5))
    while (leg := engine.next_leg()) is not None and engine.state.trials[leg.trial].role == "search":
        train_leg(engine, leg, hash_score)
    assert leg is not None
    engine.on_leg_end(leg.trial, "interrupted", reason="stopped")
    source = engine.state.trials[engine.state.trials[leg.trial].of]
    engine.record("checkpoint_dropped", trial=source.id)
    again = engine.next_leg()
    assert again is not None
    assert again.trial == leg.trial
    started = engine.state.records[-1]
    assert (started["from_epoch"], started["repeated_epochs"]) == (0, source.last_epoch)


def test_may_go_on_is_exact_at_the_first_rung(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, trials=9)
    run_some(engine, 3)
    ranked = sorted(engine.state.trials.values(), key=lambda trial: -hash_score(trial.id, 1))
    # With nine trials three go on: each of three may still be among them; with three trials only the best.
    assert [may_go_on(engine.state, trial, 9, 3, "asha") for trial in ranked] == [True, True, True]
    assert [may_go_on(engine.state, trial, 3, 3, "asha") for trial in ranked] == [True, False, False]


@pytest.mark.parametrize(("keep", "expected"), [("all", 3000 * 20), ("best", 3000 * 3), ("top:5", 3000 * 7)])
def test_the_worst_case_counts_newest_previous_and_best_of_all_that_stay(keep: str, expected: int) -> None:
    assert worst_case_bytes(1000, 20, 2, keep) == expected


class TestClean:
    def study(self, folder: Path) -> StudyState:
        engine = make_engine(folder, trials=9)
        run_some(engine, 100)
        put_checkpoints(folder, engine.state)
        engine.journal.close()  # type: ignore[attr-defined]
        (folder / "study.json").write_text(
            '{"metric": "mAP", "levels": [1, 3, 9], "trials": 9, "eta": 3, "scheduler": "asha"}'
        )
        return engine.state

    def test_frees_what_the_rule_does_not_cover(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        state = self.study(tmp_path)
        main([str(tmp_path), "--keep", "top:2", "--dry-run"])
        assert "would free" in capsys.readouterr().err
        assert len(list(tmp_path.glob("trials/*/checkpoint.pt"))) == 9
        main([str(tmp_path), "--keep", "top:2"])
        assert len(list(tmp_path.glob("trials/*/checkpoint.pt"))) == 2
        base = next(iter(state.trials))
        assert (tmp_path / "trials" / base / "best.pt").exists(), "the base is compared with, on the held-out split too"
        main([str(tmp_path), "--keep", "top:2"])
        assert "0.0 MB of 0 trials" in capsys.readouterr().err

    @pytest.mark.parametrize("keep", ["some", "top", "top:0", "best:2", "top:x"])
    def test_a_rule_that_is_none_is_refused(
        self, tmp_path: Path, keep: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.study(tmp_path)
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path), "--keep", keep])
        assert caught.value.code == 2
        assert "--keep must be one of all, promotable, top:N, best" in capsys.readouterr().err
