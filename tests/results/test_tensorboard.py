"""What TensorBoard reads back from a study: scalars per epoch, one HParams session per trial, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from results.records import read_journal, read_plan
from results.state import StudyState
from results.tensorboard import StudyEvents, write_end_of_study
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
    write_end_of_study(study, read_plan(study), state)
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


def test_one_hparams_session_per_scored_trial_grouped_by_configuration(written: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    sessions = [path.parent.name for path in sorted(written.glob("trials/*/events*"))]
    assert set(sessions) == {trial for trial, (_, scores, _) in TRIALS.items() if scores}
    for trial in set(sessions):
        start = hparams(written / "trials" / trial, metadata.SESSION_START_INFO_TAG).session_start_info
        values = TRIALS[trial][0]
        assert start.group_name == BASE.with_values(values).hash()
        assert start.hparams["lr"].number_value == pytest.approx(values.get("lr", BASE.lr))
        assert start.hparams["box_loss"].string_value == values.get("box_loss", BASE.box_loss)
        assert set(start.hparams) == {"lr", "box_loss", "state", "rung"}
        assert hparams(written / "trials" / trial, metadata.SESSION_END_INFO_TAG).session_end_info.end_time_secs > 0
        best = read(written / "trials" / trial).Scalars("best/mAP")
        assert [point.value for point in best] == pytest.approx([max(TRIALS[trial][1])])
    assert (
        hparams(written / "trials" / "stop0006", metadata.SESSION_START_INFO_TAG)
        .session_start_info.hparams["state"]
        .string_value
        == "stopped"
    )


def test_the_experiment_names_fields_and_metrics(written: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    experiment = hparams(written, metadata.EXPERIMENT_TAG).experiment
    assert [info.name for info in experiment.hparam_infos] == ["lr", "box_loss", "state", "rung"]
    assert [info.name.tag for info in experiment.metric_infos] == ["best/mAP", "best/AP50"]


def test_written_again_after_a_resume_there_is_still_one_session_a_trial(written: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    write_end_of_study(written, read_plan(written), state_of(written))
    best = read(written / "trials" / "best0002")
    assert metadata.SESSION_START_INFO_TAG in best.PluginTagToContent(metadata.PLUGIN_NAME)
    assert len(best.Scalars("best/mAP")) == 1
    assert len(list((written / "trials" / "best0002").glob("*.end"))) == 1


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
    write_end_of_study(study, plan, state_of(study))
    shown = read(folder).Images("detections/0")
    assert [(image.step, image.width, image.height) for image in shown] == [(6, 64, 48)]
    assert read(folder).Tags()["images"] == ["detections/0"], "an image that has gone is left out"
    import io

    picture = Image.open(io.BytesIO(shown[0].encoded_image_string)).convert("RGB")
    assert picture.getpixel((4, 4)) == (255, 255, 255)
    assert picture.getpixel((30, 20)) not in [(0, 0, 0), (255, 255, 255)]
    assert picture.getpixel((50, 40)) == (0, 0, 0)
