"""The journal's writer: what was appended is what is read, whatever a killed writer left behind."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.records import JournalError, read_journal
from search.journal import Journal, write_atomically

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_what_is_appended_is_what_is_returned_and_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "study" / "journal.jsonl")
    written = [
        journal.append("epoch", trial="ab", epoch=1, text="zwölf\n"),
        journal.append("study_ended", reason="done"),
    ]
    assert read_journal(journal.path) == written
    assert [record["event"] for record in written] == ["epoch", "study_ended"]
    assert all(isinstance(record["time"], float) for record in written)
    journal.close()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(PLAIN, max_size=5))
@pytest.mark.usefixtures("no_fsync")
def test_any_plain_values_survive(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    journal = Journal(tmp_path_factory.mktemp("j") / "journal.jsonl")
    for value in values:
        journal.append("note", value=value)
    journal.close()
    assert [record["value"] for record in read_journal(journal.path)] == values


def test_nan_and_infinities_are_written_as_null_at_any_depth(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record = journal.append(
        "epoch", loss=math.nan, metrics={"mAP": math.inf, "list": [1.0, -math.inf], "pair": (math.nan, 2)}
    )
    journal.close()
    assert (record["loss"], record["metrics"]) == (None, {"mAP": None, "list": [1.0, None], "pair": [None, 2]})
    assert "NaN" not in journal.path.read_text()
    assert "Infinity" not in journal.path.read_text()


def test_a_line_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    synced: list[bytes] = []
    monkeypatch.setattr("search.journal.os.fsync", lambda file: synced.append(journal.path.read_bytes()))
    journal.append("one")
    assert len(synced) == 1
    assert json.loads(synced[0])["event"] == "one"
    journal.close()


def test_a_second_driver_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="another search is running"):
        Journal(tmp_path / "journal.jsonl")
    first.append("still", works=True)
    first.close()
    second = Journal(tmp_path / "journal.jsonl")
    second.append("after")
    second.close()
    assert [record["event"] for record in read_journal(first.path)] == ["still", "after"]


def test_a_refused_driver_leaves_a_half_written_line_alone(tmp_path: Path) -> None:
    """The first driver may be in the middle of that very line."""
    first = Journal(tmp_path / "journal.jsonl")
    with first.path.open("ab") as other:
        other.write(b'{"event": "ha')
    with pytest.raises(JournalError):
        Journal(first.path)
    assert first.path.read_bytes() == b'{"event": "ha'
    first.close()


@pytest.mark.parametrize("torn", [b"{", b'{"event": "epoch", "tri', b'{"event": "epoch"}', b"\xc3"])
def test_the_next_writer_cuts_a_half_written_last_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("whole")
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with pytest.warns(UserWarning, match="half-written"):
        assert [record["event"] for record in read_journal(path)] == ["whole"]
    with pytest.warns(UserWarning, match="half-written and is cut"):
        journal = Journal(path)
    assert path.read_bytes() == whole
    journal.append("next")
    journal.close()
    assert [record["event"] for record in read_journal(path)] == ["whole", "next"]


def test_a_file_of_one_half_written_line_is_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "session_st')
    with pytest.warns(UserWarning, match="half-written and is cut"):
        journal = Journal(path)
    assert os.path.getsize(path) == 0
    journal.close()


def test_a_full_disk_is_remembered_for_who_cannot_see_it_raised(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("one")
    journal.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        journal._file = full
        with pytest.raises(OSError, match="No space left"):
            journal.append("two")
    assert journal.failure is not None
    assert journal.failure.errno == errno.ENOSPC
    assert [record["event"] for record in read_journal(tmp_path / "journal.jsonl")] == ["one"]


def test_after_a_full_disk_the_journal_closes_quietly_and_holds_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append("first")

    class Full:
        """Takes seven bytes, then no more."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 7

        def write(self, content: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(content[: self.room])
            self.room -= written
            return int(written)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    journal._file = Full(journal._file)  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        journal.append("second")
    journal.close()
    assert [record["event"] for record in read_journal(tmp_path / "j.jsonl")] == ["first"]


def test_a_small_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_atomically(tmp_path / "plan.json", b"old")
    (tmp_path / "plan.json.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "plan.json", b"new")
    assert (tmp_path / "plan.json").read_bytes() == b"old"


class TestGenerations:
    """What one driver writes after another has taken over does not count."""

    def test_an_older_drivers_late_lines_are_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        lines = [(1, "a"), (1, "b"), (2, "taken"), (1, "late"), (2, "c"), (1, "later")]
        path.write_text("".join(json.dumps({"event": event, "generation": number}) + "\n" for number, event in lines))
        assert [record["event"] for record in read_journal(path)] == ["a", "b", "taken", "c"]

    def test_lines_of_before_there_were_generations_count(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.jsonl"
        path.write_text('{"event": "old"}\n{"event": "new", "generation": 1}\n{"event": "noted"}\n')
        assert [record["event"] for record in read_journal(path)] == ["old", "new", "noted"]

    def test_each_driver_marks_where_it_begins(self, tmp_path: Path) -> None:
        for number in (1, 2):
            journal = Journal.hold(tmp_path / "journal.jsonl")
            assert journal.append("note")["generation"] == number
            journal.close()
        records = read_journal(tmp_path / "journal.jsonl")
        assert [r["event"] for r in records] == ["lease_taken", "note"] * 2

    def test_claims_that_were_lost_do_not_hide_what_comes(self, tmp_path: Path) -> None:
        for _ in range(2):
            Journal.hold(tmp_path / "journal.jsonl").close()
        shutil.rmtree(tmp_path / "lease")
        journal = Journal.hold(tmp_path / "journal.jsonl")
        journal.append("note")
        journal.close()
        assert read_journal(tmp_path / "journal.jsonl")[-1]["event"] == "note"


def test_a_group_is_written_at_its_end_and_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with journal.group():
        journal.append("one")
        assert read_journal(journal.path) == []
        journal.append("two")
    assert [record["event"] for record in read_journal(journal.path)] == ["one", "two"]
    with suppress(RuntimeError), journal.group():
        journal.append("three")
        raise RuntimeError
    assert read_journal(journal.path)[-1]["event"] == "three", "the state has it already"
    journal.close()


def test_after_a_write_that_failed_nothing_more_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("one")
    own = journal._file
    with Path("/dev/full").open("ab", buffering=0) as full:
        journal._file = full
        with pytest.raises(OSError, match="No space left"):
            journal.append("two")
    journal._file = own
    with pytest.raises(OSError, match="No space left"):
        journal.append("three")
    assert [record["event"] for record in read_journal(journal.path)] == ["one"]
    journal.close()
