"""`python -m results.tensorboard RUN`: writes a study's TensorBoard event files anew from its journal.

With `--summary` they are read back into the tables of results/, and compared with the journal's. `tensorboard --logdir RUN`
shows a run per trial.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from results.event_tables import EventTables
from results.events import StudyEvents
from results.evidence import Evidence
from results.pictures import drawn_detections
from results.records import JournalError
from results.rendering import FORMATS, print_views
from results.state import Trial, read_study
from results.tables import Row, configurations, leaderboard, ranking_key
from results.view import Tell, View, teller

END_SUFFIX = ".end"  # of the event files that are written anew at every end of a study
MOST_PICTURED = 50  # trials with pictures and precision-recall curves: of more, the best and the base


def write_end_of_study(folder: Path) -> None:
    """Pictures, precision-recall curves and HParams sessions of a study's trials, from its journal and its detections."""
    evidence = Evidence(folder)
    plan, state = evidence.plan, evidence.state
    if not state.records:
        return
    time = state.records[-1]["time"]
    # TensorBoard keeps the first word on a session: what an earlier end of this study wrote must go.
    for old in [*folder.glob(f"*{END_SUFFIX}"), *folder.glob(f"trials/*/*{END_SUFFIX}")]:
        old.unlink()
    events = StudyEvents(folder, END_SUFFIX)
    for trial in _pictured(list(state.trials.values()), state.metric):
        epoch = trial.ranked_epoch(state.metric)
        if epoch is None:
            continue
        events.add_pictures(trial, epoch, drawn_detections(folder, plan, trial.id), time)
        matches = evidence.matches(trial.id)
        if matches is not None:
            events.add_precision_recall(trial, epoch, matches, time)
    events.add_hparams(state, time)
    events.close()


def _pictured(trials: list[Trial], metric: str) -> list[Trial]:
    """The base and the best."""
    best = sorted(trials[1:], key=lambda t: ranking_key(t, metric))
    return [*trials[:1], *best][:MOST_PICTURED]


def write_events(folder: Path) -> None:
    """All event files of a study anew, from its journal.

    Raises: JournalError where the folder is no study.
    """
    _, state = read_study(folder)
    for old in [*folder.glob("events.out.tfevents.*"), *folder.glob("trials/*/events.out.tfevents.*")]:
        old.unlink()
    events = StudyEvents(folder)
    for trial in state.trials.values():
        for epoch in sorted(trial.epochs):
            events.add_epoch(trial.epochs[epoch])
    events.close()
    write_end_of_study(folder)


def summary_views(tables: EventTables) -> list[View]:
    """The trials and the configurations that the event files tell of."""
    trials = sorted(
        tables.trials,
        key=lambda row: (-row["rung"], -row[tables.metric] if row[tables.metric] == row[tables.metric] else 1.0),
    )
    names = list(
        dict.fromkeys(
            [
                "trial",
                "config",
                "role",
                "state",
                "rung",
                "epochs",
                "mAP",
                "AP50",
                tables.metric,
                "seconds",
                *tables.fields,
            ]
        )
    )
    about = "read back from TensorBoard's event files"
    configs = tables.configurations()
    return [
        View("trials", "trials", trials, _columns(names), about, texts=frozenset({"trial", "config", "role", "state"})),
        View("configs", "configurations", configs, _columns(configs[0] if configs else ()), about, texts=frozenset({"config"})),
    ]  # fmt: skip


def _columns(names: Iterable[str]) -> dict[str, Tell]:
    return {name: teller(name) for name in names}


def summarise(folder: Path, kind: str | None) -> int:
    """Prints the tables of a study's event files; returns 1 where they are not those of its journal.

    Raises: JournalError where the folder is no study or has no event files.
    """
    _, state = read_study(folder)
    tables = EventTables(folder)
    print_views(summary_views(tables), kind)
    rows: list[Row] = leaderboard(state)
    wrong = tables.differences(rows, configurations(state))
    for line in wrong:
        print(line, file=sys.stderr)
    print(
        f"{len(tables.trials)} trials; the event files {'differ from' if wrong else 'agree with'} the journal",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m results.tensorboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="study folder, e.g. runs/retinanet-1")
    parser.add_argument(
        "--summary", action="store_true", help="read the event files back and compare them with the journal"
    )
    parser.add_argument("--as", dest="kind", choices=FORMATS, help="of the summary (default: for the terminal)")
    options = parser.parse_args(arguments)
    try:
        if options.summary:
            return summarise(options.run, options.kind)
        write_events(options.run)
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.run}: event files written; tensorboard --logdir {options.run}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
