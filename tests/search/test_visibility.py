"""What a node is asked before the first trial, answered on this machine: each problem names its path."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from search.leg import check_shared
from search.visibility import look_around


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.json").write_text("{}")
    return tmp_path


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "study.json").read_bytes()).hexdigest()


def test_a_node_that_sees_everything_leaves_its_mark(folder: Path) -> None:
    host, problem, mark = look_around(str(folder), digest(folder), [str(folder)], ".seen")
    assert host
    assert problem == ""
    assert (folder / mark).is_file()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    _, problem, _ = look_around(str(tmp_path / "gone"), "", [], ".seen")
    assert problem.startswith(f"does not see {tmp_path / 'gone' / 'study.json'} (there is no such file)")
    assert "mounts at the same path" in problem


def test_another_study_at_the_same_path(folder: Path) -> None:
    _, problem, mark = look_around(str(folder), "0" * 64, [], ".seen")
    assert "is another study than here" in problem
    assert not (folder / mark).exists()


def test_data_that_is_not_there(folder: Path) -> None:
    _, problem, mark = look_around(str(folder), digest(folder), [str(folder), str(folder / "train.json")], ".seen")
    assert problem.startswith(f"does not see {folder / 'train.json'}")
    assert not (folder / mark).exists(), "nothing is left behind"


def test_a_node_that_came_later_does_not_train_into_a_folder_of_its_own(folder: Path, tmp_path: Path) -> None:
    check_shared(folder, on_a_cluster=True)
    check_shared(tmp_path / "gone", on_a_cluster=False)
    with pytest.raises(FileNotFoundError, match=r"node .* does not see .*study\.json"):
        check_shared(tmp_path / "gone", on_a_cluster=True)
