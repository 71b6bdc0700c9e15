"""A study in TensorBoard: scalars per epoch while it runs; images and an HParams session per trial at its end.

Written with TensorBoard's own event writer, without torch. `tensorboard --logdir runs/<study>` shows a run per trial.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

from results.state import StudyState, Trial
from results.tables import varied_fields

END_SUFFIX = ".end"  # of the event files that are written anew at every end of a study
SCALARS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")
BOX_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")


class StudyEvents:
    """Event files of a study's trials, each opened when it is first written to."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.folder, self.suffix = folder, suffix
        self._writers: dict[str, Any] = {}

    def _writer(self, trial: str) -> Any:
        if trial not in self._writers:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder = self.folder / "trials" / trial if trial else self.folder
            self._writers[trial] = EventFileWriter(str(folder), filename_suffix=self.suffix)
        return self._writers[trial]

    def flush(self) -> None:
        """Puts on disk what was added: a killed study loses no scalar that it journaled."""
        for writer in self._writers.values():
            writer.flush()

    def _add(self, trial: str, summary: Any, step: int, time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer(trial).add_event(Event(wall_time=time, step=step, summary=summary))

    def add_epoch(self, record: dict[str, Any]) -> None:
        """The scalars of one journaled epoch."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = {f"score/{name}": record["metrics"][name] for name in SCALARS}
        scalars |= {f"class/{name}": value for name, value in record["per_class"].items()}
        scalars |= {f"loss/{name}": record[f"{name}_loss"] for name in ("train", "classification", "box")}
        scalars |= {"time/train_seconds": record["train_seconds"], "time/eval_seconds": record["eval_seconds"]}
        scalars["lr"] = record["lr"]
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None and math.isfinite(value) and not (tag.startswith(("score", "class")) and value < 0)
        ]
        self._add(record["trial"], Summary(value=values), record["epoch"], record["time"])

    def add_images(self, plan: dict[str, Any], trial: Trial, epoch: int, time: float) -> None:
        """Detections of the best epoch on the first validation images that have boxes."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for number, (png, height, width) in enumerate(drawn_detections(self.folder, plan, trial.id)):
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            self._add(trial.id, Summary(value=[Summary.Value(tag=f"detections/{number}", image=image)]), epoch, time)

    def add_hparams(self, state: StudyState, time: float) -> None:
        """One HParams session per trial: the fields that varied, and the best epoch's scores; grouped by configuration."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

        fields = varied_fields(state)
        scored = [trial for trial in state.trials.values() if trial.ranked_epoch(state.metric)]
        metrics = tuple(dict.fromkeys(("mAP", "AP50", state.metric)))
        if not scored:
            return
        experiment = api_pb2.Experiment(
            name=self.folder.name,
            time_created_secs=time,
            hparam_infos=[api_pb2.HParamInfo(name=name) for name in [*fields, "state", "rung"]],
            metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"best/{name}")) for name in metrics],
        )
        self._add("", _plugin_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)), 0, time)
        for trial in scored:
            epoch = trial.ranked_epoch(state.metric)
            assert epoch is not None
            values: dict[str, Any] = {name: _hparam(trial.config[name]) for name in fields if name in trial.config}
            values |= {
                "state": state.final_state(trial),
                "rung": float(state.levels[trial.rung] if trial.rung >= 0 else 0),
            }
            start = SessionStartInfo(group_name=trial.config_hash, start_time_secs=time)
            for name, value in values.items():
                _set_value(start.hparams[name], value)
            started = HParamsPluginData(session_start_info=start)
            self._add(trial.id, _plugin_summary(metadata.SESSION_START_INFO_TAG, started), 0, time)
            for name in metrics:
                score = trial.score(name, epoch)
                if not math.isnan(score):
                    self._add(
                        trial.id, Summary(value=[Summary.Value(tag=f"best/{name}", simple_value=score)]), epoch, time
                    )
            end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time)
            ended = HParamsPluginData(session_end_info=end)
            self._add(trial.id, _plugin_summary(metadata.SESSION_END_INFO_TAG, ended), 0, time)

    def close(self) -> None:
        """Writes out and closes all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _plugin_summary(tag: str, content: Any) -> Any:
    """A record of TensorBoard's HParams plugin (its own writer needs tensorflow installed)."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


def _hparam(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _set_value(slot: Any, value: Any) -> None:
    """Fills a protobuf Value with a bool, number or string."""
    if isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, (int, float)):
        slot.number_value = value
    else:
        slot.string_value = value


def write_end_of_study(folder: Path, plan: dict[str, Any], state: StudyState) -> None:
    """Images and HParams sessions of all trials, from the journal and the trials' detection files."""
    time = state.records[-1]["time"]
    # TensorBoard keeps the first word on a session: what an earlier end of this study wrote must go.
    for old in [*folder.glob(f"*{END_SUFFIX}"), *folder.glob(f"trials/*/*{END_SUFFIX}")]:
        old.unlink()
    events = StudyEvents(folder, END_SUFFIX)
    for trial in state.trials.values():
        epoch = trial.ranked_epoch(state.metric)
        if epoch is not None:
            events.add_images(plan, trial, epoch, time)
    events.add_hparams(state, time)
    events.close()


def drawn_detections(folder: Path, plan: dict[str, Any], trial: str) -> list[tuple[bytes, int, int]]:
    """(PNG, height, width) of a few validation images with a trial's best detections: truth thin white, found coloured."""
    from PIL import Image, ImageDraw

    try:
        rows = json.loads((folder / "trials" / trial / "detections.json").read_bytes())
    except (OSError, ValueError):
        return []  # the trial never scored
    drawn: list[tuple[bytes, int, int]] = []
    for shown in plan["shown_images"]:
        with contextlib.suppress(OSError):  # the data has moved: scores stand without pictures
            with Image.open(shown["path"]) as image:
                canvas = image.convert("RGB")
            pen = ImageDraw.Draw(canvas)
            for box in shown["boxes"]:
                pen.rectangle(box, outline="#FFFFFF")
            found = [row for row in rows if row["image_id"] == shown["position"] + 1 and row["score"] >= 0.3]
            for row in found:
                pen.rectangle(
                    _corners(row["bbox"]), outline=BOX_COLOURS[row["category_id"] % len(BOX_COLOURS)], width=2
                )
            out = io.BytesIO()
            canvas.save(out, format="PNG")
            drawn.append((out.getvalue(), canvas.height, canvas.width))
    return drawn


def _corners(bbox: list[float]) -> list[float]:
    return [bbox[0], bbox[1], bbox[0] + max(bbox[2], 0), bbox[1] + max(bbox[3], 0)]
