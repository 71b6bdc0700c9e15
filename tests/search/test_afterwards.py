"""What comes after the search: fresh seeds for the best, audits of pruned trials, longer studies, other studies' results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from results.audit import audit_of
from results.state import StudyState
from results.tables import configurations
from search.afterwards import best_of_search
from search.engine import Engine, Limits, epochs_of_seconds
from search.known import KnownElsewhere
from tests.search.builders import epoch_result, hash_score, make_engine, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(engine: Engine, most: int = 300) -> list[tuple[str, int, int]]:
    """(role, seed, target) of every leg, one slot, until nothing is left."""
    done = []
    for _ in range(most):
        leg = engine.next_leg()
        if leg is None:
            return done
        trial = engine.state.trials[leg.trial]
        done.append((trial.role, leg.seed, leg.to_epoch))
        train_leg(engine, leg, hash_score)
    raise AssertionError("the study does not end")


class TestFinals:
    def test_the_best_are_trained_to_the_top_on_every_fresh_seed_once(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, seeds_final=2, top=3))
        legs = run(engine)
        finals = engine.state.with_role("final")
        assert [leg for leg in legs if leg[0] == "final"] == [("final", 1, 9)] * 3 + [("final", 2, 9)] * 3
        assert legs[-6:] == [leg for leg in legs if leg[0] == "final"], "after the search, never before"
        best = {trial.config_hash for trial in best_of_search(engine.state, 3)}
        assert {trial.config_hash for trial in finals} == best
        assert {trial.outcome for trial in finals} == {"finished"}

    def test_they_stand_on_no_rung_and_the_sampler_and_the_best_trial_do_not_see_them(self, tmp_path: Path) -> None:
        plain = make_engine(tmp_path / "plain", trials=9)
        run(plain)
        engine = make_engine(tmp_path / "finals", limits=Limits(9, seeds_final=2, top=3))
        run(engine)
        assert engine.state.arrivals == plain.state.arrivals
        assert engine.state.best_trial() is not None
        assert engine.state.best_trial().role == "search"  # type: ignore[union-attr]

    def test_configs_rank_by_the_mean_over_fresh_seeds_with_the_searchs_optimism(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, seeds_final=3, top=2))
        run(engine)
        rows = configurations(engine.state)
        measured = {t.config_hash for t in engine.state.with_role("final")}
        base = engine.state.with_role("search")[0].config_hash
        assert base in measured, "the base is measured with the best, or nobody knows what was won"
        assert len(measured - {base}) in (1, 2)
        count = len(measured)
        assert [row["n"] for row in rows[:count]] == [3] * count, "what was measured on fresh seeds ranks first"
        assert rows[0]["mAP_mean"] >= rows[1]["mAP_mean"]
        for row in rows[:count]:
            same = [t for t in engine.state.trials.values() if t.config_hash == row["config"]]
            final = [t.ranked_score("mAP") for t in same if t.role == "final"]
            (searched,) = [t.ranked_score("mAP") for t in same if t.role == "search"]
            assert row["mAP_mean"] == pytest.approx(sum(final) / 3)
            assert row["optimism"] == pytest.approx(searched - sum(final) / 3)
        assert math.isnan(rows[count]["optimism"])

    def test_a_finished_study_may_be_given_more_seeds(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, seeds_final=1, top=2))
        run(engine)
        engine.journal.close()  # type: ignore[attr-defined]
        again = make_engine(tmp_path, limits=Limits(9, seeds_final=3, top=2))
        count = len({t.config_hash for t in engine.state.with_role("final")})
        assert count in (2, 3)
        assert run(again) == [("final", 2, 9)] * count + [("final", 3, 9)] * count


class TestAudit:
    def test_pruned_trials_go_on_to_the_top_beside_the_rungs(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(12, audit=5))
        run(engine)
        audits = engine.state.with_role("audit")
        assert len(audits) == len({trial.of for trial in audits}) == 5
        assert all(engine.state.final_state(engine.state.trials[trial.of]) == "pruned" for trial in audits)
        assert {trial.last_epoch for trial in audits} == {9}
        assert not any(trial.id in arrivals for trial in audits for arrivals in engine.state.arrivals)

    def test_the_leg_goes_on_from_the_pruned_trials_checkpoint(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(6, audit=5))
        legs = []
        while (leg := engine.next_leg()) is not None:
            legs.append(leg)
            train_leg(engine, leg, hash_score)
        for leg in legs:
            trial = engine.state.trials[leg.trial]
            assert leg.start_from == (f"trials/{trial.of}" if trial.role == "audit" else "")

    def test_epochs_taken_over_cost_nothing_twice(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(3, audit=5))
        while (leg := engine.next_leg()) is not None and engine.state.trials[leg.trial].role == "search":
            train_leg(engine, leg, hash_score)
        assert leg is not None
        engine.on_epoch(leg.trial, {**epoch_result(1, 0.1, seconds=7.0), "absorbed": True})
        engine.on_epoch(leg.trial, epoch_result(2, 0.2, seconds=7.0))
        assert engine.state.trials[leg.trial].seconds == 7.0

    def test_who_is_drawn_depends_on_the_journal_alone(self, tmp_path: Path) -> None:
        drawn = []
        for name in ("a", "b"):
            engine = make_engine(tmp_path / name, limits=Limits(12, audit=5))
            run(engine)
            drawn.append([trial.of for trial in engine.state.with_role("audit")])
        assert drawn[0] == drawn[1]
        pruned = [t.id for t in engine.state.with_role("search") if engine.state.final_state(t) == "pruned"]
        assert drawn[0] != pruned[:5], "drawn, not the first"


class TestLonger:
    def extended(self, tmp_path: Path, top: int = 2) -> tuple[Engine, dict[str, int]]:
        engine = make_engine(tmp_path, limits=Limits(9, top=top))
        run(engine)
        before = {trial.id: trial.last_epoch for trial in engine.state.trials.values()}
        engine.extend(20)
        return engine, before

    def test_the_best_finished_trials_start_again_with_the_longer_schedule(self, tmp_path: Path) -> None:
        engine, before = self.extended(tmp_path)
        finished = [t for t in best_of_search(engine.state, 9) if t.outcome == "finished"]
        legs = []
        while (leg := engine.next_leg()) is not None:
            legs.append(leg)
            train_leg(engine, leg, hash_score)
        assert [leg.to_epoch for leg in legs] == [20] * min(2, len(finished))
        assert [engine.state.trials[leg.trial].of for leg in legs] == [t.id for t in finished[:2]]
        assert {leg.config["schedule_epochs"] for leg in legs} == {20}
        assert {leg.start_from for leg in legs} == {""}, "a cosine is laid over its whole length"
        assert {name: engine.state.trials[name].last_epoch for name in before} == before
        assert engine.state.levels == [1, 3, 9, 20]
        best = engine.state.best_trial()
        assert best is not None
        assert best.id in {leg.trial for leg in legs}

    def test_they_do_not_count_as_trials_and_a_crash_in_between_repeats_none(self, tmp_path: Path) -> None:
        engine, _ = self.extended(tmp_path)
        first = engine.next_leg()
        assert first is not None
        train_leg(engine, first, hash_score)
        engine.journal.close()  # type: ignore[attr-defined]
        again = make_engine(tmp_path, limits=Limits(10, top=2))
        again.scheduler.levels = list(again.state.levels)
        targets = [leg[2] for leg in run(again)]
        assert targets[0] in (1, 20)
        assert len(again.state.with_role("search")) == 9 + len(again.state.restarts) + 1

    def test_trials_to_come_climb_the_longer_ladder_and_old_ones_end_at_theirs(self, tmp_path: Path) -> None:
        engine, before = self.extended(tmp_path)
        engine.limits = Limits(90, top=2)
        run(engine)
        new = [t for t in engine.state.with_role("search") if t.id not in before and not t.of]
        assert max(trial.last_epoch for trial in new) == 20
        assert {trial.levels[-1] for trial in new} == {20}
        assert max(engine.state.trials[name].last_epoch for name in before) == 9

    def test_what_is_audited_after_the_extension_ends_where_its_trial_would_have(self, tmp_path: Path) -> None:
        engine, _ = self.extended(tmp_path)
        engine.limits = Limits(9, top=2, audit=5, seeds_final=1)
        run(engine)
        audits = engine.state.with_role("audit")
        assert {(trial.outcome, trial.last_epoch) for trial in audits} == {("finished", 9)}
        finals = engine.state.with_role("final")
        assert {trial.outcome for trial in finals} == {"finished"}
        found = audit_of(engine.state, 2)
        assert found is not None
        assert found.audited == 5

    def test_without_pruning_new_trials_train_to_the_new_end(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, scheduler="none", limits=Limits(3, top=1))
        run(engine)
        engine.extend(20)
        engine.limits = Limits(6, top=1)
        run(engine)
        assert sorted(t.last_epoch for t in engine.state.with_role("search")) == [9, 9, 9, 20, 20, 20, 20]
        assert {t.outcome for t in engine.state.with_role("search")} == {"finished"}


class TestKnownElsewhere:
    def reuse(self, engine: Engine, folder: str = "/other") -> KnownElsewhere:
        return KnownElsewhere(
            {(trial.config_hash, trial.seed): (Path(folder), trial) for trial in engine.state.trials.values()}
        )

    def test_what_another_study_trained_is_answered_and_not_counted(self, tmp_path: Path) -> None:
        first = make_engine(tmp_path / "a", trials=9)
        run(first)
        second = make_engine(tmp_path / "b", trials=3)
        second.elsewhere = self.reuse(first)
        legs = run(second)
        taken = [t for t in second.state.trials.values() if t.reused]
        assert len(taken) == 9
        assert len(second.state.trials) == 12
        known = {trial.id: trial.last_epoch for trial in first.state.trials.values()}
        repeated = [leg for leg in second.state.records if leg["event"] == "leg_started" and leg["trial"] in known]
        assert all(record["to_epoch"] > known[record["trial"]] for record in repeated), "only what nobody knew"
        assert len(legs) < 9
        assert all(t.seconds == 0.0 for t in taken if t.last_epoch == known[t.id])

    def test_a_longer_leg_goes_on_from_the_other_studys_checkpoint(self, tmp_path: Path) -> None:
        first = make_engine(tmp_path / "a", trials=1)
        run(first)  # the base, one epoch
        second = make_engine(tmp_path / "b", trials=1, scheduler="none")
        second.elsewhere = self.reuse(first)
        leg = second.next_leg()
        assert leg is not None
        assert leg.start_from == f"/other/trials/{leg.trial}"

    def test_another_seed_is_another_trial(self, tmp_path: Path) -> None:
        first = make_engine(tmp_path / "a", trials=3)
        run(first)
        second = make_engine(tmp_path / "b", trials=3)
        second.elsewhere, second.seed = self.reuse(first), 1
        run(second)
        assert not any(trial.reused for trial in second.state.trials.values())


class TestWarmStarts:
    def test_they_come_right_after_the_base_and_once(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=4, scheduler="none")
        engine.warm_starts = [{"lr": 2e-3}, {"box_loss": "giou"}, {"lr": 2e-3}]
        run(engine)
        varied = [trial.varied for trial in engine.state.trials.values()]
        assert varied[:3] == [{}, {"lr": 2e-3}, {"box_loss": "giou"}]
        assert len(varied) == 4

    def test_after_an_extension_they_are_not_tried_again(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=4, scheduler="none")
        engine.warm_starts = [{"lr": 2e-3}]
        run(engine)
        engine.space.base = engine.space.base.with_values({"schedule_epochs": 20})
        engine.extend(20)
        engine.limits = Limits(6, top=1)
        run(engine)
        own = [t for t in engine.state.with_role("search") if t.varied == {"lr": 2e-3} and not t.of]
        assert len(own) == 1


class TestSeconds:
    @pytest.mark.parametrize(
        ("levels", "speed", "epochs"),
        [([10, 30, 90], 5.0, [2, 6, 18]), ([10, 30, 90], 40.0, [1, 2, 3]), ([10, 90], 3.0, [3, 30])],
    )
    def test_rungs_in_seconds_are_whole_epochs_of_a_trials_own_speed(
        self, levels: list[float], speed: float, epochs: list[int]
    ) -> None:
        assert epochs_of_seconds(levels, speed) == epochs

    def test_an_audit_takes_over_the_speed_and_length_of_its_trial(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(6, audit=5))
        engine.seconds_levels = [1, 3, 9]
        while (leg := engine.next_leg()) is not None:
            trial = engine.state.trials[leg.trial]
            if leg.probe:
                assert trial.role == "search", "nobody is probed twice"
                engine.on_leg_end(leg.trial, "probed", seconds_per_epoch=0.5)
                continue
            if trial.role == "audit":
                assert (leg.to_epoch, leg.config["schedule_epochs"]) == (18, 18)
            train_leg(engine, leg, hash_score)
        assert {t.outcome for t in engine.state.with_role("audit")} == {"finished"}

    def test_a_length_that_no_schedule_allows_is_infeasible_and_the_study_goes_on(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=3, scheduler="none")
        engine.seconds_levels = [9]
        engine.space.base = engine.space.base.with_values({"schedule": "constant", "final_decay_epochs": 2})
        probed = 0
        while (leg := engine.next_leg()) is not None:
            if leg.probe:
                probed += 1
                engine.on_leg_end(leg.trial, "probed", seconds_per_epoch=9.0 if probed == 1 else 1.0)
                continue
            train_leg(engine, leg, hash_score)
        outcomes = [trial.outcome for trial in engine.state.trials.values()]
        assert outcomes == ["infeasible", "finished", "finished"]
        assert "final_decay_epochs" in next(iter(engine.state.trials.values())).reason

    def test_a_trial_is_probed_once_and_then_trains_its_own_epochs_and_schedule(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=6)
        engine.seconds_levels = [1, 3, 9]
        probes, schedules, targets = 0, {}, {}
        while (leg := engine.next_leg()) is not None:
            if leg.probe:
                probes += 1
                engine.on_leg_end(leg.trial, "probed", seconds_per_epoch=0.5 if probes % 2 else 0.25)
                continue
            schedules[leg.trial] = leg.config["schedule_epochs"]
            targets.setdefault(leg.trial, []).append(leg.to_epoch)
            train_leg(engine, leg, hash_score)
        assert probes == 6
        for number, trial in enumerate(engine.state.trials.values()):
            assert trial.levels == ([2, 6, 18] if number % 2 == 0 else [4, 12, 36])
            assert schedules[trial.id] == trial.levels[-1]
            assert targets[trial.id] == trial.levels[: len(targets[trial.id])]


@pytest.mark.parametrize(("rule", "expected"), [("last", 0.2), ("best", 0.5), ("mean3", (0.5 + 0.3 + 0.2) / 3)])
def test_a_rung_judges_by_the_score_that_was_asked_for(tmp_path: Path, rule: str, expected: float) -> None:
    state = StudyState("mAP", [4], prune_on=rule)
    created: dict[str, Any] = {
        "event": "trial_created", "trial": "a", "role": "search", "config_hash": "h", "config": {}, "varied": {}, "seed": 0,
    }  # fmt: skip
    state.apply(created)
    for epoch, score in enumerate((0.4, 0.5, 0.3, 0.2), 1):
        state.apply({"event": "epoch", "trial": "a", **epoch_result(epoch, score)})
    state.apply({"event": "leg_ended", "trial": "a", "outcome": "reached"})
    assert state.arrivals[0]["a"] == pytest.approx(expected)


def test_ranked_on_the_last_epoch_the_tables_show_it(tmp_path: Path) -> None:
    for rule, epoch in (("best", 2), ("last", 3)):
        state = StudyState("mAP", [3], rank_on=rule)
        state.apply(
            {
                "event": "trial_created",
                "trial": "a",
                "role": "search",
                "config_hash": "h",
                "config": {},
                "varied": {},
                "seed": 0,
            }
        )
        for number, score in enumerate((0.1, 0.5, 0.3), 1):
            state.apply({"event": "epoch", "trial": "a", **epoch_result(number, score)})
        assert state.trials["a"].ranked_epoch("mAP") == epoch
