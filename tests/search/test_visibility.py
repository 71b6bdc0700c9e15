"""What a node is asked before the first trial, answered on this machine: each problem names its path."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from search.leg import check_node
from search.storage.store import UnfitNodeError
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


def test_a_node_that_came_later_is_asked_too(folder: Path, tmp_path: Path) -> None:
    study = {"folder": str(folder), "cluster": True, "source": {"train": [str(folder)] * 2, "val": [str(folder)] * 2}}
    check_node(study, {})
    check_node({**study, "folder": str(tmp_path / "gone"), "cluster": False}, {})
    for lacking in (
        {"folder": str(tmp_path / "gone")},
        {"source": {"train": [str(folder), str(tmp_path / "gone")], "val": [str(folder)] * 2}},
    ):
        with pytest.raises(UnfitNodeError, match=f"node .* does not see {tmp_path / 'gone'}"):
            check_node({**study, **lacking}, {})
    with pytest.raises(UnfitNodeError, match=f"does not see {tmp_path}/weights.pt"):
        check_node(study, {"pretrained": f"{tmp_path}/weights.pt#sha256=00"})
    linked = {
        "source": {"train": ["/gone"] * 2, "val": ["/gone"] * 2, "link": "s3://bucket/data"},
        "storage": "s3://bucket/s",
    }
    check_node({**study, **linked, "folder": "/gone"}, {})
