"""Named bytes, in a folder and in a real S3 server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.options import StudyError
from search.storage import store as module
from search.storage.store import (
    StorageError,
    Store,
    above,
    below,
    check_link,
    get_files,
    last_name,
    open_store,
    put_files,
)
from tests.s3_server import S3Server

Opened = Callable[[], Store]


def test_what_is_put_is_what_another_reads(opened: Opened) -> None:
    opened().put("trials/ab/checkpoint.pt", b"\x00\x01" * 70_000)
    assert opened().get("trials/ab/checkpoint.pt") == b"\x00\x01" * 70_000
    opened().put("trials/ab/checkpoint.pt", b"new")
    assert opened().get("trials/ab/checkpoint.pt") == b"new"


def test_nothing_of_this_name(opened: Opened) -> None:
    store = opened()
    assert store.get("study.json") is None
    assert store.sizes() == {}
    store.put("a/b.json", b"1")
    assert store.get("a/b.json/c") is None


def test_sizes_by_prefix_and_deletion(opened: Opened) -> None:
    store = opened()
    for name, content in {
        "study.json": b"123",
        "trials/ab/log.txt": b"1",
        "trials/cd/log.txt": b"12",
        "x/y/z": b"",
    }.items():
        store.put(name, content)
    assert store.sizes() == {"study.json": 3, "trials/ab/log.txt": 1, "trials/cd/log.txt": 2, "x/y/z": 0}
    assert store.sizes("trials/") == {"trials/ab/log.txt": 1, "trials/cd/log.txt": 2}
    assert store.sizes("trials/ab/") == {"trials/ab/log.txt": 1}
    store.delete("trials/ab/log.txt")
    store.delete("trials/ab/log.txt")  # it is gone already
    assert "trials/ab/log.txt" not in opened().sizes()


def test_more_names_than_one_answer_lists(link: str) -> None:
    store = open_store(link)
    for number in range(1003):  # S3 lists a thousand at a time
        store.put(f"journal/{number:04d}", b"x")
    assert len(store.sizes("journal/")) == 1003


def test_many_files_there_and_back(opened: Opened, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    names = [f"{n % 3}/{n}.txt" for n in range(40)]
    for name in names:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    put_files(opened(), names, here)
    get_files(opened(), [*names, "gone"], there)
    assert {path.relative_to(there).as_posix(): path.read_text() for path in there.rglob("*.txt")} == {
        n: n for n in names
    }


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="would lead out of"):
        get_files(open_store(tmp_path), [name], tmp_path / "there")


class TestAnUnwillingServer:
    def test_a_while_of_503_is_waited_through(self, s3: S3Server, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.2)
        store = open_store(link)
        store.put("a", b"before")
        s3.fail(requests=8)
        store.put("a", b"after")
        assert s3.faults_left() == 0, "they were all met"
        assert store.get("a") == b"after"

    def test_what_does_not_end_is_told_with_its_place(
        self, s3: S3Server, link: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PATIENCE_S", 1.0)
        store = open_store(link)
        store.put("a", b"before")
        s3.fail(requests=10_000)
        try:
            with pytest.raises(StorageError, match=f"{link}: writing a failed; the store said: "):
                store.put("a", b"after")
        finally:
            s3.fail(requests=0)
        assert store.get("a") == b"before", "nothing half-written"

    def test_a_bucket_that_is_not_there_is_told_at_once(self, link: str) -> None:
        started = time.monotonic()
        with pytest.raises(StorageError, match="s3://nowhere-at-all/x"):
            open_store("s3://nowhere-at-all/x").put("a", b"1")
        assert time.monotonic() - started < module.PATIENCE_S / 2, "no patience for what no waiting mends"

    def test_a_server_that_is_not_there(self, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PATIENCE_S", 1.0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StorageError, match=link):
            open_store(link).get("study.json")


class TestLinks:
    @pytest.mark.parametrize("link", ["gs://bucket/x", "http://host/x", "s3://", "s3:///x", "s3://b//x", "s3://[x"])
    def test_what_is_no_link_of_ours(self, link: str) -> None:
        with pytest.raises(StudyError, match=r"--storage must be a folder or s3://bucket/prefix, got"):
            check_link(link, "--storage")

    @pytest.mark.parametrize(
        "link",
        [
            "s3://AKIA:hidden@bucket/x",
            "s3://bucket/x?secret_key=hidden",
            "s3://bucket?access_key=hidden",
            "s3://b?endpoint_override=http://k:hidden@h",
        ],
    )
    def test_one_with_a_secret_is_refused_and_not_repeated(self, link: str) -> None:
        with pytest.raises(StudyError) as refused:
            check_link(link, "--data")
        assert "hidden" not in str(refused.value)
        assert "AWS_ACCESS_KEY_ID" in str(refused.value)

    def test_parameters_stay_behind_what_is_below(self) -> None:
        check_link("s3://bucket/x?region=eu-north-1&endpoint_override=localhost:1&scheme=http", "--storage")
        assert below("s3://bucket/x/?region=eu-north-1", "a") == "s3://bucket/x/a?region=eu-north-1"
        assert below("s3://bucket", "a") == "s3://bucket/a"
        for place in (
            "s3://b/x?endpoint_override=h:9000&scheme=http",
            "s3://b?region=eu-north-1",
            "s3://b/x/y",
            "/mnt/runs",
        ):
            assert above(below(place, "a")) == place
            assert last_name(below(place, "a")) == "a"
        assert below("/mnt/runs", "a") == "/mnt/runs/a"

    def test_a_server_named_in_the_link(self, s3: S3Server, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
        open_store(link).put("a", b"1")
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        host = s3.url.removeprefix("http://")
        assert open_store(f"{link}?endpoint_override={host}&scheme=http&region=us-east-1").get("a") == b"1"
