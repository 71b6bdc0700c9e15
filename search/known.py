"""What other studies have trained already (--reuse): the same config, dataset and seed is the same trial anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.records import JOURNAL_NAME, JournalError, read_journal, read_plan
from results.state import StudyState, Trial

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
    def of(cls, folders: Sequence[str], fingerprint: str) -> KnownElsewhere:
        """The trials of some study folders that were trained on the dataset of this fingerprint.

        Raises: JournalError where a folder is no study, or one of other data.
        """
        known = cls()
        for folder in map(Path, folders):
            plan = read_plan(folder)
            if plan["dataset"]["fingerprint"] != fingerprint:
                raise JournalError(
                    f"--reuse {folder}: must be a study on the same data; its fingerprint is {plan['dataset']['fingerprint']}, "
                    f"this study's {fingerprint}. Leave it out"
                )
            for trial in StudyState.of_plan(plan, read_journal(folder / JOURNAL_NAME)).trials.values():
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
