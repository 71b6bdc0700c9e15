"""Fixtures of the search's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from search.plan import write_plan
from tests.search.builders import planned, train_all, write_dataset


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Journals by the thousand: what they hold is under test here, not the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.journal.os.fsync", lambda file: None)
        yield


@pytest.fixture
def two_cores_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two cores without a GPU, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("search.resources.count_gpus", lambda: (0, ""))
    monkeypatch.setattr("search.resources.os.sched_getaffinity", lambda pid: {0, 1})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small COCO-format folder."""
    return write_dataset(tmp_path / "data")


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A search of the smoke space that has trained its trials, its scores being known."""
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=12)
    write_plan(study)
    train_all(study)
    return study.folder
