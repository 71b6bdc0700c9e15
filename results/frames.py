"""A study as pandas frames: `results.load("runs/A").trials`, `.epochs`, `.decisions`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.state import STATES, StudyState, read_study
from results.tables import ROLES, leaderboard, show, varied_fields

if TYPE_CHECKING:
    import pandas as pd

WHOLE = "Int64"  # pandas' integers that may be missing


def load(folder: str | Path) -> StudyFrames:
    """The study of a folder, read from its journal as it is now.

    Raises: JournalError where the folder is no study.
    """
    place = Path(folder)
    return StudyFrames(place, *read_study(place))


class StudyFrames:
    """A study's folder, plan (study.json) and replayed state, and frames made from them when they are first asked for."""

    def __init__(self, folder: Path, plan: dict[str, Any], state: StudyState) -> None:
        self.folder, self.plan, self.state = folder, plan, state

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A row a trial, as leaderboard.csv, best first; the index is its id.

        | column | dtype |
        |---|---|
        | config, step | string |
        | role, state | category, of all there can be |
        | number, seed, rung, epochs, best_epoch | Int64; rung and best_epoch missing where there was none |
        | mAP, AP50, .. of the ranked epoch, seconds | float64; missing where COCO says -1 |
        | a column a field that varied | Int64, float64, boolean; string for choices that are no numbers |
        """
        import pandas as pd

        rows = leaderboard(self.state)
        names = list(dict.fromkeys(name for row in rows for name in row)) or ["trial"]
        frame = pd.DataFrame(rows, columns=names, dtype=object)  # else a whole number with gaps would become a float
        fields = varied_fields(self.state)
        for name in frame.columns:
            frame[name] = _typed(frame[name], name, name in fields)
        for name in ("rung", "best_epoch"):
            if name in frame:
                frame[name] = frame[name].mask(frame[name] == 0)
        return frame.set_index("trial")

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """A row an epoch of a trial, in order of the journal; the index is (trial, epoch).

        | column | dtype |
        |---|---|
        | time | datetime64[.., UTC], when it was journaled |
        | mAP, AP50, .., `AP <class>` | float64; missing where COCO says -1 |
        | train_loss, classification_loss, box_loss, lr, train_seconds, eval_seconds, seconds | float64 |
        | leg, threads | Int64 |
        | taken_over, absorbed | boolean: trained by the trial or the study that it goes on from; read from a checkpoint |
        | other numbers of a record, e.g. cpu_seconds of recorded curves | float64 |
        """
        import pandas as pd

        rows = []
        for record in self.state.records:
            if record["event"] == "epoch" and self.state.trials[record["trial"]].epochs[record["epoch"]] is record:
                plain = {
                    name: value for name, value in record.items() if not isinstance(value, dict) and name != "event"
                }
                classes = {f"AP {name}": value for name, value in record["per_class"].items()}
                scores = {name: _score(value) for name, value in {**record["metrics"], **classes}.items()}
                rows.append({**plain, **scores, "taken_over": bool(record.get("taken_over", False))})
        frame = pd.DataFrame(
            rows, columns=list(dict.fromkeys(name for row in rows for name in row)) or ["trial", "epoch"]
        )
        for name in frame.columns:
            if name == "time":
                frame[name] = pd.to_datetime(frame[name], unit="s", utc=True)
            elif name in ("epoch", "leg", "threads"):
                frame[name] = frame[name].astype(WHOLE)
            elif name in ("taken_over", "absorbed"):
                frame[name] = frame[name].astype("boolean")
            elif name != "trial":
                frame[name] = frame[name].astype("float64")
        return frame.set_index(["trial", "epoch"])

    @functools.cached_property
    def decisions(self) -> pd.DataFrame:
        """A row a journal line that is no epoch, in order: what was proposed, created, promoted, begun, ended and why.

        | column | dtype |
        |---|---|
        | time | datetime64[.., UTC] |
        | event, trial, outcome, reason | string; missing where the line has none |
        | rung, to_epoch, number | Int64: index of the rung promoted from, epochs to train to, number of the proposal |
        """
        import pandas as pd

        words, numbers = ["event", "trial", "outcome", "reason"], ["rung", "to_epoch", "number"]
        rows = [record for record in self.state.records if record["event"] != "epoch"]
        frame = pd.DataFrame([{name: row.get(name) for name in ["time", *words, *numbers]} for row in rows])
        if frame.empty:
            frame = pd.DataFrame(columns=["time", *words, *numbers])
        frame["time"] = pd.to_datetime(frame["time"].astype("float64"), unit="s", utc=True)
        return frame.astype(dict.fromkeys(words, "string") | dict.fromkeys(numbers, WHOLE))


def _score(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _typed(column: Any, name: str, is_field: bool) -> Any:
    """A leaderboard's column with the dtype that the docstring promises."""
    import pandas as pd

    if name in ("role", "state"):
        return pd.Categorical(column, categories=list(ROLES if name == "role" else STATES))
    if not is_field:
        if name in ("trial", "config", "step"):
            return column.astype("string")
        if name in ("number", "seed", "rung", "epochs", "best_epoch"):
            return column.astype(WHOLE)
        values = pd.to_numeric(column)
        return values.astype("float64") if name == "seconds" else values.astype("float64").mask(values < 0)
    there = [value for value in column if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return column.astype("boolean")
    if there and all(isinstance(value, int) and not isinstance(value, bool) for value in there):
        return column.astype(WHOLE)
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return pd.to_numeric(column).astype("float64")
    return column.map(lambda value: None if value is None else show(value)).astype("string")
