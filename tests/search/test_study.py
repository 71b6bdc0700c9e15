"""Whole studies through the real command line: the smoke study, killed, interrupted, resumed, and users' mistakes."""

from __future__ import annotations

import contextlib
import csv
import ipaddress
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from detector.config import DetectorConfig
from search.options import StudyError
from search.ray_session import RaySession
from search.resources import Resources
from search.study import start_early
from tests.running import (
    STOP_TIMEOUT,
    STUDY_TIMEOUT,
    Command,
    check_finished,
    journal,
    journal_lines,
    trained_epochs,
)


def is_loopback(ip: str) -> bool:
    """Whether an address is this machine's own; Ray binds IPv6 sockets to ::ffff:127.0.0.1."""
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@dataclass
class SmokeRun:
    folder: Path
    text: str
    status: int
    listening: set[str]
    max_processes: int
    left_running: list[psutil.Process]


@pytest.fixture(scope="session")
def smoke(start: Callable[..., Command], tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """One whole smoke study, its listening sockets watched while it runs."""
    runs = tmp_path_factory.mktemp("runs")
    command = start("--space", "smoke", "--runs-dir", str(runs), "--name", "s")
    listening: set[str] = set()
    most = [0]

    def look() -> None:
        tree = command.tree()
        most[0] = max(most[0], len(tree))
        for process in tree:
            with contextlib.suppress(psutil.Error):
                for socket in process.net_connections(kind="inet"):
                    if socket.status == psutil.CONN_LISTEN:
                        listening.add(socket.laddr.ip)

    status = command.wait(STUDY_TIMEOUT, look)
    _, alive = psutil.wait_procs(command.tree(), timeout=STOP_TIMEOUT)
    return SmokeRun(runs / "s", command.text(), status, listening, most[0], alive)


class TestSmokeStudy:
    def test_exits_0_with_twelve_trials_three_rungs_and_forty_lines(self, smoke: SmokeRun) -> None:
        assert smoke.status == 0, smoke.text[-3000:]
        assert "Traceback" not in smoke.text
        check_finished(smoke.folder)
        assert len(journal_lines(smoke.folder)) >= 40
        levels = json.loads((smoke.folder / "study.json").read_text())["levels"]
        assert len(levels) == 3
        reached = {record["to_epoch"] for record in journal(smoke.folder) if record["event"] == "leg_started"}
        assert reached == set(levels)

    def test_no_configuration_diverges_or_fails(self, smoke: SmokeRun) -> None:
        assert {record["outcome"] for record in journal(smoke.folder) if record["event"] == "leg_ended"} == {"reached"}

    @pytest.mark.parametrize(
        "path",
        [
            "study.json", "journal.jsonl", "best.yaml", "results/leaderboard.csv", "results/leaderboard.md", "results/configs.csv",
            "results/configs.md", "results/summary.json", "results/curves.png", "results/report.html",
        ],
    )  # fmt: skip
    def test_leaves_the_files_that_others_build_on(self, smoke: SmokeRun, path: str) -> None:
        assert (smoke.folder / path).stat().st_size > 0

    def test_every_trial_leaves_its_files(self, smoke: SmokeRun) -> None:
        for trial in (record["trial"] for record in journal(smoke.folder) if record["event"] == "trial_created"):
            left = {path.name for path in (smoke.folder / "trials" / trial).iterdir()}
            assert {"config.json", "checkpoint.pt", "best.pt", "detections.json", "log.txt"} <= left
            assert any(name.startswith("events.out.tfevents") for name in left)

    def test_the_journaled_config_is_the_one_that_was_trained(self, smoke: SmokeRun) -> None:
        created = [record for record in journal(smoke.folder) if record["event"] == "trial_created"]
        for record in created:
            trained = DetectorConfig.from_dict(
                json.loads((smoke.folder / "trials" / record["trial"] / "config.json").read_text())
            )
            assert trained.active_dict() == record["config"]
            assert trained.hash() == record["config_hash"]
            for name, value in record["varied"].items():
                assert record["config"][name] == value
        assert len({json.dumps(record["config"], sort_keys=True) for record in created}) == len(created)

    def test_no_leg_is_started_while_all_slots_are_busy(self, smoke: SmokeRun) -> None:
        running: set[str] = set()
        slots = 0
        for record in journal(smoke.folder):
            match record["event"]:
                case "session_started":
                    slots = record["slots"]
                case "promoted" | "proposal" | "trial_created":
                    assert len(running) < slots, record
                case "leg_started":
                    assert len(running) < slots, record
                    running.add(record["trial"])
                case "leg_ended":
                    running.discard(record["trial"])
        assert slots >= 1
        assert not running

    def test_each_epoch_was_trained_once_and_logged(self, smoke: SmokeRun) -> None:
        journaled = Counter(record["trial"] for record in journal(smoke.folder) if record["event"] == "epoch")
        trained = trained_epochs(smoke.folder)
        assert {trial: sum(counts.values()) for trial, counts in trained.items()} == dict(journaled)
        assert all(set(counts.values()) == {1} for counts in trained.values())

    def test_everything_listens_on_loopback_only(self, smoke: SmokeRun) -> None:
        assert smoke.max_processes > 3, "Ray's processes were never seen: the check saw nothing"
        assert smoke.listening, "no listening socket was ever seen: the check saw nothing"
        assert {ip for ip in smoke.listening if not is_loopback(ip)} == set()

    def test_best_is_the_top_of_configs_and_the_summary_counts_agree(self, smoke: SmokeRun) -> None:
        with (smoke.folder / "results" / "configs.csv").open() as file:
            top = next(csv.DictReader(file))
        best = DetectorConfig.from_dict(yaml.safe_load((smoke.folder / "best.yaml").read_text()))
        assert best.hash() == top["config"]
        told = json.loads((smoke.folder / "results" / "summary.json").read_text())
        assert (
            told["trials"]
            == told["finished"]
            + told["pruned"]
            + told["failed"]
            + told["diverged"]
            + told["infeasible"]
            + told["stopped"]
        )
        assert told["finished"] >= 1
        assert 0 < told["train_share"] <= 1
        assert told["best"]["trial"] == top["trial"]

    def test_it_ends_with_the_ranking_the_reasons_and_the_next_commands(self, smoke: SmokeRun) -> None:
        closing = smoke.text[smoke.text.index("configurations, best first") :]
        for words in (
            "best: mAP",
            "why trials were not continued",
            "tensorboard --logdir",
            "detector.predict --checkpoint",
            "verdict: ",
            "--resume --name s",
        ):
            assert words in closing

    def test_nothing_of_it_is_left_running(self, smoke: SmokeRun) -> None:
        assert smoke.left_running == []

    def test_a_finished_study_is_not_overwritten(self, smoke: SmokeRun, start: Callable[..., Command]) -> None:
        before = (smoke.folder / "journal.jsonl").read_bytes()
        command = start("--space", "smoke", "--runs-dir", str(smoke.folder.parent), "--name", "s")
        assert command.wait(STOP_TIMEOUT) == 2
        assert "holds a study already" in command.text()
        assert (smoke.folder / "journal.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO-format folder of four images: enough for a plan to be made and refused."""
    from tests.search.builders import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "retinanett"], r'"retinanett" is no space.*Did you mean "retinanet"\?'),
        (
            ["--space", "smoke", "--data", "DATA", "--set", "focal_gama=2"],
            r'"focal_gama".*Did you mean "focal_gamma"\?',
        ),
        (["--space", "smoke", "--data", "DATA", "--set", "lr=[1,"], "lr"),
        (["--space", "smoke", "--data", "/no/such/folder"], "/no/such/folder.*must be a folder"),
        (["--space", "smoke", "--resume"], "there is no study of space smoke"),
        (["--space", "smoke", "--resume", "--name", "nobody"], "holds no study"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_2(
    start: Callable[..., Command], small_data: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = [str(small_data) if argument == "DATA" else argument for argument in arguments]
    command = start(*given, "--runs-dir", str(tmp_path / "runs"))
    status = command.wait(STOP_TIMEOUT)
    text = command.text()
    assert "Traceback" not in text, text
    assert status == 2, text
    assert re.search(rf"^error: .*{said}", text, re.MULTILINE | re.DOTALL), text
    assert not (tmp_path / "runs").exists(), "nothing is written for a mistake"


def test_a_place_where_ray_cannot_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    study: Any = SimpleNamespace(resources=Resources(1, 1.0, 0.0, 1, 1, "CPU"))
    with RaySession() as session, pytest.raises(StudyError, match="gone: must be a place where Ray can write.*TMPDIR"):
        start_early(session, study)
