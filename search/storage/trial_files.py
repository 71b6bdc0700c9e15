"""A trial's files where its leg trains: in the study's folder, or in one of this node beside an object store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from search.storage.store import Store, get_files, open_store, put_files, remove_folder


class TrialFiles:
    """A folder to work in; with a store, what is needed is brought there first and what was made is kept in the store."""

    def __init__(self, study: dict[str, Any], trial: str) -> None:
        self.trial = trial
        self.store: Store | None = open_store(study["storage"]) if study.get("storage") else None
        self.place = open_store(study.get("storage") or study["folder"])
        self.study = Path(tempfile.mkdtemp(prefix="detector-search-leg-")) if self.store else Path(study["folder"])

    @property
    def folder(self) -> Path:
        """Where the trial's files are read and written."""
        return self.study / "trials" / self.trial

    def begin(self) -> None:
        """Makes the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def bring(self, *names: str, of: str = "") -> Path:
        """Fetches the newest of some files, of another of the study's trials where `of` names its folder; returns the folder."""
        place = of or f"trials/{self.trial}"
        if self.store is not None and not Path(place).is_absolute():
            get_files(self.store, [f"{place}/{name}" for name in names], self.study)
        return self.study / place

    def keep(self, *names: str) -> None:
        """Makes files survive this node, those of them that there are."""
        if self.store is not None:
            there = [name for name in names if (self.folder / name).is_file()]
            put_files(self.store, [f"trials/{self.trial}/{name}" for name in there], self.study)

    def end(self) -> None:
        """Frees this node's disk of what the store has."""
        if self.store is not None:
            remove_folder(self.study)

    def check_mine(self, leg: tuple[int, int]) -> None:
        """Raises: SupersededError once a later leg of the trial has begun: this one was given up, and must not write over it."""
        said = self.place.get(leg_name(self.trial))
        newest = tuple(int(word) for word in (said or b"").split())
        if newest > leg:
            raise SupersededError(f"a later leg of trial {self.trial} has begun elsewhere")


class SupersededError(RuntimeError):
    """A leg that was taken for lost goes on, and finds that another has begun in its place."""


def leg_name(trial: str) -> str:
    """The file that names a trial's newest leg: generation of its driver, number."""
    return f"trials/{trial}/leg"
