"""The journal as numbered segments that never change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from results.records import JournalError
from search.storage import segments as module
from search.storage.segments import Segments, read_segments
from search.storage.store import Store

Opened = Callable[[], Store]


def test_lines_come_back_in_order(opened: Opened) -> None:
    written = Segments(opened(), 1, b"")
    for number in range(12):
        written.append(b"%d\n" % number)
    assert read_segments(opened()) == b"".join(b"%d\n" % number for number in range(12))


def test_nothing_is_an_empty_journal(opened: Opened) -> None:
    assert read_segments(opened()) == b""


def test_what_an_old_driver_writes_after_the_next_began_does_not_count(opened: Opened) -> None:
    old = Segments(opened(), 1, b"")
    old.append(b"a\n")
    new = Segments(opened(), 2, read_segments(opened()))
    old.append(b"stale\n")
    new.append(b"b\n")
    old.append(b"stale too\n")
    assert read_segments(opened()) == b"a\nb\n"
    third = Segments(opened(), 3, read_segments(opened()))
    third.append(b"c\n")
    assert read_segments(opened()) == b"a\nb\nc\n"


def test_a_long_journal_is_read_in_few_pieces(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 5)
    written = Segments(opened(), 1, b"first\n")
    for number in range(13):
        written.append(b"%d\n" % number)
    store, read = opened(), []
    get = store.get
    monkeypatch.setattr(store, "get", lambda name: (read.append(name), get(name))[1])
    assert read_segments(store) == b"first\n" + b"".join(b"%d\n" % number for number in range(13))
    assert len(read) == 4, "the snapshot after ten, and three more"


def test_a_segment_that_is_missing_is_told_and_not_skipped(opened: Opened) -> None:
    written = Segments(opened(), 3, b"")
    for number in range(4):
        written.append(b"%d\n" % number)
    opened().delete("journal/00000003-00000002.jsonl")
    with pytest.raises(JournalError, match="segment 2 of generation 3 of its journal is missing"):
        read_segments(opened())
