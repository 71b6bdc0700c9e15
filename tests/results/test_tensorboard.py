"""Event files written from a journal, and read back into the tables that the journal gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from results.event_tables import EventTables
from results.events import StudyEvents
from results.state import read_study
from results.tables import configurations, leaderboard
from results.tensorboard import main, write_events
from tests.results.conftest import TRIALS


def differences(folder: Path) -> list[str]:
    _, state = read_study(folder)
    return EventTables(folder).differences(leaderboard(state), configurations(state))


@pytest.mark.parametrize("which", ["study", "finals", "chain"])
def test_tables_read_back_are_those_of_the_journal(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    write_events(folder)
    assert differences(folder) == []
    _, state = read_study(folder)
    tables = EventTables(folder)
    assert {row["trial"] for row in tables.trials} == set(state.trials)
    compared = set(tables.trials[0]) & set(leaderboard(state)[0])
    assert {"config", "role", "state", "rung", "epochs", "best_epoch", "mAP", "AP50", "AP_large", "seconds"} <= compared


def test_configurations_rank_by_their_fresh_seeds(finals: Path) -> None:
    write_events(finals)
    rows = {row["config"]: row for row in EventTables(finals).configurations()}
    _, state = read_study(finals)
    best = rows[state.trials["best0002"].config_hash]
    assert best["n"] == 3
    assert best["mAP_mean"] == pytest.approx((0.39 + 0.40 + 0.41) / 3)


def test_a_point_that_is_not_the_journals_is_told(study: Path) -> None:
    write_events(study)
    record = read_study(study)[1].trials["low00003"].epochs[1]
    wrong = StudyEvents(study, ".other")
    wrong.add_epoch({**record, "epoch": 2})
    wrong.close()
    assert "trial low00003: epochs is 2 in the event files, 1 in the journal" in differences(study)


def test_a_changed_field_a_changed_score_and_a_missing_trial_are_told(study: Path) -> None:
    write_events(study)
    lines = (study / "journal.jsonl").read_text().splitlines()
    changed = []
    for line in lines:
        record = json.loads(line)
        if record["event"] == "trial_created" and record["trial"] == "low00003":
            record["config"]["lr"] = 0.001
        if record["event"] == "epoch" and record["trial"] == "base0001" and record["epoch"] == 3:
            record["metrics"]["mAP"] += 0.001
        changed.append(json.dumps(record) + "\n")
    (study / "journal.jsonl").write_text("".join(changed))
    for path in (study / "trials" / "div00004").iterdir():
        path.unlink()
    told = "\n".join(differences(study))
    assert "trial low00003: lr is 0.0005" in told
    assert "trial base0001: mAP is 0.3" in told
    assert "trial div00004 is not in the event files" in told


def test_the_command_prints_both_tables_and_whether_they_agree(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study)]) == 0
    assert "event files written" in capsys.readouterr().err
    assert main([str(study), "--summary", "--as", "md"]) == 0
    out, err = capsys.readouterr()
    assert out.count("| best0002 |") == 1
    assert f"{len(TRIALS)} trials; the event files agree with the journal" in err
    for path in (study / "trials" / "best0002").iterdir():
        path.unlink()
    assert main([str(study), "--summary"]) == 1
    assert "differ from the journal" in capsys.readouterr().err


def test_a_users_mistake_is_one_message_and_exit_2(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study), "--summary"]) == 2
    assert "must hold TensorBoard event files" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing")]) == 2
    assert "error:" in capsys.readouterr().err
