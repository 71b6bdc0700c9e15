"""A leg on a real, tiny dataset: what it reports and leaves, and what a full disk does to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detector.config import DetectorConfig
from detector.data.dataset import DataSource
from detector.data.lidar import make_dataset
from search.leg import BEST, CHECKPOINT, DETECTIONS, ERROR, LegRunner

CONFIG = DetectorConfig(
    image_size_px=(128, 512), trunk_width=0.25, neck_levels=(3, 4), neck_channels=16, head_depth=0, batch_size=2,
    steps_per_epoch=2, schedule_epochs=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("street") / "data"
    make_dataset(folder, {"train": 4, "val": 2}, seed=3, degrees=180, processes=1)
    return DataSource.from_folder(folder).to_dict()


@pytest.fixture
def study(tmp_path: Path, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return {
        "folder": str(tmp_path), "source": source, "skip_bad": False, "metric": "mAP", "official_eval": False, "threads": 1,
        "device": "cpu",
    }  # fmt: skip


def leg(to_epoch: int) -> dict[str, Any]:
    return {"trial": "t1", "number": 1, "config": CONFIG.to_dict(), "seed": 0, "to_epoch": to_epoch}


def test_a_leg_reports_each_epoch_and_leaves_what_the_next_goes_on_from(study: dict[str, Any]) -> None:
    runner = LegRunner(leg(2), study)
    reports = [runner.step(), runner.step()]
    assert [[row["epoch"] for row in report["epochs"]] for report in reports] == [[1], [2]]
    assert [report["outcome"] for report in reports] == ["", "reached"]
    folder = Path(study["folder"]) / "trials" / "t1"
    assert all((folder / name).is_file() for name in (CHECKPOINT, BEST, DETECTIONS))
    onward = LegRunner(leg(3), study).step()
    assert [(row["epoch"], row.get("absorbed", False)) for row in onward["epochs"]] == [
        (1, True),
        (2, True),
        (3, False),
    ]


@pytest.mark.parametrize("file", [f"{DETECTIONS}.unfinished", "checkpoint.unfinished"])
def test_a_full_disk_interrupts_the_leg_and_the_same_leg_goes_on_with_room(study: dict[str, Any], file: str) -> None:
    folder = Path(study["folder"]) / "trials" / "t1"
    folder.mkdir(parents=True)
    (folder / file).symlink_to("/dev/full")
    report = LegRunner(leg(1), study).step()
    assert (report["outcome"], report["disk_full"]) == ("interrupted", True)
    assert not (folder / ERROR).exists()
    (folder / file).unlink()
    assert LegRunner(leg(1), study).step()["outcome"] == "reached"


def test_an_error_of_the_code_is_told_with_its_traceback_in_the_trials_folder(study: dict[str, Any]) -> None:
    wrong = {**leg(1), "config": {**CONFIG.to_dict(), "image_size_px": "wide"}}
    report = LegRunner(wrong, study).step()
    assert report["outcome"] == "error"
    assert report["reason"].startswith("ConfigError: DetectorConfig.image_size_px must be")
    assert "Traceback" in (Path(study["folder"]) / "trials" / "t1" / ERROR).read_text()
    json.dumps(report)
