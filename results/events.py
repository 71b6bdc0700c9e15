"""TensorBoard's event files of a study, written with its own event writer and without torch or tensorflow.

A run a trial: scalars per epoch while the study runs; pictures, precision-recall curves and an HParams session at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from results.event_file import EventFile
from results.matching import Matches
from results.state import StudyState, Trial
from results.tables import varied_fields

SCALARS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")
OF_A_TRIAL = ("role", "state", "rung")  # told of every session beside the fields that varied
PR_THRESHOLDS = 127  # scores at which a precision-recall curve is told
LATELY = 32  # journaled epochs before a crash that may lack their point


class StudyEvents:
    """Event files of a study's trials, each opened when it is first written to."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.folder, self.suffix = folder, suffix
        self._files: dict[str, EventFile] = {}

    def _file(self, trial: str) -> EventFile:
        if trial not in self._files:
            self._files[trial] = EventFile(self.folder / "trials" / trial if trial else self.folder, self.suffix)
        return self._files[trial]

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _add(self, trial: str, value: Any, step: int, time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = value if isinstance(value, list) else [value]
        self._file(trial).add(Event(wall_time=time, step=step, summary=Summary(value=values)))

    def add_epoch(self, record: dict[str, Any]) -> None:
        """The scalars of one journaled epoch; the seconds of one that another trial trained are not this one's."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = {f"score/{name}": record["metrics"].get(name) for name in SCALARS}
        scalars |= {f"class/{name}": value for name, value in record["per_class"].items()}
        scalars |= {f"loss/{name}": record[f"{name}_loss"] for name in ("train", "classification", "box")}
        if not record.get("taken_over"):
            scalars |= {"time/train_seconds": record["train_seconds"], "time/eval_seconds": record["eval_seconds"]}
        scalars["lr"] = record["lr"]
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None and math.isfinite(value) and not (tag.startswith(("score", "class")) and value < 0)
        ]
        self._add(record["trial"], values, record["epoch"], record["time"])

    def catch_up(self, state: StudyState, everything: bool = False) -> None:
        """Adds the points of epochs that a crash cut off between their journal line and their event; of all epochs, where
        the files themselves may have been lost with a machine.

        A resumed trial goes on in another file of the same run, and so draws one line.
        """
        epochs = [record for record in state.records if record["event"] == "epoch"]
        lately = epochs if everything else epochs[-LATELY:]
        there = {trial: steps_of(self.folder / "trials" / trial) for trial in {record["trial"] for record in lately}}
        for record in lately:
            first = state.trials[record["trial"]].epochs[record["epoch"]]
            if record is first and record["epoch"] not in there[record["trial"]]:
                self.add_epoch(record)

    def add_pictures(self, trial: Trial, epoch: int, pictures: Iterable[tuple[bytes, int, int]], time: float) -> None:
        """(PNG, height, width) of validation images with the ranked epoch's detections."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for number, (png, height, width) in enumerate(pictures):
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            self._add(trial.id, Summary.Value(tag=f"detections/{number}", image=image), epoch, time)

    def add_precision_recall(self, trial: Trial, epoch: int, matches: Matches, time: float) -> None:
        """A curve at IoU 0.5 for each class that has boxes, by the score from which on a detection counts."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.pr_curve import metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        thresholds = np.linspace(0.0, 1.0, PR_THRESHOLDS)
        for name, kind in zip(matches.class_names, matches.classes, strict=True):
            boxes = int(kind.boxes.sum())
            if not boxes:
                continue
            true, false = kind.counts_at(thresholds)
            precision = true / np.maximum(true + false, 1e-9)
            nothing = np.zeros_like(true)  # what is no box is not counted: there is no true negative
            rows = np.stack([true, false, nothing, boxes - true, precision, true / boxes]).astype(np.float32)
            about = metadata.create_summary_metadata(
                f"precision and recall of {name}", f"IoU 0.5, {boxes} boxes", PR_THRESHOLDS
            )
            value = Summary.Value(tag=f"class/{name}/pr_curves", metadata=about, tensor=make_tensor_proto(rows))
            self._add(trial.id, value, epoch, time)

    def add_hparams(self, state: StudyState, time: float) -> None:
        """One HParams session per trial: the fields that varied and what became of it, the ranked epoch's scores; trials of
        one configuration are a group, so that its seeds stand together."""
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        if not state.trials:
            return
        names = columns_of(state)
        rows = [hparams_of(state, trial, names) for trial in state.trials.values()]
        metrics = tuple(dict.fromkeys((state.metric, "mAP", "AP50")))  # the first is what the study ranks by
        experiment = api_pb2.Experiment(
            name=self.folder.name,
            time_created_secs=time,
            hparam_infos=[_column(name, [row[name] for row in rows if name in row]) for name in names],
            metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"best/{name}")) for name in metrics],
        )
        self._add("", _plugin_value(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)), 0, time)
        for trial in state.trials.values():
            self._add_session(state, trial, names, metrics, time)

    def _add_session(
        self, state: StudyState, trial: Trial, names: Sequence[str], metrics: Sequence[str], time: float
    ) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

        times = [record["time"] for record in trial.epochs.values()] or [time]
        start = SessionStartInfo(group_name=trial.config_hash, start_time_secs=min(times))
        for name, value in hparams_of(state, trial, names).items():
            _set_value(start.hparams[name], value)
        started = HParamsPluginData(session_start_info=start)
        self._add(trial.id, _plugin_value(metadata.SESSION_START_INFO_TAG, started), 0, time)
        epoch = trial.ranked_epoch(state.metric)
        for name in metrics if epoch is not None else ():
            assert epoch is not None
            score = trial.score(name, epoch)
            if not math.isnan(score):
                self._add(trial.id, Summary.Value(tag=f"best/{name}", simple_value=score), epoch, time)
        failed = state.final_state(trial) in ("failed", "diverged", "infeasible")
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        ended = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=max(times)))
        self._add(trial.id, _plugin_value(metadata.SESSION_END_INFO_TAG, ended), 0, time)


def columns_of(state: StudyState) -> list[str]:
    """The names of the HParams table's columns: fields, seed and step where they varied, then what became of a trial."""
    trials = state.trials.values()
    seeds, steps = {trial.seed for trial in trials}, {trial.step for trial in trials}
    return [*varied_fields(state), *["seed"] * (len(seeds) > 1), *["step"] * (len(steps) > 1), *OF_A_TRIAL]


def hparams_of(state: StudyState, trial: Trial, names: Sequence[str]) -> dict[str, bool | float | str]:
    """A trial's row of the HParams table."""
    values: dict[str, Any] = {
        **trial.config, "seed": trial.seed, "step": trial.step, "role": trial.role, "state": state.final_state(trial),
        "rung": state.levels[trial.rung] if trial.rung >= 0 else 0,
    }  # fmt: skip
    return {name: told(values[name]) for name in names if name in values}


def told(value: Any) -> bool | float | str:
    """A value as the HParams table holds it."""
    if isinstance(value, (bool, str)):
        return value
    return float(value) if isinstance(value, (int, float)) else str(value)


def steps_of(folder: Path) -> set[int]:
    """The steps of the training losses that a trial's event files hold; losses are told of every epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(folder.glob("events.out.tfevents.*")):
        return set()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    return {point.step for point in events.Scalars("lr")} if "lr" in events.Tags()["scalars"] else set()


def _column(name: str, values: Sequence[bool | float | str]) -> Any:
    """A column of the HParams table with the values that it takes: without them its filters have nothing to offer."""
    from google.protobuf.struct_pb2 import ListValue
    from tensorboard.plugins.hparams import api_pb2

    info = api_pb2.HParamInfo(name=name)
    if all(isinstance(value, float) for value in values):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        interval = api_pb2.Interval(min_value=min(values, default=0.0), max_value=max(values, default=0.0))
        info.domain_interval.CopyFrom(interval)
        return info
    switches = all(isinstance(value, bool) for value in values)
    info.type = api_pb2.DATA_TYPE_BOOL if switches else api_pb2.DATA_TYPE_STRING
    options = ListValue()
    options.extend(sorted(set(values) if switches else {str(value) for value in values}))
    info.domain_discrete.CopyFrom(options)
    return info


def _plugin_value(tag: str, content: Any) -> Any:
    """A record of TensorBoard's HParams plugin (its own writer needs tensorflow installed)."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)


def _set_value(slot: Any, value: bool | float | str) -> None:
    """Fills a protobuf Value with a bool, number or string."""
    if isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, float):
        slot.number_value = value
    else:
        slot.string_value = value
