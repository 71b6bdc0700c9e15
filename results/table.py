"""`python -m results.table RUN --as md|csv|latex`: a study's tables for a paper, a page or the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from results.evidence import read_ground_truth
from results.records import JOURNAL_NAME, JournalError, read_journal, read_plan
from results.rendering import FORMATS, as_rich, render
from results.state import StudyState
from results.views import Evidence, View, views

NAMES = ("ranking", "ablation", "classes", "sizes", "cost")


def open_evidence(folder: Path, group_by: str | None = None) -> Evidence:
    """A study folder with what its numbers rest on.

    Raises: JournalError where the folder is no study, or its images lack the key to group by.
    """
    plan = read_plan(folder)
    if group_by is not None and read_ground_truth(folder) is None:
        raise JournalError(f"--group-by {group_by}: {folder} is from before studies kept their ground truth")
    return Evidence(folder, plan, StudyState.of_plan(plan, read_journal(folder / JOURNAL_NAME)), group_by)


def chosen(found: list[View], name: str | None) -> list[View]:
    """The view of a name, or the first and by default all.

    Raises: JournalError where the study has no such table.
    """
    if name is None:
        return found
    there = [view for view in found if view.name == name]
    if not there:
        raise JournalError(f"--table {name}: this study has {', '.join(view.name for view in found)}")
    return there


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m results.table", description=__doc__)
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    parser.add_argument(
        "--table", choices=NAMES, help="one table (default: all that the study has; with csv its first)"
    )
    parser.add_argument("--as", dest="kind", choices=FORMATS, help="(default: for the terminal)")
    parser.add_argument(
        "--group-by", metavar="KEY", help="key of the validation images' COCO records whose images are not independent, e.g. sequence"
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        found = chosen(views(open_evidence(options.run, options.group_by)), options.table)
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.kind is None:
        from rich.console import Console

        console = Console()
        for view in found:
            console.print(as_rich(view), highlight=False)
        return
    print("\n".join(render(view, options.kind) for view in (found[:1] if options.kind == "csv" else found)), end="")


if __name__ == "__main__":
    main()
