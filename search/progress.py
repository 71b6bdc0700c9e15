"""What a running study shows: one live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from results.state import StudyState, Trial
from results.tables import differences

ROWS_SHOWN = 24


class Progress:
    """Follows a study's state; `refresh` after every change."""

    def __init__(self, state: StudyState, expected_epochs: float, slots: int, console: Console) -> None:
        self.state, self.expected_epochs, self.slots, self.console = state, expected_epochs, slots, console
        self.live: Live | None = None
        self.started = time.monotonic()
        self._printed = len(state.records)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(self.table(), console=self.console, refresh_per_second=2, get_renderable=self.table)
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.live is not None:
            self.live.__exit__(*error)

    def refresh(self) -> None:
        """Takes up what is new in the state."""
        if self.live is not None:
            self.live.refresh()
            return
        for record in self.state.records[self._printed :]:
            line = self.line(record)
            if line:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._printed = len(self.state.records)

    def line(self, record: dict[str, Any]) -> str:
        """A record in one plain line; "" for what a person need not see."""
        trial = self.state.trials.get(record.get("trial", ""))
        if trial is None:
            return ""
        name = f"[{time.strftime('%H:%M:%S')}] trial {trial.number:>3} {trial.id}"
        if trial.step:
            name += f" {trial.step} seed {trial.seed}"
        match record["event"]:
            case "epoch":
                score = trial.score(self.state.metric, record["epoch"])
                best = self.state.best_trial()
                top = f"{best.ranked_score(self.state.metric):.3f} (trial {best.number})" if best else "-"
                return (
                    f"{name}: epoch {record['epoch']:>2}  {self.state.metric} {_number(score)}  best {top}  "
                    f"{record['seconds']:.1f} s  ETA {self.eta()}"
                )
            case "promoted":
                return f"{name}: promoted to epoch {record['to_epoch']}"
            case "leg_ended" if record["outcome"] in ("diverged", "error", "lost", "infeasible", "failed"):
                return f"{name}: {record['outcome']}: {record.get('reason', '')}"
        return ""

    def eta(self) -> str:
        """Minutes to go."""
        seconds = seconds_to_go(self.state, self.expected_epochs, self.slots)
        return "-" if math.isnan(seconds) else f"{seconds / 60:.1f} min"

    def table(self) -> Table:
        """The live table: running trials first, then the best of the others."""
        metric = self.state.metric
        best = self.state.best_trial()
        done = sum(len(t.epochs) for t in list(self.state.trials.values()))
        top = f"best {metric} {best.ranked_score(metric):.3f} (trial {best.number})" if best else "no score yet"
        passed = f"{(time.monotonic() - self.started) / 60:.1f} min"
        table = Table(title=f"{len(self.state.trials)} trials, {done} epochs, {top}, {passed} passed, ETA {self.eta()}")
        for heading in ("trial", "id", "state", "rung", "epoch", metric, "best", "what differs from the base"):
            table.add_column(heading, no_wrap=heading != "what differs from the base", overflow="ellipsis")
        trials = sorted(self.state.trials.values(), key=lambda t: (t.leg_target is None, -t.rung, -_rank(t, metric)))
        for trial in trials[:ROWS_SHOWN]:
            table.add_row(*self._row(trial), style="bold" if trial.leg_target is not None else None)
        return table

    def _row(self, trial: Trial) -> list[str]:
        metric = self.state.metric
        last = trial.score(metric, trial.last_epoch) if trial.epochs else math.nan
        state = f"running to {trial.leg_target}" if trial.leg_target is not None else trial.outcome or "paused"
        rung = str(self.state.levels[trial.rung]) if trial.rung >= 0 else "-"
        return [
            str(trial.number), trial.id, state, rung, str(trial.last_epoch), _number(last),
            _number(trial.ranked_score(metric)), self._about(trial),
        ]  # fmt: skip

    def _about(self, trial: Trial) -> str:
        if trial.step:
            return f"{trial.step}, seed {trial.seed}"
        return describe_values(differences(self.state, trial), 4) or "base"


def seconds_to_go(state: StudyState, expected_epochs: float, slots: int) -> float:
    """From the mean epoch so far and the epochs that the plan expects; NaN before any."""
    trials = list(state.trials.values())  # a live table reads while the driver writes
    records = [record for trial in trials for record in trial.epochs.values()]
    if not records:
        return math.nan
    mean = sum(record["seconds"] for record in records) / len(records)
    running = [trial.leg_target - trial.last_epoch for trial in trials if trial.leg_target is not None]
    planned = max(expected_epochs - len(records), float(sum(running)))
    return float(mean * max(planned / slots, float(max(running, default=0))))


def describe_values(values: dict[str, Any], most: int | None = None) -> str:
    """`name=value` pairs for people, short numbers."""
    shown = list(values.items())[:most]
    more = ", .." if most is not None and len(values) > most else ""
    return ", ".join(f"{name}={short(value)}" for name, value in shown) + more


def short(value: Any) -> str:
    """A value for people: four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "(" + " ".join(short(item) for item in value) + ")"
    return str(value)


def _number(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"


def _rank(trial: Trial, metric: str) -> float:
    score = trial.ranked_score(metric)
    return -1.0 if math.isnan(score) else score
