"""Reading a study folder: bad lines are told by their number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.records import JournalError, read_journal, read_plan


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


class TestReadJournal:
    def test_reads_records_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "j").write_bytes(lines({"event": "a"}, {"event": "b", "x": [1]}))
        assert read_journal(tmp_path / "j") == [{"event": "a"}, {"event": "b", "x": [1]}]

    def test_an_empty_journal_has_no_records(self, tmp_path: Path) -> None:
        (tmp_path / "j").write_bytes(b"")
        assert read_journal(tmp_path / "j") == []

    def test_a_half_written_last_line_is_left_out_with_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "j").write_bytes(lines({"event": "a"}) + b'{"event": "b", "sc')
        with pytest.warns(UserWarning, match=r"half-written.*event"):
            assert read_journal(tmp_path / "j") == [{"event": "a"}]

    @pytest.mark.parametrize("bad", [b"{oops}", b"", b"[1, 2]", b'{"no": "event"}', b"\xff\xfe", b"\x00\x00"])
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_bad_line_is_an_error_that_names_its_number(self, tmp_path: Path, bad: bytes, number: int) -> None:
        good = [json.dumps({"event": "a"}).encode()] * 2
        (tmp_path / "j").write_bytes(b"\n".join([*good[: number - 1], bad, *good[number - 1 :]]) + b"\n")
        with pytest.raises(JournalError, match=f"line {number}:"):
            read_journal(tmp_path / "j")


class TestReadPlan:
    def test_a_folder_without_a_plan_is_no_study(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match="must be a study folder"):
            read_plan(tmp_path)

    def test_a_torn_plan_is_said_so(self, tmp_path: Path) -> None:
        (tmp_path / "study.json").write_text("{")
        with pytest.raises(JournalError, match=r"study\.json"):
            read_plan(tmp_path)
