"""search.rerun: a row trained again from its record gives the same digits, and what differs is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detector.config import DetectorConfig
from detector.data.dataset import DataSource
from detector.data.lidar import make_dataset
from search.journal import Journal
from search.leg import LegRunner
from search.rerun import main

CONFIG = DetectorConfig(
    image_size_px=(128, 512), trunk_width=0.25, neck_levels=(3, 4), neck_channels=16, head_depth=0, batch_size=2,
    steps_per_epoch=2, schedule_epochs=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one trial of two epochs, trained for real."""
    place = tmp_path_factory.mktemp("rerun")
    make_dataset(place / "data", {"train": 4, "val": 2}, seed=3, degrees=180, processes=1)
    plan: dict[str, Any] = {
        "metric": "mAP", "levels": [2], "space": {"base": CONFIG.to_dict()}, "official_eval": False, "skip_bad": False,
        "source": DataSource.from_folder(place / "data").to_dict(),
    }  # fmt: skip
    folder = place / "s"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(plan))
    config = CONFIG.with_values({"lr": 2e-3})
    leg = {
        "trial": "aaaa", "number": 1, "config": config.to_dict(), "seed": 4, "to_epoch": 2, "start_from": "",
        "longer_schedule": False, "alone": False, "micro_batch": None, "probe": False,
    }  # fmt: skip
    context = {**plan, "folder": str(folder), "threads": 1, "device": "cpu", "rank_on": "best", "trainer": ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        runner = LegRunner(leg, context)
        reports = [runner.step(), runner.step()]
    journal = Journal(folder / "journal.jsonl")
    journal.append(
        "trial_created", trial="aaaa", role="search", config_hash=config.hash(), config=config.active_dict(),
        varied={"lr": 2e-3}, seed=4, proposal=1,
    )  # fmt: skip
    journal.append("leg_started", trial="aaaa", leg=1, from_epoch=0, to_epoch=2)
    for report in reports:
        for row in report["epochs"]:
            journal.append("epoch", trial="aaaa", **row)
    journal.append("leg_ended", trial="aaaa", outcome="reached")
    journal.close()
    return folder


@pytest.fixture(autouse=True)
def cache(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(study.parent / "cache"))


@pytest.mark.parametrize("name", ["aaaa", "1"])
def test_the_same_digits_by_id_and_by_number(study: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in study.rglob("*"))
    main([str(study), name, "--device", "cpu"])
    assert "2 epochs: the same to the last digit" in capsys.readouterr().out
    assert sorted(path.name for path in study.rglob("*")) == before, "the study is left alone"


def test_what_differs_is_told(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_text((study / "study.json").read_text())
    lines = (study / "journal.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    for record in changed:
        if record["event"] == "epoch" and record["epoch"] == 2:
            record["train_loss"] += 0.5
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
    main([str(tmp_path), "aaaa", "--device", "cpu", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["largest_difference"]["train_loss"] == pytest.approx(0.5)
    assert told["largest_difference"]["mAP"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"), [(["zzz"], "must be the id or number"), (["1", "--epochs", "0"], "at least 1")]
)
def test_mistakes_exit_with_2(study: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(study), *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
