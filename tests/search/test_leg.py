"""A leg on a real, tiny dataset: what it reports and leaves, and what a full disk does to it."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.checkpoint import load_checkpoint
from detector.config import DetectorConfig
from detector.data.dataset import DataSource
from detector.data.lidar import make_dataset
from detector.trainer import Trainer
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
        "device": "cpu", "rank_on": "best", "trainer": "",
    }  # fmt: skip


PLAIN: dict[str, Any] = {
    "start_from": "",
    "longer_schedule": False,
    "alone": False,
    "micro_batch": None,
    "probe": False,
}


def leg(to_epoch: int) -> dict[str, Any]:
    return {"trial": "t1", "number": 1, "config": CONFIG.to_dict(), "seed": 0, "to_epoch": to_epoch, **PLAIN}


def test_a_leg_reports_each_epoch_and_leaves_what_the_next_goes_on_from(study: dict[str, Any]) -> None:
    assert len(b"x" * (3 << 29)) == 3 << 29, "what this process held before the leg is not the leg's"
    runner = LegRunner(leg(2), study)
    reports = [runner.step(), runner.step()]
    assert [[row["epoch"] for row in report["epochs"]] for report in reports] == [[1], [2]]
    assert [report["outcome"] for report in reports] == ["", "reached"]
    peaks = [row["peak_gib"] for report in reports for row in report["epochs"]]
    held = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**30  # resident now
    assert all(0.5 * held < peak < held + 1 for peak in peaks), "of this process, not of its whole past"
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
    assert (report["outcome"], report["storage_trouble"]) == ("interrupted", "is full")
    assert not (folder / ERROR).exists()
    (folder / file).unlink(missing_ok=True)  # half a checkpoint is gone already
    assert LegRunner(leg(1), study).step()["outcome"] == "reached"


def test_a_node_without_room_for_images_interrupts_the_leg_and_names_itself(
    study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("search.leg._OPEN_DATA", {})
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        report = LegRunner(leg(1), study).step()
    assert (report["outcome"], report["storage_trouble"]) == ("interrupted", "finds no room for its images on a node")
    assert report["reason"].startswith(f"node {socket.gethostname()}: ")
    assert str(Path(study["folder"]) / "cache") in report["reason"]
    assert LegRunner(leg(1), study).step()["outcome"] == "reached"


def test_an_error_of_the_code_is_told_with_its_traceback_in_the_trials_folder(study: dict[str, Any]) -> None:
    wrong = {**leg(1), "config": {**CONFIG.to_dict(), "image_size_px": "wide"}}
    report = LegRunner(wrong, study).step()
    assert report["outcome"] == "error"
    assert report["reason"].startswith("ConfigError: DetectorConfig.image_size_px must be")
    assert "Traceback" in (Path(study["folder"]) / "trials" / "t1" / ERROR).read_text()
    json.dumps(report)


def test_a_probe_measures_an_epoch_and_trains_nothing(study: dict[str, Any]) -> None:
    report = LegRunner({**leg(1), "probe": True}, study).step()
    assert (report["outcome"], report["epochs"]) == ("probed", [])
    assert 0 < report["seconds_per_epoch"] < 600
    assert not (Path(study["folder"]) / "trials" / "t1" / CHECKPOINT).exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_what_asks_for_too_much_memory_is_told_apart_from_a_bug(
    study: dict[str, Any], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "step", fail)
    assert LegRunner(leg(1), study).step()["outcome"] == "out_of_memory"


@pytest.mark.parametrize(("memory_gb", "outcome"), [(64.0, "out_of_memory"), (None, "error")])
def test_what_onednn_says_without_memory_means_it_under_a_limit_alone(
    study: dict[str, Any], memory_gb: float | None, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Trainer) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Trainer, "step", fail)
    assert LegRunner(leg(1), {**study, "memory_gb": memory_gb}).step()["outcome"] == outcome


@pytest.mark.parametrize(("memory_gb", "done"), [(None, ["keep", "give back"]), (64.0, ["give back"])])
def test_freed_memory_is_kept_while_a_leg_trains_unless_it_is_limited(
    study: dict[str, Any], memory_gb: float | None, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("search.leg.keep_freed_memory", lambda: seen.append("keep"))
    monkeypatch.setattr("search.leg.give_back_freed_memory", lambda: seen.append("give back"))
    runner = LegRunner(leg(2), {**study, "memory_gb": memory_gb})
    assert runner.step()["outcome"] == ""
    assert "give back" not in seen, "the next epoch takes it again"
    assert runner.step()["outcome"] == "reached"
    assert seen == done


def test_another_trials_checkpoint_is_gone_on_from_and_its_epochs_are_told(study: dict[str, Any]) -> None:
    first = LegRunner(leg(1), study).step()
    audit = LegRunner({**leg(2), "trial": "t2", "start_from": "trials/t1"}, study).step()
    assert [(row["epoch"], row.get("absorbed", False)) for row in audit["epochs"]] == [(1, True), (2, False)]
    assert audit["epochs"][0]["metrics"] == first["epochs"][0]["metrics"]


def test_a_longer_schedule_goes_on_from_before_the_decay(study: dict[str, Any]) -> None:
    """Trained to 3 with a decay in the last epoch, then to 5: as if the schedule had been 5 long from the start."""
    short = {**CONFIG.to_dict(), "schedule": "constant", "schedule_epochs": 3, "final_decay_epochs": 1}
    long = {**short, "schedule_epochs": 5}
    runner = LegRunner({**leg(3), "config": short}, study)
    while not runner.step()["outcome"]:
        pass
    extended = LegRunner(
        {**leg(5), "trial": "t2", "config": long, "start_from": "trials/t1", "longer_schedule": True}, study
    )
    straight = LegRunner({**leg(5), "trial": "t3", "config": long}, study)
    rows: list[list[Any]] = []
    for run in (extended, straight):
        reports = []
        while not reports or not reports[-1]["outcome"]:
            reports.append(run.step())
        rows.append([(row["epoch"], row["train_loss"], row["lr"]) for report in reports for row in report["epochs"]])
    assert rows[0] == rows[1]
    assert "goes on from" in (Path(study["folder"]) / "trials" / "t2" / "log.txt").read_text()


def test_ranked_by_the_last_epoch_the_weights_kept_are_those_of_the_last(study: dict[str, Any]) -> None:
    study["rank_on"] = "last"
    runner = LegRunner(leg(3), study)
    while not runner.step()["outcome"]:
        pass
    kept = load_checkpoint(Path(study["folder"]) / "trials" / "t1" / BEST)
    assert kept is not None
    assert len(kept["history"]) == 3
