"""Fingerprints of files that have not changed come without reading them; a change is never missed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from detector.data.dataset import DataError
from detector.data.fingerprint import split_fingerprint
from detector.data.places import cache_home
from tests.detector.data.conftest import CocoFolder


@pytest.fixture
def settled(folder: CocoFolder) -> CocoFolder:
    """The folder, its images as old as a minute; what the file system itself notes can only be waited for."""
    for path in folder.images.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    time.sleep(2.1)
    return folder


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    real = Path.read_bytes

    def counted(path: Path) -> bytes:
        if path.suffix == ".png":
            read.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return read


def test_unchanged_files_are_read_once_and_a_changed_one_again(settled: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    read = count_reads(monkeypatch)
    first = split_fingerprint(settled.load().train)
    assert sorted(read) == ["a.png", "b.png", "c.png"]
    read.clear()
    assert split_fingerprint(settled.load().train) == first
    assert read == []

    content = (settled.images / "b.png").stat()
    settled.paint("b.png", seed=77)
    os.utime(settled.images / "b.png", ns=(content.st_atime_ns, content.st_mtime_ns))  # as a careful copy would
    assert split_fingerprint(settled.load().train) != first
    assert read == ["b.png"]


def test_a_file_just_written_is_not_trusted(folder: CocoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.data.fingerprint.SETTLED_S", 3600.0)
    read = count_reads(monkeypatch)
    first = split_fingerprint(folder.load().train)
    assert split_fingerprint(folder.load().train) == first
    assert sorted(read) == ["a.png", "a.png", "b.png", "b.png", "c.png", "c.png"]


def test_what_was_known_may_be_lost_or_damaged(settled: CocoFolder) -> None:
    first = split_fingerprint(settled.load().train)
    [memo] = (cache_home() / "digests").iterdir()
    for content in ("", "[1]", '{"x": '):
        memo.write_text(content)
        assert split_fingerprint(settled.load().train) == first


def test_a_file_that_cannot_be_read_is_named(folder: CocoFolder) -> None:
    split = folder.load().train
    (folder.images / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: must be a readable file"):
        split_fingerprint(split)
