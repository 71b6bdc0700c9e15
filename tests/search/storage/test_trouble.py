"""What an error says of a study's place, and the line that a user reads while the study waits."""

from __future__ import annotations

import errno

import pytest

from detector.data.dataset import NoRoomError
from search.storage.store import StorageError, UnfitNodeError
from search.storage.trouble import paused_line, storage_trouble


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk of runs/a is full: the study is paused. Make room, then: GO"),
        (OSError(errno.EDQUOT, "x"), "the disk of runs/a is full: the study is paused. Make room, then: GO"),
        (OSError(errno.EROFS, "x"), "runs/a is read-only: the study is paused. Make it writable, then: GO"),
        (OSError(errno.EACCES, "x"), "runs/a cannot be written to: the study is paused. Make it writable, then: GO"),
        (OSError(errno.ESTALE, "x"), "runs/a does not answer: the study is paused. Bring it back, then: GO"),
        (StorageError("x"), "runs/a does not answer: the study is paused. Bring it back, then: GO"),
        (UnfitNodeError("x"), "runs/a cannot be used on every node: the study is paused. Mend that, then: GO"),
        (
            NoRoomError(errno.ENOSPC, "x"),
            "runs/a finds no room for its images on a node: the study is paused. Make room there, or add --cache encoded or off, "
            "then: GO",
        ),
    ],
)  # fmt: skip
def test_each_trouble_has_its_words_and_its_remedy(error: OSError, line: str) -> None:
    assert paused_line("runs/a", storage_trouble(error), "GO") == line


def test_a_store_has_no_disk_to_name() -> None:
    assert paused_line("s3://b/a", "is full", "GO").startswith("s3://b/a is full: ")


@pytest.mark.parametrize("error", [None, ValueError("x"), OSError(errno.ENOENT, "x"), OSError("x")])
def test_other_errors_say_nothing_of_the_place(error: Exception | None) -> None:
    assert storage_trouble(error) == ""
