"""A real study on Ray that is asked to prune a trial, to try a config, and to stop, while it runs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from results.records import read_journal
from search.control import main
from search.plan import write_plan
from tests.search.builders import planned, train_all, write_dataset

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


def epochs(folder: Path) -> list[str]:
    """The trials that the journal has epochs of, in order."""
    if not (folder / "journal.jsonl").is_file():
        return []
    lines = (folder / "journal.jsonl").read_text().split("\n")[:-1]
    return [record["trial"] for record in map(json.loads, lines) if record["event"] == "epoch"]


def is_started(folder: Path, trial: str) -> bool:
    """Whether the journal has a leg of a trial."""
    return any(r["event"] == "leg_started" and r["trial"] == trial for r in read_journal(folder / "journal.jsonl"))


def wait_until(true: Callable[[], bool], study: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert study.poll() is None, "the study has ended"
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.slow
def test_a_running_study_is_controlled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "s"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "search.run", "--space", "smoke", "--profile", "cpu", "--name", "s", "--trials", "60", "--scheduler", "none",
        "--epochs", "40",
    ]  # fmt: skip
    study = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(lambda: len(epochs(folder)) >= 3, study)
        config = tmp_path / "mine.yaml"
        config.write_text("lr: 0.0042\n")
        assert main([str(folder), "add", str(config), "--patience", "60"]) == 0
        running = epochs(folder)[-1]
        assert main([str(folder), "prune", running, "--patience", "60"]) == 0  # its slot is the added config's
        wait_until(lambda: is_started(folder, added(folder)), study)
        assert main([str(folder), "stop", "--patience", "60"]) == 0
        said, _ = study.communicate(timeout=PATIENCE_S)
    finally:
        study.kill()
    assert study.returncode == 0, said
    with (folder / "results" / "leaderboard.csv").open() as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert rows[running]["state"] == "pruned"
    assert int(rows[running]["epochs"]) < 40
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
    for record in read_journal(folder / "journal.jsonl"):
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
