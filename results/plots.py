"""`python -m results.plots RUN --format svg`: every plot of the report as a file, for papers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from results.charts import charts
from results.draw_matplotlib import drawn
from results.evidence import Evidence
from results.records import JournalError
from results.rendering import add_group_option

FORMATS = ("svg", "png")


def write_plots(folder: Path, out: Path, kind: str, group_by: str | None = None) -> list[Path]:
    """Writes a file a plot; returns them in the order of the report.

    Raises: JournalError where the folder is no study.
    """
    found = charts(Evidence(folder, group_by))
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in found:
        path = out / f"{chart.name}.{kind}"
        path.write_bytes(drawn(chart, kind))
        written.append(path)
    return written


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m results.plots", description=__doc__)
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    parser.add_argument("--format", dest="kind", choices=FORMATS, default="svg", help="(default: svg)")
    parser.add_argument("--out", type=Path, help="folder for the files (default: RUN/results/plots)")
    add_group_option(parser)
    options = parser.parse_args(arguments)
    try:
        written = write_plots(
            options.run, options.out or options.run / "results" / "plots", options.kind, options.group_by
        )
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
