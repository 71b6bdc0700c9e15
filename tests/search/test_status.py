"""How a study stands, told from its folder alone, while it runs and afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from results.state import read_study
from search.journal import Journal
from search.plan import write_plan
from search.status import main, status
from tests.search.builders import planned, train_all, write_dataset


@pytest.fixture
def under_way(tmp_path: Path) -> Path:
    """A search in its sixth leg."""
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=12)
    write_plan(study)
    train_all(study, legs=5)
    return study.folder


def test_a_running_study(under_way: Path) -> None:
    told = status(under_way, now=read_study(under_way)[1].records[-1]["time"] + 7)
    assert told["ended"] == ""
    assert told["seconds_since_last_word"] == pytest.approx(7, abs=0.1)
    assert told["states"]["running"] == 1
    assert sum(told["states"].values()) == told["trials"] == len(told["rows"])
    assert told["rows"][0]["state"] == "running", "what runs comes first"
    assert told["rows"][0]["to_epoch"] is not None
    assert set(told["states"]) <= {"running", "paused", "finished"}, "nothing is called pruned before the end"
    assert told["eta_seconds"] > 0
    best = read_study(under_way)[1].best_trial()
    assert best is not None
    assert told["best"]["trial"] == best.id
    assert told["best"]["mAP"] == pytest.approx(best.ranked_score("mAP"))


def test_an_ended_study(searched: Path) -> None:
    journal = Journal(searched / "journal.jsonl")
    journal.append("study_ended", reason="done")
    journal.close()
    told = status(searched)
    assert told["ended"] == "done"
    assert told["eta_seconds"] is None
    assert set(told["states"]) == {"finished", "pruned"}


def test_failures_are_told_with_their_reasons(under_way: Path) -> None:
    running = status(under_way)["rows"][0]["trial"]
    journal = Journal(under_way / "journal.jsonl")
    journal.append("leg_ended", trial=running, outcome="diverged", reason="loss became nan at step 7")
    journal.close()
    assert status(under_way)["failures"] == [
        {"trial": running, "state": "diverged", "reason": "loss became nan at step 7"}
    ]


@pytest.mark.filterwarnings("error")
def test_a_line_that_is_being_written_is_not_there_yet(under_way: Path) -> None:
    before = status(under_way)
    with (under_way / "journal.jsonl").open("a") as file:
        file.write('{"event": "epoch", "tri')
    assert status(under_way)["rows"] == before["rows"]


def test_the_command(under_way: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main([str(under_way), "--json"])
    assert json.loads(capsys.readouterr().out)["trials"] == status(under_way)["trials"]
    main([str(under_way)])
    said = capsys.readouterr().out
    assert "minutes to go" in said
    assert "running to" in said
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2
    assert "must be a study folder" in capsys.readouterr().err


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=3)
    write_plan(study)
    Journal(study.folder / "journal.jsonl").close()
    told = status(study.folder)
    assert (told["trials"], told["best"], told["eta_seconds"], told["seconds_since_last_word"]) == (0, None, None, None)
