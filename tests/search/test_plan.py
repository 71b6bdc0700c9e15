"""From options to the frozen plan: refusals in words, data found and checked."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detector.config import ConfigError
from detector.data.dataset import DataError
from search.grid import grid_size
from search.options import Options, StudyError
from search.plan import write_plan
from search.resume import EXTENDS, resume_plan
from search.storage.data import source_here
from spaces.distributions import SpaceError
from spaces.space import ResolvedSpace
from tests.search.builders import planned, say

pytestmark = pytest.mark.usefixtures("two_cores_of_its_own")


class TestMakePlan:
    def test_the_plan_holds_what_a_resume_needs(self, tmp_path: Path, data: Path) -> None:
        study = planned(tmp_path, data)
        plan = study.plan
        assert json.loads(json.dumps(plan)) == plan, "plain JSON values"
        assert {
            "space",
            "seed",
            "metric",
            "levels",
            "trials",
            "source",
            "dataset",
            "versions",
            "commit",
            "command",
        } <= plan.keys()
        assert (plan["levels"], plan["trials"], plan["seed"], plan["metric"]) == ([1, 3, 9], 12, 0, "mAP")
        assert plan["dataset"]["train_images"] == 3
        assert plan["dataset"]["val_images"] == 2
        assert ResolvedSpace.from_dict(plan["space"]).to_dict() == plan["space"] == study.space.to_dict()
        assert not study.folder.exists(), "nothing is written yet"

    def test_epochs_are_the_top_rung_and_the_schedule(self, tmp_path: Path, data: Path) -> None:
        study = planned(tmp_path, data, epochs=4)
        assert study.plan["levels"] == [1, 3, 4]
        assert study.space.base.schedule_epochs == 4

    def test_epochs_below_the_spaces_grace_are_one_rung(self, tmp_path: Path, data: Path) -> None:
        assert planned(tmp_path, data, epochs=1).plan["levels"] == [1]

    def test_a_schedule_that_was_set_is_kept(self, tmp_path: Path, data: Path) -> None:
        assert planned(tmp_path, data, epochs=4, set_fields=["schedule_epochs=20"]).space.base.schedule_epochs == 20

    def test_none_has_one_rung(self, tmp_path: Path, data: Path) -> None:
        assert planned(tmp_path, data, scheduler="none").plan["levels"] == [9]

    def test_a_set_field_is_fixed_and_not_searched(self, tmp_path: Path, data: Path) -> None:
        study = planned(tmp_path, data, set_fields=["lr=0.002"])
        assert study.space.base.lr == 0.002
        assert "lr" not in study.space.fields
        assert "focal_alpha" in study.space.fields

    def test_a_class_may_be_the_metric(self, tmp_path: Path, data: Path) -> None:
        assert planned(tmp_path, data, metric="class:car").plan["metric"] == "class:car"

    def test_a_grid_has_room_for_the_base_and_every_combination(self, tmp_path: Path, data: Path) -> None:
        study = planned(tmp_path, data, sampler="grid", set_fields=["lr=0.002", "head_shared=true", "focal_alpha=0.3"])
        combinations = grid_size(study.space.fields)
        assert combinations == 3 * 2  # anchor_sizes, box_loss
        low, middle, high = study.space.fields["anchor_sizes"].grid(3)  # type: ignore[union-attr]
        assert study.space.base.anchor_sizes not in (low, middle, high)
        assert study.plan["trials"] == combinations + 1, "trial 1 is the base, which is none of the grid's"

    @pytest.mark.parametrize("trials", [None, 20])
    def test_a_grid_without_end_is_refused_before_anything_starts(
        self, tmp_path: Path, data: Path, trials: int | None
    ) -> None:
        with pytest.raises((StudyError, SpaceError), match="combinations"):
            planned(tmp_path, data, space="retinanet_wide", sampler="grid", trials=trials)

    def test_a_class_that_the_validation_split_lacks_cannot_be_the_metric(self, tmp_path: Path, data: Path) -> None:
        for split in ("train", "val"):
            content = json.loads((data / f"{split}.json").read_text())
            content["categories"].append({"id": 2, "name": "tram"})
            (data / f"{split}.json").write_text(json.dumps(content))
        with pytest.raises(StudyError, match="class:tram: the validation split has no box of that class"):
            planned(tmp_path, data, metric="class:tram")

    def test_a_roll_of_images_that_are_no_full_turn_is_refused(self, tmp_path: Path, data: Path) -> None:
        with pytest.raises(ConfigError, match="roll_probability=0.5 needs images that are a full turn"):
            planned(tmp_path, data, set_fields=["roll_probability=0.5"])

    def test_weights_that_cannot_be_had_are_refused_before_anything_starts(self, tmp_path: Path, data: Path) -> None:
        with pytest.raises(ConfigError, match=r"pretrained='.*no\.pt' must be none, imagenet, coco or a readable file"):
            planned(tmp_path, data, set_fields=["pretrained=no.pt"])

    def test_a_weights_file_goes_into_the_plan_by_its_absolute_path_and_content(
        self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "w.pt").write_bytes(b"weights")
        monkeypatch.chdir(tmp_path)
        plan = planned(tmp_path, data, set_fields=["pretrained=w.pt"]).plan
        digest = hashlib.sha256(b"weights").hexdigest()[:16]
        assert plan["space"]["base"]["pretrained"] == f"{tmp_path / 'w.pt'}#sha256={digest}"

    def test_a_runs_dir_that_is_a_file_is_refused(self, tmp_path: Path, data: Path) -> None:
        with pytest.raises(StudyError, match="--runs-dir .*train.json: must be a folder"):
            planned(tmp_path, data, runs_dir=str(data / "train.json"))

    def test_images_to_show_are_the_first_with_boxes(self, tmp_path: Path, data: Path) -> None:
        shown = planned(tmp_path, data).plan["shown_images"]
        assert [(row["position"], Path(row["path"]).name) for row in shown] == [(0, "val1.png"), (1, "val2.png")]
        assert shown[0]["boxes"] == [[10.0, 10.0, 32.0, 26.0]]  # 22 x 16 at (10, 10)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"profile": "tpu"}, "--profile must be one of auto, cpu, gpu, got 'tpu'"),
            ({"sampler": "bayes"}, "--sampler must be one of tpe, random, grid, qmc, gp, nsga2, cmaes, got 'bayes'"),
            ({"scheduler": "hyperband"}, "--scheduler must be one of asha, asha_stop, none"),
            ({"trials": 0}, "--trials must be positive, got 0"),
            ({"epochs": -1}, "--epochs must be positive"),
            ({"max_hours": 0.0}, "--max-hours must be positive"),
            ({"name": "a/b"}, "--name must be a plain folder name"),
            ({"name": ".."}, "--name must be a plain folder name"),
            ({"eta": 1}, "--eta must be at least 2"),
            ({"eta": 0}, "--eta must be at least 2"),
            ({"grace": 0}, "--grace must lie in"),
            ({"grace": 10}, "--grace 10 --epochs 9"),
            ({"metric": "accuracy"}, "--metric must be one of mAP"),
            ({"metric": "class:tram"}, "classes are car"),
            ({"concurrent": 3}, "--concurrent 3 does not fit"),
            ({"concurrent": 0}, "--concurrent"),
            ({"concurrent": -1}, "--concurrent"),
            ({"cpus_per_trial": 0.0}, "--cpus-per-trial must lie in"),
            ({"gpus_per_trial": -1.0}, "--gpus-per-trial"),
            ({"gpus_per_trial": 1.0}, "--gpus-per-trial 1 asks for more GPUs"),
            ({"train_images": "x"}, "not both"),
            ({"data": None, "train_images": "x"}, "go together"),
            ({"cache": "some"}, "--cache must be one of auto, decoded, encoded, off, got 'some'"),
            ({"cache_limit": -1.0}, "--cache-limit must be a number of GB, 0 or more, got -1.0"),
        ],
    )
    def test_options_that_cannot_be_are_refused_with_the_value(
        self, tmp_path: Path, data: Path, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises((StudyError, DataError), match=said):
            planned(tmp_path, data, **options)

    @pytest.mark.parametrize(
        ("options", "mode", "words"),
        [
            ({}, "decoded", "decoded: a memory map of .* GB .* fit: .* are allowed .half of what is free."),
            (
                {"cache_limit": "the files"},
                "encoded",
                r"encoded: one file of .* ms of a core each, .* \(--cache-limit\)",
            ),
            ({"cache_limit": 0.0}, "off", "off: the image files themselves; every epoch decodes its images"),
            ({"cache": "encoded"}, "encoded", "as asked"),
        ],
    )
    def test_the_plan_says_how_images_are_kept_and_workers_are_told(
        self, tmp_path: Path, data: Path, options: dict[str, Any], mode: str, words: str
    ) -> None:
        for file in (data / "images").iterdir():  # the fixture's noise takes more in a PNG than decoded
            Image.new("RGB", Image.open(file).size).save(file)
        if options.get("cache_limit") == "the files":
            options = {"cache_limit": sum(file.stat().st_size for file in (data / "images").iterdir()) / 1e9}
        study = planned(tmp_path, data, **options)
        settled = source_here(study.plan["source"])
        assert settled["cache"] == {"mode": mode, "limit_gb": None}
        limit = options.get("cache_limit")
        asked = {"mode": options.get("cache", "auto") if limit is None else mode, "limit_gb": limit}
        elsewhere = {**study.plan["source"], "settled": {"host": "another", "mode": mode}}
        assert source_here(elsewhere)["cache"] == asked, "a node with other room settles it for itself"
        assert re.search(words, study.images_words), study.images_words

    def test_a_resume_may_keep_images_in_another_way(self, tmp_path: Path, data: Path) -> None:
        first = planned(tmp_path, data, cache="off")
        write_plan(first)
        again = Options(runs_dir=str(first.folder.parent), name=first.folder.name, resume=True)
        assert resume_plan(again, say).plan["source"]["settled"]["mode"] == "off"
        again.cache = "encoded"
        study = resume_plan(again, say)
        assert study.plan["source"]["settled"]["mode"] == "encoded"
        assert "cache" in EXTENDS, "which the session's journal record holds, for the next resume"
        assert study.plan["dataset"] == first.plan["dataset"], "what was trained on is the same"

    def test_a_missing_data_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="must be a folder"):
            planned(tmp_path, tmp_path / "nowhere")

    def test_a_folder_that_holds_a_study_is_not_planned_over(self, tmp_path: Path, data: Path) -> None:
        write_plan(planned(tmp_path, data))
        with pytest.raises(StudyError, match="holds a study already"):
            planned(tmp_path, data)

    def test_more_canvases_than_three_are_refused(self, tmp_path: Path, data: Path) -> None:
        sizes = [[64, 64], [64, 96], [96, 96], [96, 128]]
        (tmp_path / "many.yaml").write_text(
            yaml.safe_dump({"include": "smoke", "fields": {"image_size_px": {"choice": sizes}}})
        )
        with pytest.raises(SpaceError, match="at most 3 canvases"):
            planned(tmp_path, data, space=str(tmp_path / "many.yaml"))

    def test_four_data_options_name_the_same_data(self, tmp_path: Path, data: Path) -> None:
        named = {
            "data": None,
            "train_annotations": str(data / "train.json"), "train_images": str(data / "images"),
            "val_annotations": str(data / "val.json"), "val_images": str(data / "images"),
        }  # fmt: skip
        assert (
            planned(tmp_path, data, **named).plan["dataset"]["fingerprint"]
            == planned(tmp_path, data).plan["dataset"]["fingerprint"]
        )


def test_describe_dataset_is_what_the_summary_needs(tmp_path: Path, data: Path) -> None:
    told = planned(tmp_path, data).plan["dataset"]
    assert {"name", "fingerprint", "train_images", "val_images", "classes"} <= told.keys()
    assert told["classes"] == ["car"]
    assert (told["train_images"], told["val_images"], told["train_boxes"]) == (3, 2, 3)
    assert len(told["fingerprint"]) == 16


def test_a_base_on_the_extended_split_is_planned_on_it(tmp_path: Path, data: Path) -> None:
    content = json.loads((data / "val.json").read_text())
    for row in content["images"]:
        name = f"more_{row['file_name']}"
        (data / "images" / name).write_bytes((data / "images" / row["file_name"]).read_bytes())
        row["file_name"] = name
    (data / "extended.json").write_text(json.dumps(content))
    plain, extended = planned(tmp_path, data), planned(tmp_path, data, set_fields=["train_split=extended"])
    assert (plain.plan["dataset"]["train_images"], extended.plan["dataset"]["train_images"]) == (3, 5)
    assert plain.plan["dataset"]["fingerprint"] != extended.plan["dataset"]["fingerprint"]
    write_plan(extended)
    options = Options(space="smoke", runs_dir=str(tmp_path / "runs"), name="s", resume=True)
    assert resume_plan(options, say).plan["dataset"] == extended.plan["dataset"]


def test_weights_of_another_number_than_the_classes_are_refused_before_a_trial(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"a weight for each of 1 scores"):
        planned(tmp_path, data, set_fields=["focal_alpha=[0.2, 0.8]"])


def test_the_chain_runs_on_data_without_an_extended_split(tmp_path: Path, data: Path) -> None:
    study = planned(tmp_path, data, space="tdt4265_report", kind="ablation", profile="cpu", seeds=2)
    assert [step.name for step in study.steps][-2:] == ["+adam", "+6000_iterations"]
    assert study.plan["trials"] == 20
    assert any(note.startswith("+extended_data is left out: there are no more") for note in study.space.notes)
