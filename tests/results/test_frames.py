"""A study as pandas frames: values of the hand-written study, dtypes as documented, and an empty study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import results
from results.records import JournalError
from tests.results.conftest import Story


def test_trials_are_the_leaderboards_with_documented_dtypes(study: Path) -> None:
    trials = results.load(study).trials
    assert list(trials.index) == ["best0002", "base0001", "low00003", "stop0006", "div00004", "fail0005"]
    best = trials.loc["best0002"]
    assert (best["mAP"], best["rung"], best["epochs"], best["state"], best["lr"], best["box_loss"]) == (
        0.42, 9, 9, "finished", 2e-3, "giou",
    )  # fmt: skip
    assert pd.isna(trials.loc["div00004", "rung"])
    assert pd.isna(trials.loc["best0002", "AP_large"]), "COCO's -1"
    kinds = {name: str(kind) for name, kind in trials.dtypes.items()}
    assert (kinds["lr"], kinds["box_loss"], kinds["mAP"], kinds["seed"]) == ("float64", "string", "float64", "Int64")
    assert (kinds["state"], kinds["role"]) == ("category", "category")
    assert set(trials["state"].cat.categories) >= {"finished", "pruned", "infeasible"}


def test_epochs_by_trial_and_number(study: Path) -> None:
    epochs = results.load(study).epochs
    assert epochs.loc[("best0002", 6), "mAP"] == 0.42
    assert epochs.loc["base0001"]["mAP"].tolist() == [0.10, 0.20, 0.30]
    assert epochs.loc[("best0002", 1), "AP car"] == 0.15
    assert epochs["AP tram"].isna().all()
    assert (str(epochs["train_loss"].dtype), str(epochs["leg"].dtype)) == ("float64", "Int64")
    assert isinstance(epochs["time"].dtype, pd.DatetimeTZDtype)
    assert len(epochs) == 14


def test_decisions_tell_what_happened_in_order(study: Path) -> None:
    decisions = results.load(study).decisions
    promoted = decisions[decisions["event"] == "promoted"]
    assert promoted[["trial", "rung", "to_epoch"]].values.tolist() == [
        ["best0002", 0, 3], ["base0001", 0, 3], ["best0002", 1, 9],
    ]  # fmt: skip
    ends = decisions[decisions["event"] == "leg_ended"].set_index("trial")["outcome"]
    assert ends["div00004"] == "diverged"
    assert "epoch" not in set(decisions["event"])
    assert isinstance(decisions["time"].dtype, pd.DatetimeTZDtype)


def test_a_study_that_has_only_a_plan_is_three_empty_frames(story: Story) -> None:
    found = results.load(story.write())
    assert [len(frame) for frame in (found.trials, found.epochs, found.decisions)] == [0, 0, 0]


def test_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="must be a study folder"):
        results.load(tmp_path)
