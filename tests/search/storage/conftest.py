"""One S3 server for the tests of the storage, and a store of its own for each test, in both kinds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.storage import lease
from search.storage.store import Store, open_store
from tests.s3_server import S3Server, s3_server

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log.txt") as server:
        yield server


@pytest.fixture
def link(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in the bucket."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://studies/test-{next(NUMBERS)}"


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, a folder and a link in turn."""
    return str(tmp_path / "place") if request.param == "folder" else str(request.getfixturevalue("link"))


@pytest.fixture
def opened(place: str) -> Callable[[], Store]:
    """Opens the same place again, as another process would."""
    return lambda: open_store(place)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that beat fast, so that no test waits for seconds."""
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "WATCH_S", 0.6)
