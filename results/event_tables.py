"""A study's tables from its TensorBoard event files alone, and where they differ from those of its journal."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from results.events import OF_A_TRIAL, told
from results.records import JournalError
from results.tables import MEASURED, Row

TOLERANCE = 1e-6  # event files hold single precision
SCORES = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class EventTables:
    """What the HParams sessions and scalars of a study's event files say."""

    def __init__(self, folder: Path) -> None:
        """Reads all event files of a study folder.

        Raises: JournalError where they hold no experiment.
        """
        experiment = _hparams(_read(folder)).get("experiment")
        if experiment is None:
            raise JournalError(
                f"{folder}: must hold TensorBoard event files with an HParams experiment; write them by python -m results.tensorboard {folder}"
            )
        metrics = [info.name.tag.removeprefix("best/") for info in experiment.metric_infos]
        self.metric = metrics[0]
        self.fields = [info.name for info in experiment.hparam_infos if info.name not in OF_A_TRIAL]
        self.trials = [row for path in sorted((folder / "trials").iterdir()) if (row := _trial(path, metrics))]

    def configurations(self) -> list[Row]:
        """A row a configuration: n, mean and spread of the study's metric, on fresh seeds where there are any."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in self.trials:
            if row["role"] in ("search", "final", "ablation"):
                groups[row["config"]].append(row)
        found = []
        for config, rows in groups.items():
            fresh = [row for row in rows if row["role"] == "final" and row["state"] in MEASURED]
            counted = fresh or [row for row in rows if row["role"] != "final"]
            scores = [
                0.0 if row["role"] == "final" and row["state"] == "diverged" else row[self.metric] for row in counted
            ]
            there = [score for score in scores if not math.isnan(score)]
            mean = statistics.fmean(there) if there else math.nan
            sd = statistics.stdev(there) if len(there) > 1 else math.nan
            found.append({"config": config, "n": len(there), f"{self.metric}_mean": mean, f"{self.metric}_sd": sd})
        return found

    def differences(self, leaderboard: list[Row], configurations: list[Row]) -> list[str]:
        """Where these tables are not those of the journal, in words; nothing where they agree."""
        return [
            *_differences("trial", self.trials, leaderboard),
            *_differences("config", self.configurations(), configurations),
        ]


def _read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    return events


def _hparams(events: Any) -> dict[str, Any]:
    """The HParams records of a run: experiment, session_start_info, session_end_info."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        contents = events.PluginTagToContent(metadata.PLUGIN_NAME)
    except KeyError:
        return {}
    found = {}
    for content in contents.values():
        record = HParamsPluginData.FromString(content)
        kind = record.WhichOneof("data")
        found[kind] = getattr(record, kind)
    return found


def _trial(folder: Path, metrics: list[str]) -> Row | None:
    """A trial's row; None for one without a session."""
    events = _read(folder)
    start = _hparams(events).get("session_start_info")
    if start is None:
        return None
    if not set(OF_A_TRIAL) <= set(start.hparams):
        raise JournalError(
            f"{folder}: its event files are from an older version; write them anew by python -m results.tensorboard RUN"
        )
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    tags = set(events.Tags()["scalars"])

    def points(tag: str) -> dict[int, float]:
        return {point.step: point.value for point in events.Scalars(tag)} if tag in tags else {}

    best = points(f"best/{metrics[0]}")
    epoch = next(iter(best), 0)
    seconds = sum(sum(points(f"time/{part}_seconds").values()) for part in ("train", "eval"))
    row: Row = {"trial": folder.name, "config": start.group_name, **{name: values.pop(name) for name in OF_A_TRIAL}}
    row |= {"rung": int(row["rung"]), "epochs": max(points("lr"), default=0), "best_epoch": epoch, "seconds": seconds}
    row |= {name: points(f"score/{name}").get(epoch, math.nan) for name in SCORES}
    row |= {name: points(f"best/{name}").get(epoch, math.nan) for name in metrics}
    return {**row, **values}


def _differences(key: str, here: list[Row], there: list[Row]) -> list[str]:
    """Of rows by their key, in the columns that both tables have."""
    known = {row[key]: row for row in there}
    told_of = {row[key] for row in here}
    found = [f"{key} {name} is not in the event files" for name in known if name not in told_of]
    for row in here:
        if row[key] not in known:
            found.append(f"{key} {row[key]} is not in the journal")
            continue
        other = known[row[key]]
        found += [
            f"{key} {row[key]}: {name} is {value} in the event files, {other[name]} in the journal"
            for name, value in row.items()
            if name in other and not _same(value, other[name])
        ]
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether a value read back is that of the journal, to single precision; COCO's -1 was not written and reads as NaN."""
    if isinstance(one, float):
        other = math.nan if other is None or other == -1.0 else float(other)
        return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == (other if isinstance(one, int) and not isinstance(one, bool) else told(other)))
