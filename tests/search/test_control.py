"""A real study on Ray that is asked to prune a trial, to try a config, and to stop, while it runs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from results.records import read_journal
from search.control import main
from search.plan import write_plan
from tests.running import STOP_TIMEOUT, STUDY_TIMEOUT, Command, journal, wait_for_epochs
from tests.search.builders import planned, train_all, write_dataset


def is_started(folder: Path, trial: str) -> bool:
    """Whether the journal has a leg of a trial."""
    return any(r["event"] == "leg_started" and r["trial"] == trial for r in journal(folder))


@pytest.mark.slow
def test_a_running_study_is_controlled(
    tmp_path: Path, start: Callable[..., Command], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "s"
    study = start(
        "--space", "smoke", "--profile", "cpu", "--runs-dir", str(tmp_path), "--name", "s", "--trials", "60",
        "--scheduler", "none", "--epochs", "1000",
    )  # fmt: skip
    wait_for_epochs(study, folder, 3)
    patiently = ("--patience", str(STUDY_TIMEOUT))
    config = tmp_path / "mine.yaml"
    config.write_text("lr: 0.0042\n")
    assert main([str(folder), "add", str(config), *patiently]) == 0
    running = [record["trial"] for record in journal(folder) if record["event"] == "epoch"][-1]
    assert main([str(folder), "prune", running, *patiently]) == 0  # its slot is the added config's
    study.until(lambda: is_started(folder, added(folder)), "the added config was not tried")
    assert main([str(folder), "stop", *patiently]) == 0
    assert study.wait(STOP_TIMEOUT) == 0, study.text()[-3000:]
    with (folder / "results" / "leaderboard.csv").open() as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert rows[running]["state"] == "pruned"
    assert int(rows[running]["epochs"]) < 1000
    assert added(folder) in rows, "the added config was tried"
    assert len(rows) < 60
    records = read_journal(folder / "journal.jsonl")
    assert records[-1] == {**records[-1], "event": "study_ended", "reason": "stopped"}
    assert [r["ask"] for r in records if r["event"] == "asked"] == ["add", "prune", "stop"]
    assert "has ended" not in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(folder), "stop"])
    assert end.value.code == 2
    assert "nobody is there to be asked" in capsys.readouterr().err


def added(folder: Path) -> str:
    """The trial with the learning rate that was added; "" while there is none."""
    for record in journal(folder):
        if record["event"] == "trial_created" and record["config"]["lr"] == 0.0042:
            return str(record["trial"])
    return ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune", "nobody"], "prune nobody: must be the id or number of a trial"),
        (["prune"], "prune: must be followed by a trial"),
        (["stop", "now"], "stop: stands alone"),
        (["add", "gone.yaml"], "add gone.yaml: must be a readable file"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_message_and_exit_2(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], two_cores_of_its_own: None
) -> None:
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=3)
    write_plan(study)
    train_all(study, legs=1)
    with pytest.raises(SystemExit) as end:
        main([str(study.folder), *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_where_nobody_answers_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], two_cores_of_its_own: None
) -> None:
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=3)
    write_plan(study)
    train_all(study, legs=1)
    assert main([str(study.folder), "prune", "1", "--patience", "0"]) == 1
    assert "no answer" in capsys.readouterr().err
