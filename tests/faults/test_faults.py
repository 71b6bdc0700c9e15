"""What goes wrong on real machines, done to real studies: nothing that was journaled is lost, and no epoch beyond the one
that each running trial was in is trained again.

Each fault strikes at a moment drawn from a seed that is printed. `pytest tests/faults -m slow --repeat 5` tries each five
times and prints the table of benchmarks/FAULTS.md.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.fault import Fault, Row, Table, running_trials
from tests.running import (
    POLL,
    STOP_TIMEOUT,
    STUDY_TIMEOUT,
    Command,
    count_epochs,
    journal,
    journal_lines,
)
from tests.small_disk import mounted

pytestmark = pytest.mark.slow


@pytest.fixture
def fault(
    request: pytest.FixtureRequest, attempt: int, table: Table, start: Callable[..., Command], tmp_path: Path
) -> Fault:
    name = request.node.originalname.removeprefix("test_").replace("_", " ")
    return Fault(name, attempt, table, start, tmp_path)


def training_process(command: Command, folder: Path) -> psutil.Process:
    """A process that is in the middle of a leg: its trial's log names it."""
    end = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < end:
        tree = {process.pid: process for process in command.tree()}
        for trial in sorted(running_trials(folder)):
            log = folder / "trials" / trial / "log.txt"
            text = log.read_text() if log.is_file() else ""
            begun = re.findall(r", process (\d+)$", text, re.MULTILINE)
            if begun and int(begun[-1]) in tree and " ended: " not in text.splitlines()[-1]:
                return tree[int(begun[-1])]
        time.sleep(POLL / 10)
    raise AssertionError("no leg began")


def test_kill_9_of_a_worker(fault: Fault) -> None:
    command = fault.begin()
    training_process(command, fault.folder).kill()
    assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
    lost = [r for r in journal(fault.folder) if r["event"] == "leg_ended" and r["outcome"] == "lost"]
    assert len(lost) == 1, "the leg runs again from its checkpoint, and nobody is blamed"
    assert lost[0]["node_alive"]
    fault.check()


def test_kill_9_of_the_driver(fault: Fault) -> None:
    command = fault.begin()
    command.process.kill()
    command.process.wait()
    fault.remember()
    fault.resume()  # while what the driver left behind may still be ending
    command.kill_tree()
    fault.check()


def test_kill_9_of_everything(fault: Fault) -> None:
    fault.begin().kill_tree()
    fault.remember()
    assert not any(b'"event": "study_ended"' in line for line in fault.before), (
        "the kill came too late to test anything"
    )
    fault.resume()
    fault.check()


def test_sigterm(fault: Fault) -> None:
    command = fault.begin()
    os.kill(command.process.pid, signal.SIGTERM)
    assert command.wait(STOP_TIMEOUT) == 130, command.text()[-3000:]
    text = command.text()
    assert "Traceback" not in text
    assert "the table so far" in text
    assert f"python -m search.run --space smoke --resume --name f --runs-dir {fault.runs}" in text
    assert (fault.folder / "results" / "leaderboard.csv").is_file()
    fault.remember()
    assert b'"reason": "interrupted"' in fault.before[-1]
    fault.resume()
    fault.check()


def test_sigterm_to_all_processes(fault: Fault) -> None:
    """As `timeout` and batch systems send it: Ray's processes are not to end before the study has."""
    command = fault.begin()
    os.killpg(command.process.pid, signal.SIGTERM)
    assert command.wait(STOP_TIMEOUT) == 130, command.text()[-3000:]
    assert "the table so far" in command.text()
    fault.remember()
    assert b'"reason": "interrupted"' in fault.before[-1]
    fault.resume()
    fault.check()


def test_ctrl_c_twice(fault: Fault) -> None:
    command = fault.begin()
    os.killpg(command.process.pid, signal.SIGINT)  # a terminal sends it to all
    time.sleep(0.3)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.wait(STOP_TIMEOUT) == 130, command.text()[-3000:]
    assert "Traceback" not in command.text()
    fault.remember()
    fault.resume()
    fault.check()


def test_truncated_checkpoint(fault: Fault) -> None:
    """The newest checkpoint of every running trial is cut: the one before it is gone on from."""
    command = fault.begin()
    while True:
        command.process.send_signal(signal.SIGSTOP)  # no trial ends, and none begins, between the look and the kill
        if checkpoints_of_running(fault.folder):
            break
        command.process.send_signal(signal.SIGCONT)
        assert command.process.poll() is None, "the study ended before a running trial had a checkpoint"
        command.tree()
        time.sleep(POLL / 10)
    command.kill_tree()
    fault.remember()
    cut = checkpoints_of_running(fault.folder)
    for file in cut:
        os.truncate(file, file.stat().st_size // 2)
    fault.resume()
    fault.check(most_repeated=2)  # the one that was under way, and the one whose checkpoint was cut
    assert 1 <= len(cut) <= 2


def checkpoints_of_running(folder: Path) -> list[Path]:
    """The newest checkpoints of the trials that are in a leg."""
    files = (folder / "trials" / trial / "checkpoint.pt" for trial in running_trials(folder))
    return [file for file in files if file.is_file()]


def test_truncated_last_journal_line(fault: Fault) -> None:
    fault.begin().kill_tree()
    path = fault.folder / "journal.jsonl"
    last = journal_lines(fault.folder)[-1]
    whole = path.stat().st_size - (path.stat().st_size - sum(len(line) + 1 for line in journal_lines(fault.folder)))
    os.truncate(path, whole - len(last) // 2 - 1)
    fault.remember()
    text = fault.resume().text()
    assert "half-written" in text
    fault.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of a few megabytes, as a disk that fills up."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "6m"):
        yield place


def test_full_disk(fault: Fault, small_disk: Path) -> None:
    fault.runs, fault.folder = small_disk, small_disk / "f"
    # One at a time: of two trials that end their first epochs together, neither may have room.
    command = fault.start("--space", "smoke", "--runs-dir", str(small_disk), "--name", "f", "--concurrent", "1")
    assert command.wait(STUDY_TIMEOUT) == 4, command.text()[-3000:]
    assert "Traceback" not in command.text()
    assert "is full: the study is paused. Make room, then:" in command.text()
    fault.moment = count_epochs(small_disk / "f")
    fault.remember()
    assert fault.moment >= 1, "it was full before anything was trained: nothing was tested"
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    fault.resume()
    fault.check()


def test_too_much_memory(fault: Fault) -> None:
    """A config that no limit lets train is told apart and given up; the study goes on without it."""
    space = fault.runs / "hungry.yaml"
    space.write_text(
        "include: smoke\nbase: {norm: group, head_norm: group}\nbudget: {trials: 6}\n"
        "fields:\n  lr: {log: [0.001, 0.01]}\n  head_depth: {choice: [0, 4]}\n  head_channels: {choice: [16, 1024]}\n"
        "constraints: ['head_depth == 0 or head_channels == 1024']\n"
    )
    command = fault.start(
        "--space", str(space), "--sampler", "random", "--runs-dir", str(fault.runs), "--name", "f", "--memory-per-trial", "0.5"
    )  # fmt: skip
    assert command.wait(3 * STUDY_TIMEOUT) == 0, command.text()[-3000:]
    records = journal(fault.folder)
    hungry = {r["trial"] for r in records if r["event"] == "trial_created" and r["config"]["head_depth"] == 4}
    assert hungry, "the space has no hungry configuration in six: nothing was tested"
    for trial in hungry:
        ends = [r for r in records if r["event"] == "leg_ended" and r["trial"] == trial]
        outcomes = [r["outcome"] for r in ends]
        assert outcomes[:2] == ["out_of_memory", "out_of_memory"], ends
        assert outcomes[-1] == "infeasible", ends
        legs = [
            (r.get("alone"), r.get("micro_batch"))
            for r in records
            if r["event"] == "leg_started" and r["trial"] == trial
        ]
        assert legs[:3] == [(None, None), (True, None), (True, 4)]
    fed = {r["trial"] for r in records if r["event"] == "trial_created"} - hungry
    assert {r["outcome"] for r in records if r["event"] == "leg_ended" and r["trial"] in fed} == {"reached"}
    fault.moment = count_epochs(fault.folder)
    fault.table.rows.append(Row(fault.name, fault.moment, 0, 0, 0, len(hungry)))
