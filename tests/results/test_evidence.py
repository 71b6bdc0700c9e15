"""Detections against a study's ground truth: matched once, again when the detections are newer, grouped by a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from results import evidence
from results.evidence import groups_of, matches_of, read_ground_truth
from results.records import GROUND_TRUTH_NAME, JournalError
from tests.results.scenes import scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    truth, found = scene(0)
    (tmp_path / GROUND_TRUTH_NAME).write_text(json.dumps(truth))
    (tmp_path / "trials" / "t1").mkdir(parents=True)
    (tmp_path / "trials" / "t1" / "detections.json").write_text(json.dumps(found))
    return tmp_path


def test_matches_are_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = read_ground_truth(folder)
    assert truth is not None
    first = matches_of(folder, truth, "t1")
    assert first is not None
    monkeypatch.setattr(evidence, "match", None)  # to call it again would fail
    again = matches_of(folder, truth, "t1")
    assert again is not None
    assert again.mAP()[0] == first.mAP()[0]


def test_newer_detections_are_matched_again_and_the_older_matches_go(folder: Path) -> None:
    truth = read_ground_truth(folder)
    assert truth is not None
    matches_of(folder, truth, "t1")
    (folder / "trials" / "t1" / "detections.json").write_text("[]")
    newer = matches_of(folder, truth, "t1")
    assert newer is not None
    assert newer.mAP()[0] == 0.0
    assert len(list((folder / "trials" / "t1").glob("matches-*.npz"))) == 1


def test_a_torn_store_is_made_again(folder: Path) -> None:
    truth = read_ground_truth(folder)
    assert truth is not None
    first = matches_of(folder, truth, "t1")
    stored = next((folder / "trials" / "t1").glob("matches-*.npz"))
    stored.write_bytes(stored.read_bytes()[:100])
    again = matches_of(folder, truth, "t1")
    assert first is not None
    assert again is not None
    assert again.mAP()[0] == first.mAP()[0]


def test_without_detections_or_ground_truth_there_is_nothing(folder: Path, tmp_path: Path) -> None:
    truth = read_ground_truth(folder)
    assert truth is not None
    assert matches_of(folder, truth, "t2") is None
    assert read_ground_truth(tmp_path / "trials") is None


def test_groups_are_told_by_a_key_of_the_images() -> None:
    truth = {"images": [{"id": 2, "file_name": "b", "sequence": "s1"}, {"id": 1, "file_name": "a", "sequence": "s0"}]}
    assert groups_of(truth, "sequence") == ["s0", "s1"]
    assert groups_of(truth, None) is None
    with pytest.raises(JournalError, match=r"--group-by drive: every image .* 2 of 2 have not, a for one.*sequence"):
        groups_of(truth, "drive")
