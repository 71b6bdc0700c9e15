"""`python -m search.clean RUN --keep best`: frees the disk of a study's checkpoints; the journal says which are gone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detector.commands import command
from results.records import JOURNAL_NAME, JournalError, read_journal, read_plan
from results.state import StudyState
from search.disk import apply_keep, droppable
from search.journal import Journal
from search.options import StudyError, check_keep
from search.storage.store import FolderStore


def clean(folder: Path, keep: str, dry_run: bool = False) -> tuple[int, int]:
    """(trials whose checkpoints were dropped, bytes freed); with `dry_run` what would be.

    Raises: JournalError where the folder is no study or a search is running in it.
    """
    plan = read_plan(folder)
    journal = Journal.hold(folder / JOURNAL_NAME)  # holds the study's lock
    try:
        state = StudyState.of_plan(plan, read_journal(journal.path))
        num_trials = state.session.get("trials", plan["trials"])  # it may have been extended
        rule = (keep, num_trials, plan["eta"], plan["scheduler"])
        if dry_run:
            trials = droppable(state, *rule)
            files = [file for t in trials for file in (folder / "trials" / t.id).glob("*.pt")]
            return len(trials), sum(file.stat().st_size for file in files)
        return apply_keep(state, FolderStore(folder), *rule, record=journal.append)
    finally:
        journal.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m search.clean", description="Drops checkpoints of a study.")
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    parser.add_argument("--keep", default="best", help="promotable, top:N or best (default: best)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go (default: drop it)")
    options = parser.parse_args(arguments)
    with command(JournalError, StudyError):
        check_keep(options.keep)
        trials, freed = clean(options.run, options.keep, options.dry_run)
    would = "would free" if options.dry_run else "freed"
    print(f"{options.run}: {would} {freed / 1e6:.1f} MB of {trials} trials' checkpoints", file=sys.stderr)


if __name__ == "__main__":
    main()
