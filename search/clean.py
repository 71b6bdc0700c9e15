"""`python -m search.clean RUN --keep best`: frees the disk of a study's checkpoints; the journal says which are gone."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detector.commands import command
from results.records import JOURNAL_NAME, JournalError, read_journal
from results.state import StudyState
from search.disk import apply_keep, droppable
from search.journal import Journal
from search.options import StudyError, check_keep
from search.storage.copies import look_at, original_of, study_store
from search.storage.store import is_link


def clean(where: str | Path, keep: str, dry_run: bool = False) -> tuple[int, int]:
    """(trials whose checkpoints were dropped, bytes freed); with `dry_run` what would be.

    Raises: StudyError, JournalError where there is no study or a search is running in it; StorageError where it cannot be read.
    """
    store = study_store(where)
    if not is_link(where) and original_of(Path(where)):
        raise JournalError(f"{where} is a copy and has no checkpoints; clean {original_of(Path(where))}")
    plan, state = look_at(where)
    num_trials = state.session.get("trials", plan["trials"])  # it may have been extended
    rule = (keep, num_trials, plan["eta"], plan["scheduler"])
    if dry_run:
        trials = droppable(state, *rule)
        sizes = store.sizes("trials/")
        dropped = {f"trials/{trial.id}" for trial in trials}
        return len(trials), sum(
            size for name, size in sizes.items() if name.endswith(".pt") and name.rpartition("/")[0] in dropped
        )
    with tempfile.TemporaryDirectory(prefix="clean-") as scratch:  # for the copy of a journal that lies in a store
        path = Path(scratch if is_link(where) else where) / JOURNAL_NAME
        journal = Journal.hold(path, store if is_link(where) else None)
        try:
            state = StudyState.of_plan(plan, read_journal(journal.path))
            return apply_keep(state, store, *rule, record=journal.append)
        finally:
            journal.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m search.clean", description="Drops checkpoints of a study.")
    parser.add_argument("run", help="study folder, e.g. runs/retinanet-1, or its link, s3://bucket/prefix/NAME")
    parser.add_argument("--keep", default="best", help="promotable, top:N or best (default: best)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go (default: drop it)")
    options = parser.parse_args(arguments)
    with command(JournalError, StudyError, OSError):
        check_keep(options.keep)
        trials, freed = clean(options.run, options.keep, options.dry_run)
    would = "would free" if options.dry_run else "freed"
    print(f"{options.run}: {would} {freed / 1e6:.1f} MB of {trials} trials' checkpoints", file=sys.stderr)


if __name__ == "__main__":
    main()
