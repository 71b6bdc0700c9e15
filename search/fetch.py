"""`python -m search.fetch s3://bucket/studies/NAME`: brings a study home: plan, journal, results, logs; no checkpoints.

What comes is a study folder like any other: results.report, results.table, tensorboard and search.status read it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detector.commands import CommandError, command
from results.records import JOURNAL_NAME, JournalError
from results.state import read_live
from results.tables import delivered
from search.journal import Journal
from search.options import DEFAULT_RUNS_DIR, StudyError
from search.storage.copies import best_weights, bring_home, may_hold, study_store
from search.storage.store import get_files, is_link, last_name


def fetch(where: str, folder: Path, weights: bool = False) -> int:
    """Fills `folder` from the study at `where`, with the best one's weights where asked; returns the number of files.

    Raises: CommandError, StudyError, JournalError for a place that holds no study, or a folder that holds another.
    """
    if not is_link(where) and Path(where).resolve() == folder.resolve():
        raise CommandError(f"{where} is there already; name another place with --to")
    store = study_store(where)
    if not may_hold(folder, store):
        raise CommandError(f"{folder} holds another study than {where}; name another place with --to")
    Journal(folder / JOURNAL_NAME).close()  # refuses a copy that a search on this machine is writing
    count = bring_home(store, folder)
    best = delivered(read_live(folder)[1]) if weights else None
    if best is not None:
        get_files(store, [best_weights(trial) for trial in (best.id, best.of) if trial], folder)
        if not any((folder / best_weights(trial)).is_file() for trial in (best.id, best.of)):
            raise CommandError(
                f"{where}: the best trial, {best.id}, has no weights there any more; all else is in {folder}"
            )
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search.fetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the study: s3://bucket/prefix/NAME, or a folder that this machine mounts")
    parser.add_argument("--to", type=Path, help=f"folder to fill (default: {DEFAULT_RUNS_DIR}/NAME)")
    parser.add_argument("--weights", action="store_true", help="and the best trial's weights (default: no weights)")
    options = parser.parse_args(arguments)
    folder = options.to or Path(DEFAULT_RUNS_DIR) / last_name(options.run)
    with command(JournalError, StudyError, OSError):
        count = fetch(options.run, folder, options.weights)
    print(f"{folder}: {count} files; next: python -m results.report {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
