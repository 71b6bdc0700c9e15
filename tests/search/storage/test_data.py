"""A node's copy of a dataset in an object store: fetched once, fetched anew where it changed, checked by fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from detector.data.dataset import DataError
from search.plan import write_plan
from search.storage.data import check_fingerprint, fetch_data, fetched_source, source_here
from search.storage.store import UnfitNodeError, open_store
from search.street import make_street
from spaces.space import StreetData
from tests.s3_server import S3Server
from tests.search.builders import planned, write_dataset


@pytest.fixture
def data_link(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_dataset(tmp_path / "boards")
    for path in folder.rglob("*"):
        if path.is_file():
            open_store(f"{link}/boards").put(path.relative_to(folder).as_posix(), path.read_bytes())
    return f"{link}/boards"


def test_it_is_fetched_once(data_link: str, tmp_path: Path, s3: S3Server) -> None:
    folder = fetch_data(data_link)
    original = tmp_path / "boards"
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        p.relative_to(original): p.read_bytes() for p in original.rglob("*") if p.is_file()
    }
    before = s3.requests_seen()
    assert fetch_data(data_link) == folder
    assert s3.requests_seen() - before <= 3, "it is listed, and not fetched again"


def test_what_changed_is_fetched_anew(data_link: str) -> None:
    before = fetch_data(data_link)
    train = json.loads((before / "train.json").read_bytes())
    open_store(data_link).put("train.json", json.dumps(train, indent=1).encode())
    after = fetch_data(data_link)
    assert after != before
    assert (after / "train.json").read_bytes() != (before / "train.json").read_bytes()


def test_a_plan_names_the_link_and_another_machine_finds_its_own_copy(
    data_link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned(tmp_path, Path("/"), data=data_link)
    write_plan(study)
    assert study.plan["source"]["link"] == data_link
    assert study.plan["dataset"]["name"] == "boards"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    here = source_here(study.plan["source"])
    assert Path(here["train"][0]).is_relative_to(tmp_path / "other machine")
    assert Path(here["train"][0]).is_file()


def test_a_link_has_its_own_extended_images(data_link: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--extended-annotations goes with a folder"):
        planned(tmp_path, Path("/"), data=data_link, extended_annotations="more.json")


def test_the_street_is_made_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    street = make_street(StreetData(2, 1, 1, 90), print).to_dict()
    assert source_here(street) is street
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    shutil.rmtree(tmp_path / "one")
    there = source_here(street)
    assert Path(there["train"][0]).is_relative_to(tmp_path / "two")
    assert {key: there[key] for key in ("name", "link")} == {key: street[key] for key in ("name", "link")}


def test_a_folder_stays_where_it_is(tmp_path: Path) -> None:
    source = {"name": "x", "train": ["a", "b"], "val": ["c", "d"]}
    assert source_here(source) is source


def test_what_is_no_dataset(link: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"must hold train\.json, val\.json and images/; missing: train\.json, val\.json"
    ):
        fetched_source(f"{link}/nothing")


def test_another_fingerprint_is_refused_with_the_node() -> None:
    check_fingerprint("aaaabbbb", "aaaabbbbcccc", "boards")
    check_fingerprint("aaaabbbb", None, "boards")
    with pytest.raises(
        UnfitNodeError, match="node .*: boards has fingerprint ddddbbbb here, the study was planned on aaaabbbb"
    ):
        check_fingerprint("ddddbbbb", "aaaabbbb", "boards")
