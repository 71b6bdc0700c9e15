"""What a fault does to a study, as its tests count it: what was journaled before, who was training, what was repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.running import (
    STUDY_TIMEOUT,
    Command,
    check_finished,
    journal,
    journal_lines,
    trained_epochs,
    wait_for_epochs,
)

EPOCHS_BEFORE = (2, 12)  # the fault strikes after so many, drawn evenly
# About 50 epochs, five a second: the study still goes on when the fault strikes, though the tests be held up.
TRIALS = 24


@dataclass
class Row:
    """One line of the table."""

    fault: str
    moment: int  # epochs journaled when it struck
    lost: int  # journaled lines that are gone or changed
    repeated: int  # epochs trained twice
    most_in_a_trial: int
    running: int  # trials that were in a leg


@dataclass
class Table:
    """What all faults of this run came to."""

    seed: int
    rows: list[Row] = field(default_factory=list)

    def as_markdown(self) -> str:
        """As benchmarks/FAULTS.md shows it."""
        lines = [
            f"\nfaults, seed {self.seed}:\n| fault | times | after epochs | lost results | epochs repeated | most in one trial |",
            "|---|---|---|---|---|---|",
        ]
        for fault in dict.fromkeys(row.fault for row in self.rows):
            rows = [row for row in self.rows if row.fault == fault]
            moments = ", ".join(str(row.moment) for row in rows)
            repeated = ", ".join(str(row.repeated) for row in rows)
            lost, most = sum(row.lost for row in rows), max(row.most_in_a_trial for row in rows)
            lines.append(f"| {fault} | {len(rows)} | {moments} | {lost} | {repeated} | {most} |")
        return "\n".join(lines)


class Fault:
    """A smoke study that a fault strikes at a drawn moment."""

    def __init__(self, name: str, attempt: int, table: Table, start: Callable[..., Command], runs: Path) -> None:
        self.name, self.table, self.start, self.runs = name, table, start, runs
        self.rng = random.Random(f"{table.seed}/{name}/{attempt}")
        self.folder = runs / "f"
        self.before: list[bytes] = []
        self.running: set[str] = set()  # who was training shortly before the fault or when it struck
        self.moment = 0

    def begin(self, trials: int = TRIALS) -> Command:
        """Starts the study and waits for the moment."""
        self.moment = self.rng.randint(*EPOCHS_BEFORE)
        words = ("--space", "smoke", "--runs-dir", str(self.runs), "--name", "f", "--trials", str(trials))
        command = self.start(*words)
        wait_for_epochs(command, self.folder, self.moment)
        time.sleep(self.rng.uniform(0, 1.0))  # anywhere within an epoch
        self.running = running_trials(self.folder)
        return command

    def remember(self) -> None:
        """What had been journaled when the fault struck, and who was training."""
        self.before = journal_lines(self.folder)
        self.running |= running_trials(self.folder)

    def resume(self) -> Command:
        """Goes on, to the end."""
        command = self.start("--space", "smoke", "--runs-dir", str(self.runs), "--resume", "--name", "f")
        assert command.wait(STUDY_TIMEOUT) == 0, command.text()[-3000:]
        assert "Traceback" not in command.text()
        return command

    def check(self, most_repeated: int = 1) -> None:
        """Nothing lost, nothing counted twice, at most the epoch under way repeated in a trial that was running."""
        check_finished(self.folder)
        lines = journal_lines(self.folder)
        lost = sum(line != kept for line, kept in zip(self.before, lines, strict=False)) + max(
            0, len(self.before) - len(lines)
        )
        journaled = {(r["trial"], r["epoch"]) for r in journal(self.folder) if r["event"] == "epoch"}
        repeated = {trial: sum(n - 1 for n in counts.values()) for trial, counts in trained_epochs(self.folder).items()}
        most = max(repeated.values(), default=0)
        self.table.rows.append(Row(self.name, self.moment, lost, sum(repeated.values()), most, len(self.running)))
        assert lost == 0
        for trial, counts in trained_epochs(self.folder).items():
            allowed = most_repeated if trial in self.running else 0
            assert repeated[trial] <= allowed, f"trial {trial} trained {counts}, running were {self.running}"
            assert {(trial, number) for number in counts} <= journaled, "a trained epoch is missing from the journal"


def running_trials(folder: Path) -> set[str]:
    """Trials whose leg was started and has not ended."""
    running: set[str] = set()
    for record in journal(folder):
        if record["event"] == "leg_started":
            running.add(record["trial"])
        elif record["event"] == "leg_ended":
            running.discard(record["trial"])
    return running


@contextmanager
def printed_table(config: pytest.Config) -> Iterator[Table]:
    """A table that the faults of a module fill, printed at its end."""
    given = config.getoption("--fault-seed")
    found = Table(random.SystemRandom().randrange(10**6) if given is None else given)
    yield found
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(found.as_markdown())
