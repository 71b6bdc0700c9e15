"""The engine against a simulated runner: what comes next, what is journaled when, and that any crash can be resumed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config import ConfigError, DetectorConfig
from results.records import read_journal
from results.state import LOSSES_THAT_TELL, StudyState
from search.engine import MAX_BARREN_PROPOSALS, Engine, Leg, Limits, trial_id
from tests.search.builders import (
    FINGERPRINT,
    ListedSampler,
    NumberedSampler,
    epoch_result,
    hash_score,
    make_engine,
    smoke_space,
    train_leg,
)

pytestmark = pytest.mark.usefixtures("no_fsync")

DECISIONS = (
    "trial_created",
    "proposal",
    "proposal_known",
    "proposal_refused",
    "promoted",
    "leg_started",
    "space_exhausted",
)
OUTCOMES = ("reached", "reached", "reached", "reached", "diverged", "error", "lost", "interrupted", "infeasible")


def next_leg(engine: Engine) -> Leg:
    leg = engine.next_leg()
    assert leg is not None
    return leg


def events(engine: Engine) -> list[str]:
    return [record["event"] for record in engine.state.records]


def run_serially(engine: Engine, score_of: Callable[[str, int], float] = hash_score, most: int = 200) -> None:
    """One slot until the engine has nothing left."""
    for _ in range(most):
        leg = engine.next_leg()
        if leg is None:
            return
        train_leg(engine, leg, score_of)
    raise AssertionError(f"not done after {most} legs")


def run_at_random(engine: Engine, rng: random.Random, slots: int) -> None:
    """Several slots, legs that advance and end in random order with random outcomes."""
    legs: list[Leg] = []
    for _ in range(2000):
        while len(legs) < slots and (leg := engine.next_leg()) is not None:
            legs.append(leg)
        if not legs:
            return
        leg = rng.choice(legs)
        done = engine.state.trials[leg.trial].last_epoch
        outcome = rng.choice(OUTCOMES) if rng.random() < 0.3 else "reached"
        if outcome == "reached" and done < leg.to_epoch:
            engine.on_epoch(leg.trial, epoch_result(done + 1, round(rng.random(), 2)))
            continue
        legs.remove(leg)
        engine.on_leg_end(leg.trial, outcome, reason="drawn")
    raise AssertionError("the study does not end")


def comparable(state: StudyState) -> dict[str, Any]:
    """The whole state in a form where NaN equals NaN."""
    return {key: repr(value) for key, value in vars(state).items()}


class TestWhatComesNext:
    def test_trial_1_is_the_base(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        leg = next_leg(engine)
        base = smoke_space().base
        assert leg.config == base.to_dict()
        assert leg.trial == trial_id(base, FINGERPRINT, 0)
        assert (leg.number, leg.to_epoch) == (1, 1)
        assert engine.state.trials[leg.trial].proposal is None
        assert engine.state.trials[leg.trial].config == base.active_dict()
        assert "proposal" not in events(engine)

    def test_a_leg_trains_what_the_journal_says_was_created(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        next_leg(engine)
        leg = next_leg(engine)
        created = [record for record in read_journal(engine.journal.path) if record["event"] == "trial_created"][-1]
        assert created["trial"] == leg.trial
        assert (
            leg.config["lr"]
            == created["config"]["lr"]
            == created["varied"]["lr"]
            == NumberedSampler().propose(1, engine.state)["lr"]
        )

    def test_retry_before_promotion_before_new(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path)
        broken = next_leg(engine)
        legs = [next_leg(engine) for _ in range(3)]
        for leg in legs:
            train_leg(engine, leg, hash_score)
        engine.on_leg_end(broken.trial, "error", reason="ValueError")
        assert next_leg(engine).trial == broken.trial
        promoted = next_leg(engine)
        assert promoted.to_epoch == 3
        assert promoted.trial == max((leg.trial for leg in legs), key=lambda trial: hash_score(trial, 1))
        assert next_leg(engine).to_epoch == 1, "only then a new trial"
        assert len(engine.state.trials) == 5

    def test_the_order_of_legs_where_each_newcomer_is_better_than_all_before(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=12)
        scores = iter(n / 1000 for n in range(1, 1000))
        order = []
        while (leg := engine.next_leg()) is not None:
            order.append((engine.state.trials[leg.trial].number, leg.to_epoch))
            train_leg(engine, leg, lambda trial, epoch: next(scores))
        # Three at a rung send their best on; from then on floor(n / 3) = 1 and every newcomer is the best.
        assert order[:9] == [(1, 1), (2, 1), (3, 1), (3, 3), (4, 1), (4, 3), (5, 1), (5, 3), (5, 9)]

    def test_the_number_of_trials_is_kept(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=7)
        run_serially(engine)
        assert len(engine.state.trials) == 7
        assert engine.idle
        assert engine.next_leg() is None

    def test_without_pruning_everything_trains_to_the_top(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, scheduler="none", trials=4)
        run_serially(engine)
        assert [trial.outcome for trial in engine.state.trials.values()] == ["finished"] * 4
        assert {trial.last_epoch for trial in engine.state.trials.values()} == {9}
        assert {trial.legs for trial in engine.state.trials.values()} == {1}

    def test_trial_id_depends_on_config_dataset_and_seed_only(self) -> None:
        base = smoke_space().base
        ids = {
            trial_id(base, "f", 0),
            trial_id(base.with_values({"lr": 2e-3}), "f", 0),
            trial_id(base, "g", 0),
            trial_id(base, "f", 1),
        }
        assert len(ids) == 4
        assert trial_id(base.with_values({"sgd_momentum": 0.5}), "f", 0) == trial_id(base, "f", 0), (
            "not consumed under adamw"
        )


class TestProposals:
    def test_known_proposals_are_noted_and_not_counted(self, tmp_path: Path) -> None:
        base_lr = smoke_space().base.lr
        engine = make_engine(
            tmp_path,
            sampler=ListedSampler([{"lr": base_lr}, {"lr": 2e-3}, {"lr": 2e-3}, {"lr": 3e-3}]),
            trials=3,
            scheduler="none",
        )
        run_serially(engine)
        assert [trial.varied for trial in engine.state.trials.values()] == [{}, {"lr": 2e-3}, {"lr": 3e-3}]
        known = [record["known_as"] for record in engine.state.records if record["event"] == "proposal_known"]
        assert known == list(engine.state.trials)[:2]
        assert all("trial" not in record for record in engine.state.records if record["event"].startswith("proposal"))

    def test_proposals_that_differ_in_an_unconsumed_field_are_one_trial(self, tmp_path: Path) -> None:
        proposals = [{"box_loss": "giou", "smooth_l1_beta": 0.2}, {"box_loss": "giou", "smooth_l1_beta": 0.5}]
        engine = make_engine(tmp_path, sampler=ListedSampler(proposals), trials=5)
        run_serially(engine)
        assert [trial.varied for trial in engine.state.trials.values()] == [{}, {"box_loss": "giou"}]

    def test_an_impossible_proposal_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        proposals = [{"match_iou_low": 0.9}, {"lr": 2e-3}]
        engine = make_engine(tmp_path, sampler=ListedSampler(proposals), trials=2)
        run_serially(engine)
        refused = [record for record in engine.state.records if record["event"] == "proposal_refused"]
        assert len(refused) == 1
        assert "match_iou_low" in refused[0]["reason"]
        assert len(engine.state.trials) == 2

    def test_a_sampler_without_proposals_exhausts_the_space(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, sampler=ListedSampler([{"lr": 2e-3}]), trials=5)
        run_serially(engine)
        assert engine.exhausted
        assert events(engine).count("space_exhausted") == 1
        assert engine.next_leg() is None

    def test_a_sampler_that_repeats_itself_exhausts_the_space(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, sampler=ListedSampler([{"lr": 2e-3}] * 1000), trials=5)
        run_serially(engine)
        assert events(engine).count("proposal_known") == MAX_BARREN_PROPOSALS
        assert len(engine.state.trials) == 2


class TestFailures:
    def test_three_losses_with_the_node_alive_count_as_out_of_memory(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=2)
        trial = next_leg(engine).trial
        for _ in range(LOSSES_THAT_TELL):
            engine.on_leg_end(trial, "lost", reason="its worker ended", node_alive=True)
            leg = next_leg(engine)
            assert leg.trial == trial
        assert leg.alone
        assert engine.next_leg() is None, "nothing runs beside it"
        for _ in range(LOSSES_THAT_TELL):
            engine.on_leg_end(trial, "lost", reason="its worker ended", node_alive=True)
            again = engine.next_leg()
        assert engine.state.trials[trial].outcome == "infeasible", (
            "the smoke space's batch norm allows no smaller batch"
        )
        assert "batch norm" in engine.state.trials[trial].reason
        assert again is not None
        assert again.trial != trial

    def test_a_trial_lost_with_its_node_is_never_blamed(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=2)
        trial = next_leg(engine).trial
        for _ in range(3 * LOSSES_THAT_TELL):
            engine.on_leg_end(trial, "lost", reason="its node died", node_alive=False)
            leg = next_leg(engine)
            assert (leg.trial, leg.alone) == (trial, False)

    def test_out_of_memory_is_tried_alone_then_in_halves_then_infeasible(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, sampler=ListedSampler([{"norm": "group", "lr": 2e-3}, {"lr": 3e-3}]), trials=2)
        beside = next_leg(engine)
        trial = next_leg(engine).trial
        engine.on_leg_end(trial, "out_of_memory", reason="CUDA out of memory")
        assert engine.next_leg() is None, "it waits until nothing runs beside it"
        train_leg(engine, beside, hash_score)
        tried = []
        for _ in range(4):
            leg = next_leg(engine)
            assert leg.trial == trial
            tried.append((leg.alone, leg.micro_batch, engine.state.records[-1].get("micro_batch")))
            engine.on_leg_end(trial, "out_of_memory", reason="CUDA out of memory")
        # The smoke space's batch of 8 in halves.
        assert tried == [(True, None, None), (True, 4, 4), (True, 2, 2), (True, 1, 1)]
        assert engine.state.trials[trial].outcome == "infeasible"
        assert "one image at a time" in engine.state.trials[trial].reason

    @pytest.mark.parametrize("max_failures", [0, 1, 3])
    def test_an_error_is_tried_again_max_failures_times_then_failed(self, tmp_path: Path, max_failures: int) -> None:
        engine = make_engine(tmp_path, limits=Limits(2, max_failures=max_failures))
        trial = next_leg(engine).trial
        for _ in range(max_failures):
            engine.on_leg_end(trial, "error", reason="KeyError: 'x'")
            assert next_leg(engine).trial == trial
        engine.on_leg_end(trial, "error", reason="KeyError: 'x'")
        assert (engine.state.trials[trial].outcome, engine.state.trials[trial].reason) == ("failed", "KeyError: 'x'")
        assert next_leg(engine).trial != trial

    def test_a_diverged_trial_is_never_continued(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=6)
        trial = next_leg(engine).trial
        engine.on_leg_end(trial, "diverged", reason="loss became nan", step=3)
        run_serially(engine)
        assert engine.state.trials[trial].legs == 1
        assert engine.state.trials[trial].outcome == "diverged"

    def test_who_was_stopped_stays_stopped_when_a_better_trial_diverges_later(self, tmp_path: Path) -> None:
        """Ray's cut-off keeps every score that was recorded; asha_stop decides once, at arrival."""
        engine = make_engine(tmp_path, scheduler="asha_stop", trials=2)
        first = next_leg(engine)
        train_leg(engine, first, lambda trial, epoch: 0.9)
        again = next_leg(engine)
        assert (again.trial, again.to_epoch) == (first.trial, 3)
        second = next_leg(engine)
        train_leg(engine, second, lambda trial, epoch: 0.1)
        assert engine.next_leg() is None, "0.1 is below the cut-off 0.9"
        engine.on_leg_end(first.trial, "diverged", reason="loss became nan")
        assert engine.next_leg() is None

    def test_a_lost_leg_goes_on_from_where_it_was_and_counts_no_epoch_twice(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, scheduler="none", trials=1)
        leg = next_leg(engine)
        engine.on_epoch(leg.trial, epoch_result(1, 0.1))
        engine.on_epoch(leg.trial, epoch_result(2, 0.2))
        engine.on_leg_end(leg.trial, "lost", reason="its worker ended")
        again = next_leg(engine)
        assert again.to_epoch == 9
        assert engine.state.records[-1]["from_epoch"] == 2
        engine.on_epoch(leg.trial, epoch_result(2, 0.9))  # its checkpoint was one epoch behind
        assert engine.state.trials[leg.trial].score("mAP", 2) == 0.2
        assert events(engine).count("epoch") == 2

    def test_a_full_disk_starts_nothing_and_ends_no_trial(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=4)
        trial = next_leg(engine).trial
        engine.on_leg_end(trial, "interrupted", reason="the disk is full", storage_trouble="is full")
        assert engine.next_leg() is None
        assert engine.state.final_state(engine.state.trials[trial]) == "stopped"
        engine.journal.close()
        again = make_engine(tmp_path, trials=4)
        assert next_leg(again).trial == trial, "with room, the same leg goes on"


class TestTime:
    def test_nothing_starts_after_max_seconds(self, tmp_path: Path) -> None:
        now = [100.0]
        engine = make_engine(tmp_path, limits=Limits(9, max_seconds=60), clock=lambda: now[0])
        leg = next_leg(engine)
        now[0] = 160.0
        assert not engine.out_of_time, "the limit itself is still in time"
        assert engine.next_leg() is not None
        now[0] = 160.5
        lines = len(engine.state.records)
        assert engine.out_of_time
        assert engine.next_leg() is None
        assert len(engine.state.records) == lines
        train_leg(engine, leg, hash_score)
        assert engine.state.trials[leg.trial].rung == 0, "a running leg's results still count"

    def test_a_resumed_study_has_its_seconds_again(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, limits=Limits(9, max_seconds=60), clock=lambda: 0.0)
        leg = next_leg(engine)
        engine.on_leg_end(leg.trial, "interrupted", reason="the study was stopped")
        engine.journal.close()
        resumed = make_engine(tmp_path, limits=Limits(9, max_seconds=60), clock=lambda: 1e6)
        assert next_leg(resumed).trial == leg.trial


class TestRandomStudies:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        seed=st.integers(0, 10_000), slots=st.integers(1, 4), scheduler=st.sampled_from(["asha", "asha_stop", "none"])
    )
    def test_the_state_is_the_replay_of_the_journal_and_decisions_fall_when_asked(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, slots: int, scheduler: str
    ) -> None:
        engine = make_engine(tmp_path_factory.mktemp("random"), scheduler=scheduler, trials=9)
        asked = [False]
        ask, record = engine.next_leg, engine.record

        def next_leg_asked(**resources: Any) -> Leg | None:
            asked[0] = True
            try:
                return ask(**resources)
            finally:
                asked[0] = False

        def watched(event: str, **values: Any) -> None:
            assert event not in DECISIONS or asked[0], f"{event} was decided while nobody asked"
            if event == "leg_started":
                assert values["trial"] not in engine.running
                assert len(engine.running) < slots
            record(event, **values)

        engine.next_leg, engine.record = next_leg_asked, watched  # type: ignore[method-assign]
        run_at_random(engine, random.Random(seed), slots)
        replayed = StudyState.replay(read_journal(engine.journal.path), "mAP", engine.scheduler.levels)
        assert comparable(replayed) == comparable(engine.state)
        assert len(engine.state.trials) == 9
        for trial in engine.state.trials.values():
            assert trial.leg_target is None, "everything owed was trained or given up"
            assert sorted(trial.epochs) == list(range(1, trial.last_epoch + 1))
        engine.journal.close()


def recorded_study(folder: Path, trials: int = 9) -> tuple[list[bytes], dict[str, tuple[str, int]]]:
    """The journal lines of an undisturbed study on one slot, with trials that diverge, and how each trial ended."""
    engine = make_engine(folder, trials=trials)
    run_with_divergence(engine)
    ends = {trial.id: (engine.state.final_state(trial), trial.last_epoch) for trial in engine.state.trials.values()}
    engine.journal.close()
    return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True), ends


def run_with_divergence(engine: Engine) -> None:
    """One slot; a result depends on (trial, epoch) alone: about one trial in eight diverges at its second epoch."""
    for _ in range(200):
        leg = engine.next_leg()
        if leg is None:
            return
        if int(leg.trial, 16) % 8 == 0 and leg.to_epoch > 1:
            engine.on_leg_end(leg.trial, "diverged", reason="loss became nan")
        else:
            train_leg(engine, leg, hash_score)
    raise AssertionError("the study does not end")


def ends_after_kill(folder: Path, lines: list[bytes], kept: int) -> dict[str, tuple[str, int]]:
    """How each trial ended in the study that was killed after `kept` lines and resumed."""
    folder.mkdir()
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]))
    engine = make_engine(folder, trials=9)
    run_with_divergence(engine)
    engine.journal.close()
    assert (folder / "journal.jsonl").read_bytes().startswith(b"".join(lines[:kept]))
    return {trial.id: (engine.state.final_state(trial), trial.last_epoch) for trial in engine.state.trials.values()}


class TestKilledAndResumed:
    def test_after_any_line_the_same_trials_end_the_same_way(self, tmp_path: Path) -> None:
        lines, expected = recorded_study(tmp_path / "whole")
        differing = {}
        for kept in range(len(lines)):
            ends = ends_after_kill(tmp_path / f"killed-{kept}", lines, kept)
            if ends != expected:
                differing[kept] = json.loads(lines[kept - 1])["event"]
        assert not differing, f"killed after these lines (number: event) the study ends otherwise: {differing}"

    @pytest.mark.parametrize("event", ["proposal", "trial_created", "promoted", "leg_started", "epoch", "leg_ended"])
    def test_after_the_last_line_of_each_kind(self, tmp_path: Path, event: str) -> None:
        lines, expected = recorded_study(tmp_path / "whole")
        kept = max(n for n, line in enumerate(lines, 1) if json.loads(line)["event"] == event)
        assert ends_after_kill(tmp_path / "killed", lines, kept) == expected

    @pytest.mark.parametrize(
        ("outcome", "times", "final"), [("lost", 2 * LOSSES_THAT_TELL, "infeasible"), ("error", 2, "failed")]
    )
    def test_between_the_last_failure_and_the_verdict(
        self, tmp_path: Path, outcome: str, times: int, final: str
    ) -> None:
        engine = make_engine(tmp_path / "a", trials=1)
        for _ in range(times):
            engine.on_leg_end(next_leg(engine).trial, outcome, reason="drawn")
        engine.journal.close()
        lines = (tmp_path / "a" / "journal.jsonl").read_bytes().splitlines(keepends=True)
        assert json.loads(lines[-1])["outcome"] == final
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
        resumed = make_engine(tmp_path / "b", trials=1)
        assert resumed.next_leg() is None, "the trial had its last chance before the kill"
        assert next(iter(resumed.state.trials.values())).outcome == final

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 10_000))
    def test_killed_many_times_at_random_a_study_still_finishes_everything(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int
    ) -> None:
        rng = random.Random(seed)
        folder = tmp_path_factory.mktemp("killed")
        for _ in range(6):
            engine = make_engine(folder, trials=9)
            most = rng.randrange(1, 12)
            legs: list[Leg] = []
            for _ in range(most):
                leg = engine.next_leg() if len(legs) < 3 else None
                if leg is not None:
                    legs.append(leg)
                elif legs:
                    train_leg(engine, legs.pop(rng.randrange(len(legs))), hash_score)
            engine.journal.close()
        engine = make_engine(folder, trials=9)
        run_serially(engine)
        assert len(engine.state.trials) == 9
        assert all(trial.rung >= 0 for trial in engine.state.trials.values())
        owed = [trial.id for trial in engine.state.trials.values() if trial.leg_target is not None]
        assert not owed
        engine.journal.close()


def test_a_proposal_that_this_dataset_cannot_train_is_refused_before_it_costs_a_trial(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, sampler=ListedSampler([{"lr": 2e-3}, {"lr": 3e-3}]))

    def check(config: DetectorConfig) -> None:
        if config.lr == 2e-3:
            raise ConfigError("anchors must be able to match")

    engine.check = check
    for _ in range(2):  # the base, then the second proposal
        leg = engine.next_leg()
        assert leg is not None
        engine.on_leg_end(leg.trial, "diverged")
    refused = [r for r in engine.state.records if r["event"] == "proposal_refused"]
    assert [(r["number"], r["reason"]) for r in refused] == [(1, "anchors must be able to match")]
    assert [t.varied.get("lr") for t in engine.state.trials.values()] == [None, 3e-3]
