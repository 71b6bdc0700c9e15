"""Studies that live in an S3 server, on real Ray: they survive their machine, a server that falters, and one that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import (
    ROOT,
    STUDY_TIMEOUT,
    Command,
    check_finished,
    journal,
    journal_lines,
    trained_epochs,
    wait_for_epochs,
)
from tests.s3_server import KEYS, S3Server, s3_server

pytestmark = pytest.mark.slow
PAUSE_TIMEOUT = 500  # seconds; a store that does not answer is given two minutes


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log.txt") as server:
        yield server


@pytest.fixture(scope="module")
def street(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The link of a dataset in the store."""
    folder = tmp_path_factory.mktemp("data") / "street"
    words = ["--train", "24", "--val", "12", "--seed", "3", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "detector.data.lidar", *words], cwd=ROOT, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        from search.storage.store import open_store, put_files

        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        put_files(open_store("s3://studies/street"), names, folder)
    return "s3://studies/street"


def fetched(s3: S3Server, link: str, place: Path) -> Path:
    """The study at home, by the command that users give."""
    words = [sys.executable, "-m", "search.fetch", link, "--to", str(place)]
    subprocess.run(words, cwd=ROOT, env={**os.environ, **s3.environment}, check=True, capture_output=True)
    return place


def test_a_study_survives_its_machine(s3: S3Server, street: str, start: Callable[..., Command], tmp_path: Path) -> None:
    """Everything is killed and the machine's disk is lost: another goes on from the store alone."""
    words = ("--space", "smoke", "--storage", "s3://studies/a", "--name", "f")
    first = start(*words, "--data", street, "--runs-dir", str(tmp_path / "one"), **s3.environment)
    wait_for_epochs(first, tmp_path / "one" / "f", 7)
    first.kill_tree()
    before = journal_lines(tmp_path / "one" / "f")
    other = {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "other cache")}
    second = start(*words, "--resume", "--runs-dir", str(tmp_path / "two"), **other)
    assert second.wait(STUDY_TIMEOUT) == 0, second.text()[-3000:]
    home = fetched(s3, "s3://studies/a/f", tmp_path / "home")
    check_finished(home)
    assert journal_lines(home)[: len(before)] == before, "nothing that was journaled is lost"
    assert {r["generation"] for r in journal(home)} == {1, 2}
    repeated = {trial: sum(n - 1 for n in counts.values()) for trial, counts in trained_epochs(home).items()}
    assert max(repeated.values()) <= 1, "at most the epoch that was under way"
    for folder in (tmp_path / "one", tmp_path / "two", home):
        for path in folder.rglob("*"):
            assert not path.is_file() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in first.text() + second.text()


def test_a_while_of_503_is_waited_through(s3: S3Server, start: Callable[..., Command], tmp_path: Path) -> None:
    words = ("--space", "smoke", "--storage", "s3://studies/b", "--name", "f", "--runs-dir", str(tmp_path))
    command = start(*words, **s3.environment)
    wait_for_epochs(command, tmp_path / "f", 4)
    s3.fail(requests=30)
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    assert s3.faults_left() == 0
    check_finished(fetched(s3, "s3://studies/b/f", tmp_path / "home"))
    assert not any(n > 1 for counts in trained_epochs(tmp_path / "home").values() for n in counts.values())


def test_a_store_that_goes_away_pauses_the_study(s3: S3Server, start: Callable[..., Command], tmp_path: Path) -> None:
    words = ("--space", "smoke", "--storage", "s3://studies/c", "--name", "f", "--runs-dir", str(tmp_path))
    command = start(*words, **s3.environment)
    wait_for_epochs(command, tmp_path / "f", 4)
    s3.fail(requests=10**9)
    assert command.wait(PAUSE_TIMEOUT) == 4, command.text()[-3000:]
    assert "Traceback" not in command.text()
    assert (
        "s3://studies/c/f does not answer: the study is paused. Bring it back, then: python -m search.run"
        in command.text()
    )
    s3.fail(requests=0)
    command = start(*words, "--resume", **s3.environment)
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    check_finished(fetched(s3, "s3://studies/c/f", tmp_path / "home"))
