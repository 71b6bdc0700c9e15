"""Whole studies through the real command line: the smoke study, killed, interrupted, resumed, and users' mistakes."""

from __future__ import annotations

import contextlib
import csv
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from detector.config import DetectorConfig

ROOT = Path(__file__).parents[2]
STUDY_TIMEOUT, STOP_TIMEOUT, POLL = 600.0, 180.0, 0.25  # seconds: to hang is to fail


@dataclass
class Command:
    """A command in a process group of its own, whose whole tree can be ended."""

    process: subprocess.Popen[str]
    out: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def tree(self) -> list[psutil.Process]:
        """The processes of the tree, those of earlier calls included: Ray's outlive their parent."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in (root, *root.children(recursive=True)):
                self.seen.setdefault(process.pid, process)
        return [process for process in self.seen.values() if process.is_running()]

    def kill_tree(self) -> None:
        """SIGKILL to everything that this command started."""
        for _ in range(3):  # a child may be born while its parent is being killed
            alive = self.tree()
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            psutil.wait_procs(alive, timeout=10)
        self.process.wait(timeout=10)

    def wait(self, timeout: float, each_time: Callable[[], None] = lambda: None) -> int:
        """The exit status; polls `each_time` meanwhile."""
        end = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < end, f"still running after {timeout} s:\n{self.text()[-3000:]}"
            self.tree()
            each_time()
            time.sleep(POLL)
        return status

    def text(self) -> str:
        """Standard output and error so far."""
        return self.out.read_text()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all studies here: the street is made and decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def start(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts `python -m search.run ...`; whatever still lives at the end is killed."""
    commands: list[Command] = []

    def begin(*arguments: str) -> Command:
        out = tmp_path_factory.mktemp("out") / "out.txt"
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        with out.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "search.run", *arguments],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        commands.append(Command(process, out))
        return commands[-1]

    try:
        yield begin
    finally:
        for command in commands:
            command.kill_tree()


def journal_lines(folder: Path) -> list[bytes]:
    """The whole lines of a journal that may be being written."""
    path = folder / "journal.jsonl"
    content = path.read_bytes() if path.is_file() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_lines(folder)]


def count_epochs(folder: Path) -> int:
    return sum(b'"event": "epoch"' in line for line in journal_lines(folder))


def wait_for_epochs(command: Command, folder: Path, number: int) -> None:
    end = time.monotonic() + STUDY_TIMEOUT
    while count_epochs(folder) < number:
        assert command.process.poll() is None, command.text()[-3000:]
        assert time.monotonic() < end, f"{number} epochs were not journaled:\n{command.text()[-3000:]}"
        command.tree()
        time.sleep(POLL)


def trained_epochs(folder: Path) -> dict[str, Counter[int]]:
    """How often each trial's log says that an epoch was trained."""
    counts = {}
    for log in folder.glob("trials/*/log.txt"):
        counts[log.parent.name] = Counter(int(number) for number in re.findall(r" epoch (\d+): ", log.read_text()))
    return counts


def check_finished(folder: Path) -> None:
    """What any finished smoke study holds."""
    records = journal(folder)
    plan = json.loads((folder / "study.json").read_text())
    created = [record["trial"] for record in records if record["event"] == "trial_created"]
    assert len(created) == len(set(created)) == plan["trials"] >= 12
    pairs = Counter((record["trial"], record["epoch"]) for record in records if record["event"] == "epoch")
    assert set(pairs.values()) == {1}
    assert records[-1]["event"] == "study_ended"
    assert records[-1]["reason"] == "done"


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
    _, alive = psutil.wait_procs(command.tree(), timeout=20)
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
            "detector.train --config",
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


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [3, 15])
def test_killed_with_its_whole_process_tree_a_study_resumes_without_loss(
    start: Callable[..., Command], tmp_path: Path, epochs: int
) -> None:
    folder = tmp_path / "k"
    first = start("--space", "smoke", "--runs-dir", str(tmp_path), "--name", "k")
    wait_for_epochs(first, folder, epochs)
    first.kill_tree()
    before = journal_lines(folder)
    assert sum(b'"event": "epoch"' in line for line in before) >= epochs
    assert not any(b'"event": "study_ended"' in line for line in before), "the kill came too late to test anything"

    second = start("--space", "smoke", "--runs-dir", str(tmp_path), "--resume", "--name", "k")
    assert second.wait(STUDY_TIMEOUT) == 0, second.text()[-3000:]
    assert "Traceback" not in second.text()
    assert journal_lines(folder)[: len(before)] == before
    check_finished(folder)
    journaled = {(record["trial"], record["epoch"]) for record in journal(folder) if record["event"] == "epoch"}
    for trial, counts in trained_epochs(folder).items():
        again = {number: times for number, times in counts.items() if times > 1}
        assert len(again) <= 1, f"trial {trial} trained {again} more than once"
        assert set(again.values()) <= {2}
        assert {(trial, number) for number in counts} <= journaled, "a trained epoch is missing from the journal"
    owed = {
        record["trial"]: record["event"]
        for record in journal(folder)
        if record["event"] in ("leg_started", "leg_ended")
    }
    assert set(owed.values()) == {"leg_ended"}


@pytest.mark.slow
def test_sigterm_ends_with_130_the_table_so_far_and_the_resume_command(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    folder = tmp_path / "t"
    command = start("--space", "smoke", "--runs-dir", str(tmp_path), "--name", "t")
    wait_for_epochs(command, folder, 3)
    os.kill(command.process.pid, signal.SIGTERM)
    assert command.wait(STOP_TIMEOUT) == 130, command.text()[-3000:]
    text = command.text()
    assert "Traceback" not in text
    assert "the table so far" in text
    assert re.search(
        rf"python -m search\.run --space smoke --resume --name t --runs-dir {re.escape(str(tmp_path))}", text
    )
    records = journal(folder)
    assert (records[-1]["event"], records[-1]["reason"]) == ("study_ended", "interrupted")
    with (folder / "results" / "leaderboard.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} <= {"finished", "pruned", "stopped"}
    _, alive = psutil.wait_procs(command.tree(), timeout=20)
    assert alive == [], "processes were left behind"


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
