"""`python -m search.control RUN stop`, `.. prune TRIAL`, `.. add config.yaml`: asks something of a running study.

The driver takes it up within seconds and journals it: legs stop at their next epoch, a pruned trial goes no further, an added
config is tried next. The place where it lives is all that the two share.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.commands import CommandError, command
from detector.config import DetectorConfig
from results.records import JournalError
from results.state import StudyState
from search.options import StudyError, changes_of_file
from search.requests import post
from search.storage.copies import look_at
from search.storage.store import open_store

EXIT_REFUSED, EXIT_UNHEARD = 2, 1
PATIENCE_S = 30.0


def request_of(options: argparse.Namespace, plan: dict[str, Any], state: StudyState) -> dict[str, Any]:
    """What the command line asks.

    Raises: CommandError, ConfigError for a trial that there is not, or a file that is no config.
    """
    if options.ask == "prune":
        named = {trial.id: trial.id for trial in state.trials.values()} | {
            str(t.number): t.id for t in state.trials.values()
        }
        if options.what not in named:
            raise CommandError(
                f"prune {options.what}: must be the id or number of a trial of {plan['name']}; see python -m search.status"
            )
        return {"ask": "prune", "trial": named[options.what]}
    if options.ask == "add":
        base = DetectorConfig.from_record(plan["space"]["base"])
        return {"ask": "add", "values": changes_of_file(base, Path(options.what), "add")}
    return {"ask": "stop"}


def answer(where: str, request: str, patience: float) -> dict[str, Any] | None:
    """The journal's word on a request, waited for; None where none came."""
    until = time.monotonic() + patience
    while True:
        _, state = look_at(where)
        for record in reversed(state.records):
            if record.get("request") == request:
                return dict(record)
        if time.monotonic() > until:
            return None
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m search.control", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="study folder, e.g. runs/retinanet-1, or its link, s3://bucket/prefix/NAME")
    parser.add_argument("ask", choices=("stop", "prune", "add"))
    parser.add_argument(
        "what", nargs="?", help="of prune: a trial's id or number; of add: a config file (.yaml, .json)"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, help=f"seconds to wait for an answer (default: {PATIENCE_S:g})"
    )
    options = parser.parse_args(arguments)
    with command(JournalError, StudyError, OSError):
        plan, state = look_at(options.run)
        if (options.what is None) != (options.ask == "stop"):
            raise CommandError(
                f"{options.ask}: {'stands alone' if options.ask == 'stop' else 'must be followed by a trial or a config file'}"
            )
        if state.ended:
            raise CommandError(
                f"{options.run}: has ended ({state.ended}); nobody is there to be asked. Go on with it by --resume"
            )
        request = request_of(options, plan, state)
        found = answer(options.run, post(open_store(options.run), **request), options.patience)
    if found is None:
        print(
            f"{options.run}: no answer in {options.patience:g} s; it is followed if the study's driver lives or is resumed",
            file=sys.stderr,
        )
        return EXIT_UNHEARD
    if found["event"] == "ask_refused":
        print(f"error: {options.ask}: {found['reason']}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"{options.run}: {options.ask} taken up", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
