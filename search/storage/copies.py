"""Studies between the place where they live and a folder: what a driver brings home, and what it leaves behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from results.records import JOURNAL_NAME, PLAN_NAME, JournalError
from results.state import StudyState, Trial, read_live
from search.storage import lease, segments
from search.storage.segments import read_segments
from search.storage.store import FolderStore, Store, check_link, get_files, is_link, open_store, put_files

REQUESTS = "requests/"
OF_THE_PLACE = (segments.PREFIX, lease.PREFIX, REQUESTS)  # how the study is kept, no part of it
WEIGHTS = ".pt"
BEST_NAME = f"best{WEIGHTS}"  # a trial's best weights in its folder, the study's at its top
COPY_OF = "copy_of.txt"  # in a copy: where the study lives
# What the workers put into the store themselves.
OF_WORKERS = ("config.json", "detections.json", "log.txt", "error.txt")


def study_store(where: str | Path) -> Store:
    """The store of one study, as a user names it.

    Raises: StudyError for a link that is none of ours, JournalError where there is no study.
    """
    if is_link(where):
        check_link(str(where), "RUN")
    store = open_store(where)
    if store.get(PLAN_NAME) is None:
        raise JournalError(f"{where} must be a study; it holds no {PLAN_NAME}")
    return store


def bring_home(store: Store, folder: Path) -> int:
    """Fills a folder with a study: its plan, journal, results and logs, no weights. Returns the number of files."""
    names = [
        name for name in store.sizes() if not name.startswith(OF_THE_PLACE) and not name.endswith((WEIGHTS, COPY_OF))
    ]
    journal = read_segments(store)
    if journal:
        names = [name for name in names if name != JOURNAL_NAME]
        FolderStore(folder).put(JOURNAL_NAME, journal)
    get_files(store, names, folder)
    FolderStore(folder).put(COPY_OF, f"{store.where}\n".encode())
    return len(names) + bool(journal)


def may_hold(folder: Path, store: Store) -> bool:
    """Whether a folder is free for a copy of a study: it holds no other."""
    plan = folder / PLAN_NAME
    return not plan.is_file() or plan.read_bytes() == store.get(PLAN_NAME)


def original_of(folder: Path) -> str:
    """Where the study lives that a folder is a copy of; "" for a study of its own."""
    file = folder / COPY_OF
    return file.read_text().strip() if file.is_file() else ""


def best_weights(trial: str) -> str:
    """The name of a trial's best weights in its study."""
    return f"trials/{trial}/{BEST_NAME}"


def best_places(trial: Trial) -> list[str]:
    """The folders, below the study's or whole, that may hold a trial's best weights, its own first.

    A longer schedule may go on from another trial's best epoch, and a trial may be known from another study.
    """
    extends = [f"trials/{trial.of}"] if trial.role == "search" and trial.of else []
    return [f"trials/{trial.id}", *extends, *([trial.reused] if trial.reused else [])]


def leave_results(store: Store, folder: Path) -> None:
    """Puts what the driver made of a study beside what its workers have put there."""
    names = [name for name in FolderStore(folder).sizes() if not _of_others(name)]
    put_files(store, names, folder)


def _of_others(name: str) -> bool:
    return name.startswith(OF_THE_PLACE) or name.endswith((JOURNAL_NAME, COPY_OF, WEIGHTS, *OF_WORKERS))


def look_at(where: str | Path) -> tuple[dict[str, Any], StudyState]:
    """Plan and state of a study that may be running, in a folder or a store.

    Raises: StudyError, JournalError where there is none; StorageError where it cannot be read.
    """
    if not is_link(where):
        return read_live(Path(where))
    store = study_store(where)
    with tempfile.TemporaryDirectory(prefix="study-") as place:
        get_files(store, [PLAN_NAME], Path(place))
        (Path(place) / JOURNAL_NAME).write_bytes(read_segments(store))
        return read_live(Path(place))


def studies_in(store: Store) -> list[str]:
    """The names of the studies below a place, oldest name first."""
    ends = f"/{PLAN_NAME}"
    return sorted(name.removesuffix(ends) for name in store.sizes() if name.endswith(ends) and name.count("/") == 1)
