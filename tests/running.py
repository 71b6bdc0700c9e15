"""Whole studies through the real command line: started, waited for, killed, and what they must leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
STUDY_TIMEOUT, STOP_TIMEOUT, POLL = 600.0, 180.0, 0.25  # seconds: to hang is to fail


@dataclass
class Command:
    """A command in a process group of its own, whose whole tree can be ended."""

    process: subprocess.Popen[str]
    out: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def tree(self) -> list[psutil.Process]:
        """The processes of the tree, those of earlier calls included: Ray's outlive their parent."""
        if self.process.poll() is None:  # else its number may be another's by now
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
        self.process.wait(timeout=STOP_TIMEOUT)

    def wait(self, timeout: float, each_time: Callable[[], None] = lambda: None) -> int:
        """The exit status; polls `each_time` meanwhile."""
        end = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < end, f"still running after {timeout} s:\n{self.text()[-3000:]}"
            self.tree()
            each_time()
            time.sleep(POLL)
        return status

    def until(self, true: Callable[[], bool], problem: str) -> None:
        """Returns once something is true, which must be while the command runs."""
        end = time.monotonic() + STUDY_TIMEOUT
        while True:
            running = self.process.poll() is None  # asked first: what it does last may be what is waited for
            if true():
                return
            assert running, f"ended before that: {problem}\n{self.text()[-3000:]}"
            assert time.monotonic() < end, f"{problem}\n{self.text()[-3000:]}"
            self.tree()
            time.sleep(POLL)

    def text(self) -> str:
        """Standard output and error so far."""
        return self.out.read_text()


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
    command.until(lambda: count_epochs(folder) >= number, f"{number} epochs were not journaled")


def epochs_by_host(folder: Path) -> Counter[str]:
    """How many of the journal's epochs each host trained; hosts that trained none are not in it."""
    return Counter(record["host"] for record in journal(folder) if record["event"] == "epoch")


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
