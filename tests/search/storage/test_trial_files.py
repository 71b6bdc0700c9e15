"""A trial's files where it trains: fenced against a leg that was taken for lost, and kept in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.store import Store
from search.storage.trial_files import SupersededError, TrialFiles, leg_name

Opened = Callable[[], Store]


def files(place: str, trial: str = "ab") -> TrialFiles:
    where = {"storage": place} if "://" in place else {"folder": place}
    made = TrialFiles({"folder": "/nowhere", **where}, trial)
    made.begin()
    return made


def test_a_later_leg_fences_an_earlier_one_off(place: str, opened: Opened) -> None:
    mine = files(place)
    mine.check_mine((1, 3))  # nobody has said anything
    opened().put(leg_name("ab"), b"1 3")
    mine.check_mine((1, 3))
    for later in (b"1 4", b"2 3", b"2 1"):
        opened().put(leg_name("ab"), later)
        with pytest.raises(SupersededError, match="a later leg of trial ab has begun elsewhere"):
            mine.check_mine((1, 3))
    mine.end()


def test_what_is_kept_is_brought_to_the_next_node(place: str) -> None:
    one = files(place)
    (one.folder / "checkpoint.pt").write_bytes(b"epoch 3")
    one.keep("checkpoint.pt", "not there")
    one.end()
    two = files(place)
    assert (two.bring("checkpoint.pt") / "checkpoint.pt").read_bytes() == b"epoch 3"
    other = files(place, "cd")
    assert (other.bring("checkpoint.pt", of="trials/ab") / "checkpoint.pt").read_bytes() == b"epoch 3"
    two.end()
    other.end()


def test_two_studies_of_one_name_do_not_meet_on_a_node(link: str) -> None:
    one, other = files(f"{link}/one/s"), files(f"{link}/other/s")
    (one.folder / "log.txt").write_text("one")
    assert not (other.folder / "log.txt").exists()
    other.end()
    assert (one.folder / "log.txt").exists()
    one.end()
    assert not one.study.exists(), "nothing is left on the node"


def test_a_folder_is_worked_in_and_stays(tmp_path: Path) -> None:
    there = files(str(tmp_path))
    assert there.folder == tmp_path / "trials" / "ab"
    there.end()
    assert there.folder.is_dir()
