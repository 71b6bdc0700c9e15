"""`python -m results.table RUN --as md|csv|latex`: a study's tables for a paper, a page or the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from results.evidence import Evidence
from results.records import JournalError
from results.rendering import add_table_options, print_views
from results.view import View
from results.views import views

NAMES = ("ranking", "ablation", "importance", "path", "classes", "sizes", "cost")


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
    add_table_options(parser)
    options = parser.parse_args(arguments)
    try:
        found = chosen(views(Evidence(options.run, options.group_by)), options.table)
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print_views(found[:1] if options.kind == "csv" else found, options.kind)


if __name__ == "__main__":
    main()
