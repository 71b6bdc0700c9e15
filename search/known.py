"""What other studies have trained already (--reuse): the same config, dataset and seed is the same trial anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.pareto import MINIMISED
from results.records import JournalError
from results.state import Trial, read_study

OF_ITS_OWN_STUDY = (
    "event",
    "time",
    "trial",
    "leg",
    "absorbed",
    "taken_over",
)  # keys of an epoch record that stay there


@dataclass
class KnownElsewhere:
    """Epoch results of other studies' trials, by (hash of the config, seed)."""

    trials: dict[tuple[str, int], tuple[Path, Trial]] = field(default_factory=dict)

    @classmethod
    def of(cls, mine: dict[str, Any], folders: Sequence[str]) -> KnownElsewhere:
        """The trials of some study folders that a study of the plan `mine` would train alike.

        Raises: JournalError where a folder is no study, or one whose trials are others.
        """
        known = cls()
        for folder in map(Path, folders):
            plan, state = read_study(folder)
            check_alike(folder, plan, mine)
            for trial in state.trials.values():
                key = (trial.config_hash, trial.seed)
                if key not in known.trials or known.trials[key][1].last_epoch < trial.last_epoch:
                    known.trials[key] = (folder.resolve(), trial)
        return known

    def find(self, config_hash: str, seed: int) -> str:
        """Folder and id of the trial that has trained this, "" where there is none."""
        found = self.trials.get((config_hash, seed))
        return f"{found[0]}/trials/{found[1].id}" if found and found[1].epochs else ""

    def epochs(self, trial: Trial) -> dict[int, dict[str, Any]]:
        """Epoch results by epoch of a trial that another study knows."""
        found = self.trials.get((trial.config_hash, trial.seed)) if trial.reused else None
        if found is None:
            return {}
        return {
            epoch: {name: value for name, value in record.items() if name not in OF_ITS_OWN_STUDY}
            for epoch, record in found[1].epochs.items()
        }


def check_alike(folder: Path, other: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raises: JournalError where another study's results would not be this one's."""
    measured = [name for name in mine.get("objectives", []) if name in MINIMISED]
    for what, here, there in (
        ("data of the same fingerprint", mine["dataset"]["fingerprint"], other["dataset"]["fingerprint"]),
        ("the same trainer", mine.get("trainer", ""), other.get("trainer", "")),
        ("a budget in epochs", mine.get("budget_unit", "epochs"), "epochs"),
        ("a budget in epochs", "epochs", other.get("budget_unit", "epochs")),
        ("the same measured objectives", measured, [n for n in measured if n in other.get("objectives", [])]),
    ):
        if here != there:
            raise JournalError(
                f"--reuse {folder}: must be a study of {what}; this study has {here!r}, that one {there!r}. Leave it out"
            )
