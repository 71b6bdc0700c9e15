"""What TensorBoard reads back from a study: scalars per epoch, one HParams session per trial, pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from results.events import PR_THRESHOLDS, StudyEvents, steps_of
from results.evidence import Evidence
from results.records import read_journal, read_plan
from results.state import StudyState
from results.tensorboard import write_end_of_study
from tests.results.conftest import BASE, TRIALS


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def state_of(folder: Path) -> StudyState:
    return StudyState.of_plan(read_plan(folder), read_journal(folder / "journal.jsonl"))


@pytest.fixture
def written(study: Path) -> Path:
    """The study with its epochs written as they came, and its end."""
    state = state_of(study)
    events = StudyEvents(study)
    for record in state.records:
        if record["event"] == "epoch":
            events.add_epoch(record)
    events.close()
    write_end_of_study(study)
    return study


def hparams(folder: Path, tag: str) -> Any:
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    contents = read(folder).PluginTagToContent(metadata.PLUGIN_NAME)
    return HParamsPluginData.FromString(contents[tag])


@pytest.mark.parametrize("trial", [trial for trial, (_, scores, _) in TRIALS.items() if scores])
def test_scalars_are_the_journals_epochs(written: Path, trial: str) -> None:
    scores = TRIALS[trial][1]
    events = read(written / "trials" / trial)
    points = events.Scalars("score/mAP")
    assert [point.step for point in points] == list(range(1, len(scores) + 1))
    assert [point.value for point in points] == pytest.approx(scores)
    journal = [r for r in read_journal(written / "journal.jsonl") if r["event"] == "epoch" and r["trial"] == trial]
    assert [point.wall_time for point in points] == [record["time"] for record in journal]
    tags = set(events.Tags()["scalars"])
    assert {
        "score/AP50",
        "class/car",
        "loss/train",
        "loss/classification",
        "loss/box",
        "lr",
        "time/train_seconds",
        "time/eval_seconds",
    } <= tags
    assert "score/AP_large" not in tags, "-1 is COCO's word for nothing there"
    assert "class/tram" not in tags
    assert events.Scalars("loss/box")[0].value == pytest.approx(0.5)


def test_null_is_no_point(study: Path) -> None:
    record = next(record for record in read_journal(study / "journal.jsonl") if record["event"] == "epoch")
    events = StudyEvents(study)
    events.add_epoch({**record, "train_loss": None})
    events.close()
    tags = read(study / "trials" / record["trial"]).Tags()["scalars"]
    assert "loss/train" not in tags
    assert "loss/box" in tags


def session(folder: Path, trial: str) -> Any:
    from tensorboard.plugins.hparams import metadata

    return hparams(folder / "trials" / trial, metadata.SESSION_START_INFO_TAG).session_start_info


def test_one_hparams_session_per_trial_grouped_by_configuration(written: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata

    assert {path.parent.name for path in written.glob("trials/*/events*")} == set(TRIALS)
    for trial, (values, scores, how) in TRIALS.items():
        start = session(written, trial)
        assert start.group_name == BASE.with_values(values).hash()
        assert start.hparams["lr"].number_value == pytest.approx(values.get("lr", BASE.lr))
        assert start.hparams["box_loss"].string_value == values.get("box_loss", BASE.box_loss)
        assert set(start.hparams) == {"lr", "box_loss", "role", "state", "rung"}
        assert start.hparams["role"].string_value == "search"
        end = hparams(written / "trials" / trial, metadata.SESSION_END_INFO_TAG).session_end_info
        assert end.end_time_secs >= start.start_time_secs > 0
        assert (end.status == api_pb2.STATUS_FAILURE) == (how in ("diverged", "failed"))
        tags = read(written / "trials" / trial).Tags()["scalars"]
        assert ("best/mAP" in tags) == bool(scores)
    assert session(written, "stop0006").hparams["state"].string_value == "stopped"
    assert session(written, "best0002").hparams["rung"].number_value == 9
    assert session(written, "base0001").hparams["state"].string_value == "pruned"
    assert session(written, "base0001").hparams["rung"].number_value == 3


def test_metrics_are_of_the_ranked_epoch_and_not_of_the_last(written: Path) -> None:
    scores = TRIALS["best0002"][1]
    best = read(written / "trials" / "best0002").Scalars("best/mAP")
    assert [(point.step, point.value) for point in best] == [(6, pytest.approx(max(scores)))]
    assert scores[-1] < max(scores)


def test_seeds_of_a_configuration_are_one_group(finals: Path) -> None:
    write_end_of_study(finals)
    starts = [session(finals, trial) for trial in ("best0002", "b1", "b2", "b3")]
    assert len({start.group_name for start in starts}) == 1
    assert [start.hparams["seed"].number_value for start in starts] == [0, 1, 2, 3]
    assert [start.hparams["role"].string_value for start in starts] == ["search", "final", "final", "final"]


def test_the_experiment_names_fields_and_metrics(written: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    experiment = hparams(written, metadata.EXPERIMENT_TAG).experiment
    assert [info.name for info in experiment.hparam_infos] == ["lr", "box_loss", "role", "state", "rung"]
    assert [info.name.tag for info in experiment.metric_infos] == ["best/mAP", "best/AP50"]


def test_written_again_after_a_resume_there_is_still_one_session_a_trial(written: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    write_end_of_study(written)
    best = read(written / "trials" / "best0002")
    assert metadata.SESSION_START_INFO_TAG in best.PluginTagToContent(metadata.PLUGIN_NAME)
    assert len(best.Scalars("best/mAP")) == 1
    assert len(list((written / "trials" / "best0002").glob("*.end"))) == 1


def test_a_resumed_trial_draws_one_line(study: Path) -> None:
    """Two sessions write two files of one run: every epoch is one point, in order."""
    records = [record for record in state_of(study).records if record["event"] == "epoch"]
    first, second = records[:4], records[4:]
    for session_records in (first, second):
        events = StudyEvents(study)
        for record in session_records:
            events.add_epoch(record)
        events.close()
    folder = study / "trials" / "best0002"
    assert len(list(folder.glob("events*"))) == 2
    points = read(folder).Scalars("score/mAP")
    assert [point.step for point in points] == list(range(1, 10))
    assert [point.value for point in points] == pytest.approx(TRIALS["best0002"][1])


def test_a_point_that_a_crash_cut_off_is_added_on_resume(study: Path) -> None:
    state = state_of(study)
    records = [record for record in state.records if record["event"] == "epoch"]
    events = StudyEvents(study)
    for record in records[:-2]:  # the last two were journaled, not drawn
        events.add_epoch(record)
    events.close()
    again = StudyEvents(study)
    again.catch_up(state)
    again.close()
    for trial, (_, scores, _) in TRIALS.items():
        if scores:
            assert [point.step for point in read(study / "trials" / trial).Scalars("lr")] == list(
                range(1, len(scores) + 1)
            )
    twice = StudyEvents(study)
    twice.catch_up(state)
    assert twice._files == {}, "what is there is not drawn again"


def test_another_trials_seconds_are_not_this_ones(study: Path) -> None:
    record = next(record for record in read_journal(study / "journal.jsonl") if record["event"] == "epoch")
    events = StudyEvents(study)
    events.add_epoch({**record, "taken_over": True})
    events.close()
    tags = read(study / "trials" / record["trial"]).Tags()["scalars"]
    assert not any(tag.startswith("time/") for tag in tags)
    assert steps_of(study / "trials" / record["trial"]) == {record["epoch"]}
    assert steps_of(study / "trials" / "nobody") == set()


def test_precision_and_recall_by_threshold(seen: Path) -> None:
    from tensorboard.plugins.pr_curve import metadata
    from tensorboard.util.tensor_util import make_ndarray

    write_end_of_study(seen)
    folder = seen / "trials" / "best0002"
    evidence = Evidence(seen)
    matches = evidence.matches("best0002")
    assert matches is not None
    events = read(folder)
    tags = events.PluginTagToContent(metadata.PLUGIN_NAME)
    assert set(tags) == {"class/car/pr_curves", "class/tram/pr_curves"}
    assert metadata.parse_plugin_metadata(tags["class/car/pr_curves"]).num_thresholds == PR_THRESHOLDS
    (point,) = events.Tensors("class/car/pr_curves")
    assert point.step == 6
    true, false, _, missed, precision, recall = make_ndarray(point.tensor_proto)
    car = matches.classes[0]
    boxes = car.boxes.sum()
    counts = ~car.ignored[0]  # what lies on a crowd is neither
    assert counts.sum() < len(counts)
    assert (true + missed == boxes).all()
    for at in (0, 60):
        from_here = counts & (car.score >= np.linspace(0, 1, PR_THRESHOLDS)[at])
        assert (true[at], true[at] + false[at]) == (car.matched[0][from_here].sum(), from_here.sum())
    assert recall == pytest.approx(true / boxes)
    assert precision[0] == pytest.approx(true[0] / (true[0] + false[0]))


def test_pictures_show_the_best_epochs_detections(study: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    plan = read_plan(study)
    plan["shown_images"] = [
        {"position": 0, "path": str(tmp_path / "gone.png"), "boxes": [[1.0, 1.0, 2.0, 2.0]]},
        {"position": 1, "path": str(tmp_path / "a.png"), "boxes": [[4.0, 4.0, 14.0, 14.0]]},
    ]
    folder = study / "trials" / "best0002"
    folder.mkdir(parents=True)
    row = {"image_id": 2, "category_id": 1, "bbox": [30.0, 20.0, 12.0, 9.0], "score": 0.8}
    (folder / "detections.json").write_text(json.dumps([row]))
    (study / "study.json").write_text(json.dumps(plan))
    write_end_of_study(study)
    shown = read(folder).Images("detections/0")
    assert [(image.step, image.width, image.height) for image in shown] == [(6, 64, 48)]
    assert read(folder).Tags()["images"] == ["detections/0"], "an image that has gone is left out"
    picture = Image.open(io.BytesIO(shown[0].encoded_image_string)).convert("RGB")
    assert picture.getpixel((4, 4)) == (255, 255, 255)
    assert picture.getpixel((30, 20)) not in [(0, 0, 0), (255, 255, 255)]
    assert picture.getpixel((50, 40)) == (0, 0, 0)
