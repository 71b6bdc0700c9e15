"""Tables of a study whose every number is known."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from results.records import read_journal, read_plan
from results.state import StudyState
from results.tables import (
    as_csv,
    as_markdown,
    configurations,
    differences,
    leaderboard,
    sessions,
    show,
    summary,
    train_share,
    varied_fields,
    wall_seconds,
)
from tests.results.conftest import LEVELS, TRIALS, Story, epoch_record


def state_of(folder: Path) -> StudyState:
    return StudyState.of_plan(read_plan(folder), read_journal(folder / "journal.jsonl"))


class TestLeaderboard:
    def test_has_the_promised_columns_then_the_varied_fields(self, study: Path) -> None:
        columns = list(leaderboard(state_of(study))[0])
        promised = ["trial", "config", "role", "state", "seed", "rung", "epochs", "mAP", "AP50", "seconds"]
        assert set(promised) <= set(columns)
        assert columns[-2:] == ["lr", "box_loss"], "head_shared took one value only"

    def test_is_sorted_by_rung_then_score_then_age(self, study: Path) -> None:
        order = [row["trial"] for row in leaderboard(state_of(study))]
        assert order == ["best0002", "base0001", "low00003", "stop0006", "div00004", "fail0005"]

    def test_each_row(self, study: Path) -> None:
        rows = {row["trial"]: row for row in leaderboard(state_of(study))}
        states = {trial: row["state"] for trial, row in rows.items()}
        assert states == {
            "best0002": "finished", "base0001": "pruned", "low00003": "pruned", "div00004": "diverged", "fail0005": "failed",
            "stop0006": "stopped",
        }  # fmt: skip
        best = rows["best0002"]
        assert (best["rung"], best["epochs"], best["best_epoch"], best["mAP"], best["AP50"]) == (9, 9, 6, 0.42, 0.63)
        assert best["seconds"] == 18.0
        assert math.isnan(best["AP_large"]) or best["AP_large"] == -1.0
        assert (best["lr"], best["box_loss"]) == (2e-3, "giou")
        assert (rows["base0001"]["lr"], rows["base0001"]["rung"], rows["base0001"]["mAP"]) == (1e-3, 3, 0.30)
        assert (rows["div00004"]["rung"], rows["div00004"]["epochs"], rows["div00004"]["seconds"]) == (0, 0, 0)
        assert math.isnan(rows["div00004"]["mAP"])
        assert {row["role"] for row in rows.values()} == {"search"}

    def test_a_metric_of_its_own_is_a_column(self, study: Path) -> None:
        state = StudyState.replay(read_journal(study / "journal.jsonl"), "class:car", LEVELS)
        assert leaderboard(state)[0]["class:car"] == 0.42


def test_varied_fields_are_those_with_more_than_one_value(study: Path) -> None:
    assert varied_fields(state_of(study)) == ["lr", "box_loss"]


def test_differences_leave_out_what_a_proposal_shares_with_the_base(study: Path) -> None:
    state = state_of(study)
    assert differences(state, state.trials["low00003"]) == {"lr": 5e-4}
    assert differences(state, state.trials["best0002"]) == {"lr": 2e-3, "box_loss": "giou"}
    assert differences(state, state.trials["base0001"]) == {}


class TestConfigurations:
    def test_has_the_promised_columns_and_the_order_of_the_ranking(self, study: Path) -> None:
        rows = configurations(state_of(study))
        assert {"config", "n", "mAP_mean", "mAP_sd", "best_rung", "optimism", "lr", "box_loss"} <= set(rows[0])
        assert [row["trial"] for row in rows][:3] == ["best0002", "base0001", "low00003"]
        assert len(rows) == len(TRIALS)
        assert (rows[0]["n"], rows[0]["mAP_mean"], rows[0]["best_rung"]) == (1, 0.42, 9)
        assert math.isnan(rows[0]["mAP_sd"])
        assert math.isnan(rows[0]["optimism"])
        assert rows[-1]["n"] == 0

    def test_fresh_seeds_are_the_mean_and_optimism_is_what_the_search_had_above_it(
        self, study: Path, story: Story
    ) -> None:
        for seed, scores in ((1, [0.1] * 8 + [0.36]), (2, [0.1] * 8 + [0.40])):
            story.create(f"seed{seed}", TRIALS["best0002"][0], 2000.0, role="final", seed=seed)
            story.train(f"seed{seed}", scores, 1, 2000.0)
        state = state_of(story.write())
        top = configurations(state)[0]
        assert top["n"] == 2
        assert top["mAP_mean"] == pytest.approx(0.38)
        assert top["mAP_sd"] == pytest.approx(0.04 / 2**0.5)
        assert top["optimism"] == pytest.approx(0.42 - 0.38)
        told = summary(read_plan(study), state)
        assert told["trials"] == 6, "final runs are no trials of the search"
        assert told["best"]["trial"] == "best0002"

    def test_fresh_seeds_that_did_not_come_to_their_end_do_not_rank_and_one_that_diverged_is_worth_nothing(
        self, study: Path, story: Story
    ) -> None:
        story.create("seed1", TRIALS["best0002"][0], 2000.0, role="final", seed=1)
        story.train("seed1", [0.05], 1, 2000.0, outcome="interrupted", to=9)
        top = configurations(state_of(story.write()))[0]
        assert (top["n"], top["mAP_mean"]) == (1, 0.42), "still the search's own"
        story.create("seed2", TRIALS["best0002"][0], 2100.0, role="final", seed=2)
        story.train("seed2", [0.1] * 8 + [0.40], 1, 2100.0)
        story.create("seed3", TRIALS["best0002"][0], 2200.0, role="final", seed=3)
        story.train("seed3", [0.3, 0.4], 1, 2200.0, outcome="diverged", to=9)
        top = configurations(state_of(story.write()))[0]
        assert (top["n"], top["mAP_mean"]) == (2, pytest.approx(0.20))


class TestSummary:
    def test_counts_and_best(self, study: Path) -> None:
        told = summary(read_plan(study), state_of(study))
        counts = {
            name: told[name] for name in ("trials", "finished", "pruned", "failed", "diverged", "infeasible", "stopped")
        }
        assert counts == {
            "trials": 6,
            "finished": 1,
            "pruned": 2,
            "failed": 1,
            "diverged": 1,
            "infeasible": 0,
            "stopped": 1,
        }
        assert told["best"]["trial"] == "best0002"
        assert (told["best"]["mAP"], told["best"]["AP50"], told["best"]["epoch"]) == (0.42, 0.63, 6)
        assert told["base"] == {"trial": "base0001", "epochs": 3, "mAP": 0.30, "AP50": 0.45}
        assert told["epochs"] == 3 + 9 + 1 + 1
        assert told["ended"] == "interrupted"
        assert told["dataset"]["fingerprint"] == "0123456789abcdef"
        assert {"name", "fingerprint", "train_images", "val_images"} <= told["dataset"].keys()
        assert told["versions"]["torch"] == "2.14.1"

    def test_best_is_the_highest_rungs_not_the_highest_score(self, study: Path, story: Story) -> None:
        story.create("lucky007", {"lr": 4e-3, "box_loss": "giou"}, 2000.0)
        story.train("lucky007", [0.9], 1, 2000.0)
        assert summary(read_plan(study), state_of(story.write()))["best"]["trial"] == "best0002"

    def test_an_empty_study_has_no_best(self, story: Story) -> None:
        told = summary(read_plan(story.folder), state_of(story.write()))
        assert (told["trials"], told["best"], told["base"], told["train_share"], told["wall_seconds"]) == (
            0,
            None,
            None,
            None,
            0,
        )


class TestTimes:
    def test_sessions_part_at_each_start(self, study: Path) -> None:
        records = read_journal(study / "journal.jsonl")
        parts = sessions(records)
        assert [part[0]["resumed"] for part in parts] == [False, True]
        assert [record for part in parts for record in part] == [r for r in records if r["event"] != "lease_taken"]

    def test_a_driver_that_ends_before_its_session_belongs_to_none(self, study: Path) -> None:
        lease = {"event": "lease_taken", "time": 5000.0, "host": "here", "generation": 3}
        records = [*read_journal(study / "journal.jsonl"), lease, {"event": "note", "time": 5001.0}]
        assert sessions(records) == sessions(records[:-2])

    def test_wall_seconds_are_the_sessions_not_the_pause_between(self, study: Path) -> None:
        # 100 .. 130 (the base's last epoch, begun at 126, two seconds each) and 1000 .. 1040.
        assert wall_seconds(read_journal(study / "journal.jsonl")) == pytest.approx(30 + 40)

    def test_train_share_by_hand(self, study: Path) -> None:
        # First session: 7 epochs of 2 s in 2 slots x (130 - 102); second: 7 epochs of 2 s in 2 slots x (1022 - 1002).
        assert train_share(read_journal(study / "journal.jsonl")) == pytest.approx((14 + 14) / (2 * 28 + 2 * 20))

    def test_a_lone_leg_on_two_threads_fills_two_slots(self) -> None:
        start = {"event": "session_started", "time": 0.0, "started": 0.0, "slots": 2, "threads": 1}
        lone = [epoch_record("a", n, 0.1, 4.0 * n, seconds=4.0, threads=2) for n in (1, 2)]
        assert train_share([start, *lone]) == pytest.approx(1.0)
        half = [epoch_record("a", n, 0.1, 4.0 * n, seconds=4.0, threads=1) for n in (1, 2)]
        assert train_share([start, *half]) == pytest.approx(0.5)

    def test_epochs_absorbed_from_a_checkpoint_were_not_trained_here(self) -> None:
        start = {"event": "session_started", "time": 100.0, "started": 100.0, "slots": 1, "threads": 1}
        absorbed = epoch_record("a", 1, 0.1, 101.0, seconds=50.0, absorbed=True)
        trained = epoch_record("a", 2, 0.1, 110.0, seconds=4.0)
        later = epoch_record("a", 3, 0.1, 116.0, seconds=4.0)
        assert train_share([start, absorbed, trained, later]) == pytest.approx(8 / 10)

    def test_without_an_epoch_there_is_no_share(self) -> None:
        assert math.isnan(
            train_share([{"event": "session_started", "time": 0.0, "started": 0.0, "slots": 1, "threads": 1}])
        )


class TestText:
    ROWS = ({"a": 1, "b": math.nan, "c": (1.0, 0.5)}, {"a": 2, "b": 0.12345, "d": None})

    def test_csv_has_every_column_and_empty_cells_for_nothing(self) -> None:
        rows = list(csv.DictReader(io.StringIO(as_csv(list(self.ROWS)))))
        assert list(rows[0]) == ["a", "b", "c", "d"]
        assert (rows[0]["b"], rows[1]["b"], rows[1]["d"], rows[1]["c"]) == ("", "0.12345", "", "")

    def test_csv_of_the_study_reads_back(self, study: Path) -> None:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(as_csv(leaderboard(state_of(study))))))
        assert len(rows) == 6
        assert float(rows[0]["mAP"]) == 0.42
        assert rows[-1]["mAP"] == ""

    def test_markdown_has_a_line_a_row(self) -> None:
        lines = as_markdown(list(self.ROWS)).splitlines()
        assert lines[0] == "| a | b | c | d |"
        assert lines[1].count("---") == 4
        assert lines[3] == "| 2 | 0.123 | - | - |"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "-"),
            (math.nan, "-"),
            (0.12345, "0.123"),
            (1e-5, "1e-05"),
            (0.0, "0"),
            (True, "True"),
            (3, "3"),
            ((1.0, 0.5), "(1.000 0.500)"),
        ],
    )
    def test_show(self, value: Any, text: str) -> None:
        assert show(value) == text
