"""Whole studies whose images are kept in different ways, through Ray: the same numbers, and what the plan said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from results.records import read_journal
from tests.running import STUDY_TIMEOUT, Command

pytestmark = pytest.mark.slow


def test_no_number_of_a_study_depends_on_how_its_images_are_kept(start: Callable[..., Command], tmp_path: Path) -> None:
    scores = {}
    for mode in ("decoded", "encoded", "off"):
        command = start(
            "--space", "smoke", "--profile", "cpu", "--runs-dir", str(tmp_path), "--name", mode, "--trials", "3", "--epochs",
            "2", "--scheduler", "none", "--sampler", "random", "--concurrent", "1", "--cache", mode,
        )  # fmt: skip
        assert command.wait(STUDY_TIMEOUT) == 0, command.text()
        assert f"images  {mode}: " in command.text()
        records = read_journal(tmp_path / mode / "journal.jsonl")
        scores[mode] = {
            (r["trial"], r["epoch"]): (r["train_loss"], r["metrics"], r["per_class"])
            for r in records
            if r["event"] == "epoch"
        }
    assert len(scores["decoded"]) == 6
    assert scores["encoded"] == scores["off"] == scores["decoded"]
