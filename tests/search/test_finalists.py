"""After the search: the base and the best go to the top, the winner trains longer, the base for as long as all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from results.state import StudyState
from results.tables import winner
from search.afterwards import missing_finalist, missing_plain, missing_polish
from search.engine import Engine, Leg, Limits
from tests.search.builders import make_engine
from tests.search.test_engine import hash_score, train_leg


def run(engine: Engine) -> list[Leg]:
    """Serves every leg at once; returns them in order."""
    legs = []
    while (leg := engine.next_leg()) is not None:
        legs.append(leg)
        train_leg(engine, leg, hash_score)
    return legs


def finished(state: StudyState) -> list[str]:
    return [t.id for t in state.with_role("search") if t.outcome == "finished"]


class TestFinalists:
    @pytest.mark.parametrize("trials", [3, 9, 12])
    def test_the_base_and_two_more_reach_the_top(self, tmp_path: Path, trials: int) -> None:
        engine = make_engine(tmp_path, limits=Limits(trials, finalists=2))
        run(engine)
        there = finished(engine.state)
        base = engine.state.with_role("search")[0]
        assert base.id in there
        assert len([t for t in there if t != base.id]) >= 2

    def test_without_finalists_nothing_is_promoted_that_no_rung_promotes(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=0))
        run(engine)
        assert not engine.state.finalists
        assert len(finished(engine.state)) == 1

    def test_they_go_on_rung_by_rung_and_are_the_best_of_those_that_wait(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(12, finalists=2))
        legs = run(engine)
        forced = [r for r in engine.state.records if r["event"] == "promoted" and r.get("finalist")]
        assert forced
        for record in forced:
            assert record["to_epoch"] == engine.state.levels[record["rung"] + 1]
        base = legs[0].trial
        others = [r["trial"] for r in forced if r["trial"] != base]
        ranked = sorted(
            (t for t in engine.state.with_role("search") if t.id != base),
            key=lambda t: (-t.rung, -t.ranked_score("mAP")),
        )
        assert set(others) <= {t.id for t in ranked[:2]}

    def test_nothing_is_forced_while_configurations_are_still_proposed(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=2))
        run(engine)
        kinds = [(r["event"], r.get("finalist", False)) for r in engine.state.records]
        last_proposal = max(n for n, (event, _) in enumerate(kinds) if event == "trial_created")
        first_forced = next(n for n, (event, forced) in enumerate(kinds) if event == "promoted" and forced)
        assert first_forced > last_proposal

    def test_the_base_goes_on_while_others_are_under_way_and_the_rest_wait(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(3, finalists=2))
        first = [engine.next_leg() for _ in range(3)]
        train_leg(engine, first[0], hash_score)  # type: ignore[arg-type]
        leg = engine.next_leg()
        assert leg is not None
        assert leg.trial == first[0].trial, "the base is known, whoever the others are"  # type: ignore[union-attr]
        assert engine.next_leg() is None, "two are still at their first rung"

    def test_a_withdrawn_or_diverged_base_is_left_alone(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(3, finalists=2))
        leg = engine.next_leg()
        assert leg is not None
        engine.on_leg_end(leg.trial, "diverged", reason="loss became nan")
        run(engine)
        assert engine.state.trials[leg.trial].outcome == "diverged"
        assert len(finished(engine.state)) == 2

    def test_a_replay_of_the_journal_owes_nothing_more(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=2, polish=20))
        run(engine)
        engine.journal.close()  # type: ignore[attr-defined]
        again = make_engine(tmp_path, limits=Limits(9, finalists=2, polish=20))
        assert again.next_leg() is None
        assert missing_finalist(again.state, 2) is None


class TestPolish:
    def test_the_winner_trains_once_more_from_its_start_on_a_longer_schedule(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=2, polish=20))
        legs = run(engine)
        best = winner(engine.state)
        assert best is not None
        last = legs[-1]
        trial = engine.state.trials[last.trial]
        assert (trial.role, trial.of, trial.seed) == ("polish", best.id, best.seed)
        assert (last.to_epoch, last.config["schedule_epochs"], last.start_from) == (20, 20, "")
        assert {k: v for k, v in trial.config.items() if k != "schedule_epochs"} == {
            k: v for k, v in best.config.items() if k != "schedule_epochs"
        }
        assert trial.outcome == "finished"
        assert not any(trial.id in arrivals for arrivals in engine.state.arrivals)

    def test_it_waits_for_fresh_seeds_which_may_choose_another(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=2, polish=20, seeds_final=2, top=2))
        roles = [engine.state.trials[leg.trial].role for leg in run(engine)]
        assert roles[-1] == "polish"
        assert roles.count("polish") == 1
        assert roles.index("final") < roles.index("polish")

    def test_a_schedule_that_is_no_longer_is_no_polish(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9))
        run(engine)
        assert missing_polish(engine.state, 9) is None
        assert missing_polish(engine.state, 10) is not None


class TestPlainTraining:
    def test_the_base_trains_for_as_many_worker_seconds_as_all_before(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, finalists=2, audit_base=True))
        legs = run(engine)
        trial = engine.state.trials[legs[-1].trial]
        base = engine.state.with_role("search")[0]
        assert (trial.role, trial.of) == ("plain", base.id)
        before = [r for r in engine.state.records if r["event"] == "epoch" and r["trial"] != trial.id]
        own = [r for r in before if r["trial"] == base.id]
        busy, each = (sum(r["seconds"] * r["threads"] for r in rows) for rows in (before, own))
        assert trial.levels == [round(busy / (each / len(own)))]
        assert legs[-1].config["schedule_epochs"] == trial.levels[-1]

    def test_what_another_study_has_trained_was_not_paid_for(self) -> None:
        state = StudyState("mAP", [1])
        created: dict[str, Any] = {
            "event": "trial_created",
            "time": 0.0,
            "trial": "b",
            "role": "search",
            "config_hash": "b",
        }
        state.apply({**created, "config": {}, "varied": {}, "seed": 0})
        for epoch, taken in ((1, False), (2, True)):
            more = {"metrics": {"mAP": 0.1}, "per_class": {}, "seconds": 4.0, "threads": 2, "taken_over": taken}
            state.apply({"event": "epoch", "time": 0.0, "trial": "b", "epoch": epoch, **more})
        found = missing_plain(state)
        assert found is not None
        assert found[1] == 1  # 8 worker-seconds were paid for, and an epoch takes 8
