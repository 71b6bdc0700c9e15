"""`python -m search.status RUN`: how a study stands, while it runs and afterwards: trials, best so far, failures, time to go.

Reads what the study has left where it lives, and may be asked from any machine that sees that.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.commands import command
from results.records import JournalError
from results.state import StudyState, Trial
from results.tables import differences, ranking_key, rung_of
from search.forecast import simulate
from search.options import StudyError
from search.progress import describe_values, seconds_to_go
from search.rungs import make_scheduler
from search.storage.copies import look_at

SHOWN = 24  # trials in the terminal; --json has all
FAILURES = ("failed", "diverged", "infeasible")


def status(where: str | Path, now: float | None = None) -> dict[str, Any]:
    """A study in plain values: state of every trial, best so far, failures, seconds to go (None where nobody can tell).

    Raises: StudyError, JournalError where it is no study; StorageError where it cannot be read.
    """
    plan, state = look_at(where)
    now = time.time() if now is None else now
    trials = list(state.trials.values())
    best = state.best_trial()
    return {
        "name": plan["name"],
        "folder": str(where),
        "kind": plan.get("kind", "search"),
        "ended": state.ended,
        "seconds_since_last_word": round(now - state.records[-1]["time"], 1) if state.records else None,
        "metric": state.metric,
        "trials": len(trials),
        "states": dict(Counter(state_now(state, trial) for trial in trials)),
        "epochs": sum(len(trial.epochs) for trial in trials),
        "best": _best(state, best),
        "failures": [
            {"trial": t.id, "state": t.outcome, "reason": t.reason} for t in trials if t.outcome in FAILURES
        ],
        "eta_seconds": None if state.ended else _to_go(plan, state),
        "rows": [_row(state, t) for t in sorted(trials, key=lambda t: (t.leg_target is None, ranking_key(t, state.metric)))],
    }  # fmt: skip


def state_now(state: StudyState, trial: Trial) -> str:
    """A trial's state while its study runs; afterwards that of the tables."""
    if state.ended or trial.outcome:
        return state.final_state(trial)
    return "running" if trial.leg_target is not None else "paused"


def _best(state: StudyState, best: Trial | None) -> dict[str, Any] | None:
    epoch = best.ranked_epoch(state.metric) if best else None
    if best is None or epoch is None:
        return None
    score = {"mAP": _number(best.score("mAP", epoch)), state.metric: _number(best.score(state.metric, epoch))}
    return {"trial": best.id, "number": best.number, "config": best.config_hash, "epoch": epoch, **score}


def _row(state: StudyState, trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.id, "number": trial.number, "role": trial.role, "state": state_now(state, trial), "seed": trial.seed,
        "rung": rung_of(state, trial), "epoch": trial.last_epoch, "to_epoch": trial.leg_target,
        state.metric: _number(trial.score(state.metric, trial.last_epoch)) if trial.epochs else None,
        "best": _number(trial.ranked_score(state.metric)), "differs": describe_values(differences(state, trial), 4) or trial.step or "base",
    }  # fmt: skip


def _to_go(plan: dict[str, Any], state: StudyState) -> float | None:
    last = state.session
    if not last:
        return None
    scheduler = make_scheduler(plan["scheduler"], state.levels, plan["eta"])
    trials, finalists = last.get("trials", plan["trials"]), plan.get("finalists", 0)
    expected = simulate(scheduler, trials, last["slots"], [1.0], finalists).epochs + last.get(
        "polish", plan.get("polish", 0)
    )
    seconds = seconds_to_go(state, expected, last["slots"])
    return None if math.isnan(seconds) else round(seconds, 1)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def print_status(told: dict[str, Any]) -> None:
    """For people."""
    from rich.console import Console
    from rich.table import Table

    console, metric = Console(), told["metric"]
    best, eta = told["best"], told["eta_seconds"]
    top = (
        f"best {metric} {best[metric]:.3f} (trial {best['number']}, {best['trial']}, epoch {best['epoch']})"
        if best
        else "no score yet"
    )
    states = ", ".join(f"{count} {name}" for name, count in told["states"].items())
    heard = told["seconds_since_last_word"]
    when = (
        f"ended: {told['ended']}"
        if told["ended"]
        else f"last word {heard:.0f} s ago"
        if heard is not None
        else "not a word yet"
    )
    line = f"{told['name']}: {when}; {told['trials']} trials ({states}), {told['epochs']} epochs; {top}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if eta is not None:
        console.print(f"about {eta / 60:.1f} minutes to go", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("trial", "id", "state", "rung", "epoch", metric, "best", "what differs from the base"):
        table.add_column(heading, no_wrap=heading != "what differs from the base")
    for row in told["rows"][:SHOWN]:
        state = f"running to {row['to_epoch']}" if row["state"] == "running" else row["state"]
        scores = ("-" if row[name] is None else f"{row[name]:.3f}" for name in (metric, "best"))
        table.add_row(
            str(row["number"]), row["trial"], state, str(row["rung"]), str(row["epoch"]), *scores, row["differs"]
        )
    console.print(table, highlight=False, markup=False)
    if len(told["rows"]) > SHOWN:
        console.print(f".. and {len(told['rows']) - SHOWN} more: --json", highlight=False)
    for failure in told["failures"]:
        console.print(
            f"{failure['trial']} {failure['state']}: {failure['reason']}", highlight=False, markup=False, soft_wrap=True
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m search.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="study folder, e.g. runs/retinanet-1, or its link, s3://bucket/prefix/NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object (default: for the terminal)")
    options = parser.parse_args(arguments)
    with command(JournalError, StudyError, OSError):
        told = status(options.run)
    if options.json:
        print(json.dumps(told))
    else:
        print_status(told)


if __name__ == "__main__":
    main()
