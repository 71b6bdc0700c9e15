"""A study of the version before (records of format 1, kept in tests/fixtures): read, reported, predicted from and gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.config import DetectorConfig
from detector.data.lidar import make_dataset
from detector.train import read_config
from results.records import read_journal, read_plan
from results.report import write_results
from results.state import read_study
from tests.running import STUDY_TIMEOUT, Command, journal

OLD = Path(__file__).parents[1] / "fixtures" / "study_of_format_1"
PAUSED = "5378efda"  # at the rung of 2 of 4, with its checkpoint


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """The data that it was run on, made again."""
    make_dataset(tmp_path / "street", {"train": 8, "val": 4}, seed=3, processes=1)
    return tmp_path / "street"


@pytest.fixture
def study(tmp_path: Path, street: Path) -> Path:
    """A copy of the study where its data lies here."""
    folder = tmp_path / "runs" / "old"
    shutil.copytree(OLD, folder)
    for name in ("study.json", "journal.jsonl"):
        (folder / name).write_text((folder / name).read_text().replace("DATA", str(street)))
    return folder


def test_its_fields_have_todays_names_and_its_configs_todays_hashes() -> None:
    plan, state = read_study(OLD)
    assert DetectorConfig.from_dict(plan["space"]["base"]).pretrained == "none"
    raw = [json.loads(line) for line in (OLD / "journal.jsonl").read_text().splitlines()]
    assert {len(r["config_hash"]) for r in raw if r["event"] == "trial_created"} == {10}, "the fixture is of format 1"
    assert read_plan(OLD)["format"] == 1
    base = DetectorConfig.from_dict(plan["space"]["base"])
    for trial in state.trials.values():
        assert trial.config_hash == base.with_values(trial.config).hash()
        assert len(trial.config_hash) == 12
        assert len(trial.id) == 8, "ids stay: folders are named by them"


def test_reading_twice_upgrades_once(tmp_path: Path) -> None:
    records = read_journal(OLD / "journal.jsonl")
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_journal(tmp_path / "journal.jsonl") == records


def test_its_results_are_what_they_were(study: Path) -> None:
    found = write_results(study)
    assert [row["trial"] for row in found.configs][:3] == ["ce9dc1a6", "5378efda", "e8da5e0f"]
    assert found.summary["finished"] == 1
    assert found.verdict is not None
    assert found.verdict.decision == "not established", "its base was pruned like any trial"


def test_its_best_yaml_and_config_files_are_read() -> None:
    best = read_config(OLD / "best.yaml")
    assert best.hash() == read_config(OLD / "trials" / "ce9dc1a6" / "config.json").hash()
    assert (best.box_loss, best.pretrained) == ("giou", "none")


def test_its_checkpoints_predict() -> None:
    import numpy as np

    from detector.predictor import Predictor

    predictor = Predictor(OLD / "trials" / "ce9dc1a6" / "best.pt", "cpu")
    assert predictor.config.ema_decay == 0.9
    predictor(np.zeros((128, 1024, 3), dtype=np.uint8))


def test_it_goes_on_from_its_checkpoints(study: Path, start: Callable[..., Command]) -> None:
    """More trials bring more promotions: a trial that waited at a rung goes on from what format 1 wrote."""
    before = journal(study)
    command = start("--resume", "--name", "old", "--runs-dir", str(study.parent), "--trials", "14")
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    records = journal(study)
    assert records[: len(before)] == before
    new = records[len(before) :]
    legs = [r for r in new if r["event"] == "leg_started" and r["trial"] == PAUSED]
    assert [(leg["from_epoch"], leg["to_epoch"]) for leg in legs] == [(2, 4)]
    assert [r["epoch"] for r in new if r["event"] == "epoch" and r["trial"] == PAUSED] == [3, 4]
    log = (study / "trials" / PAUSED / "log.txt").read_text()
    assert "epochs 2 -> 4" in log
    hashes = [t.config_hash for t in read_study(study)[1].with_role("search")]
    assert len(set(hashes)) == len(hashes) == 14, "no configuration of before was tried again"
