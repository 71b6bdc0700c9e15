"""Ablations between two configurations of a study: their steps lead from one to the other, on seeds of their own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from detector.config import ConfigError, DetectorConfig
from results.ablation import FIRST
from results.path import PathStep
from results.state import read_study
from search.journal import Journal
from search.options import Options, StudyError
from search.path import leave_one_out, newest_search, path_steps
from search.plan import Study, make_plan, write_plan
from tests.search.builders import planned, say, train_all, write_dataset

BASE = DetectorConfig()
TARGET = BASE.with_values({"head_depth": BASE.head_depth + 1, "head_shared": not BASE.head_shared, "lr": 0.003})


def ablation(folder: Path, **options: Any) -> Study:
    values = {"kind": "ablation", "path": ["base", "best"], "runs_dir": str(folder.parent), **options}
    return make_plan(Options(**values), say)


def test_steps_lead_from_the_base_to_the_best(searched: Path) -> None:
    study = ablation(searched)
    _, state = read_study(searched)
    best = state.best_trial("search")
    assert best is not None
    steps = study.steps
    assert (steps[0].name, steps[0].values) == ("base", {})
    assert study.space.base.hash() == next(iter(state.trials.values())).config_hash
    assert study.space.base.with_values(steps[-1].values).hash() == best.config_hash
    for above, step in itertools.pairwise(steps):
        assert step.values == {**above.values, **step.changes}
    hashes = [study.space.base.with_values(step.values).hash() for step in steps]
    assert len(set(hashes)) == len(hashes)


def test_it_trains_at_the_studys_length_on_seeds_that_it_has_not_used(searched: Path) -> None:
    study = ablation(searched, seeds=2)
    plan, state = read_study(searched)
    assert study.levels == [state.levels[-1]]
    assert study.plan["seed"] == max(trial.seed for trial in state.trials.values()) + 1 == plan["seed"] + 1
    assert study.plan["trials"] == 2 * len(study.steps)
    assert study.plan["dataset"]["fingerprint"] == plan["dataset"]["fingerprint"]
    assert study.plan["path"] == ["base", "best"]
    assert study.plan["study"] == str(searched)
    assert study.plan["name"].startswith("s-path-")
    shorter = ablation(searched, epochs=2)
    assert shorter.space.base.schedule_epochs == 2
    assert shorter.levels == [2]


def test_the_other_way_and_trials_by_name(searched: Path) -> None:
    _, state = read_study(searched)
    best = state.best_trial("search")
    assert best is not None
    study = ablation(searched, path=[best.id, "base"])
    assert study.space.base.hash() == best.config_hash
    assert study.space.base.with_values(study.steps[-1].values).hash() == next(iter(state.trials.values())).config_hash


def test_a_config_file_is_an_end(searched: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{box_loss: giou, image_size_px: [320, 320]}")
    study = ablation(searched, path=["base", str(file)])
    ends = study.space.base.with_values(study.steps[-1].values)
    assert ends.box_loss == "giou"
    assert ends.image_size_px == study.space.base.image_size_px, "the canvas is the study's"


def test_what_is_fixed_is_no_step(searched: Path) -> None:
    study = ablation(searched, set_fields=["lr=0.002"])
    assert study.space.base.lr == 0.002
    assert not any("lr" in step.changes for step in study.steps)


def test_leave_one_out_compares_everything_with_the_best(searched: Path) -> None:
    study = ablation(searched, path=None, leave_one_out=True)
    assert study.plan["compare"] == FIRST
    whole = study.steps[0]
    assert whole.name == "best"
    for step in study.steps[1:]:
        assert set(whole.values) - set(step.values) == set(step.changes)
        assert step.name == "".join(f"-{name}" for name in step.changes)
    assert sum(len(step.changes) for step in study.steps[1:]) == len(whole.values)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"path": ["base", "nobody"]}, StudyError, "--path nobody: must be base, best, a trial or a config of"),
        ({"path": ["base", "base"]}, StudyError, "both are the same configuration"),
        ({"path": ["base", "gone.yaml"]}, ConfigError, "--path gone.yaml: must be a readable file"),
        ({"data": "elsewhere"}, StudyError, "--data: --path and --leave-one-out take space, data and trainer from the study"),
        ({"space": "retinanet"}, StudyError, "--space: --path and --leave-one-out take space"),
        ({"seeds": 0}, StudyError, "--seeds must be positive"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_told(searched: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ablation(searched, **options)


def test_changed_data_is_told(searched: Path, tmp_path: Path) -> None:
    told: list[str] = []
    content = json.loads((tmp_path / "data/train.json").read_text())
    content["annotations"][0]["bbox"][2] += 5
    (tmp_path / "data/train.json").write_text(json.dumps(content))
    make_plan(Options(kind="ablation", path=["base", "best"], runs_dir=str(searched.parent)), told.append)
    assert any("its order of steps may not hold here" in line for line in told)


def test_the_newest_search_is_meant(searched: Path, tmp_path: Path) -> None:
    assert newest_search(searched.parent) == searched
    write_plan(ablation(searched, name="later"))
    assert newest_search(searched.parent) == searched, "an ablation is no search"
    with pytest.raises(StudyError, match="name a study's folder with --study"):
        newest_search(tmp_path / "empty")


WAY = [
    PathStep({}, 0.1),
    PathStep({"head_shared": TARGET.head_shared}, 0.15, gain=0.05),
    PathStep({"lr": 0.003}, 0.151, gain=0.001),
    PathStep({"head_depth": TARGET.head_depth}, 0.15, gain=-0.001),
]


def test_what_is_expected_to_matter_little_is_one_step() -> None:
    steps, notes = path_steps(WAY, BASE.with_values)
    assert [step.name for step in steps] == ["base", "+head_shared", "+lr+head_depth"]
    assert steps[1].about == "predicted +0.050 at the first rung"
    assert steps[2].changes == {"lr": 0.003, "head_depth": TARGET.head_depth}
    assert not notes


def test_what_makes_no_detector_of_its_own_is_left_out_and_said() -> None:
    base = BASE.with_values({"match_iou_low": 0.1, "match_iou_high": 0.2})
    way = [
        PathStep({}, 0.1),
        PathStep({"match_iou_high": 0.7}, 0.2, gain=0.1),
        PathStep({"match_iou_low": 0.6}, 0.3, gain=0.1),
    ]
    steps, notes = leave_one_out(way, base, base.with_values)
    assert [step.name for step in steps] == ["best", "-match_iou_low"], (
        "without the upper bound the lower one stands above it"
    )
    assert len(notes) == 1
    assert notes[0].startswith("-match_iou_high is left out:")


def test_seeds_of_finals_are_not_used_again(searched: Path) -> None:
    _, state = read_study(searched)
    best = state.best_trial("search")
    assert best is not None
    journal = Journal(searched / "journal.jsonl")
    for seed in (1, 2, 3):
        journal.append(
            "trial_created", trial=f"final{seed}", role="final", config_hash=best.config_hash, config=best.config, varied=best.varied,
            seed=seed, proposal=None, of=best.id, to_epoch=9,
        )  # fmt: skip
    journal.close()
    assert ablation(searched).plan["seed"] == 4


def test_what_needs_a_later_change_goes_with_it_and_is_named(tmp_path: Path) -> None:
    base = BASE.with_values({"match_iou_low": 0.1, "match_iou_high": 0.2})
    way = [
        PathStep({}, 0.1),
        PathStep({"match_iou_low": 0.6}, 0.2, gain=0.1),  # cannot be before the upper bound has risen
        PathStep({"head_depth": TARGET.head_depth}, 0.25, gain=0.05),
        PathStep({"match_iou_high": 0.7}, 0.3, gain=0.05),
    ]
    steps, notes = path_steps(way, base.with_values)
    assert [step.changes for step in steps[1:]] == [
        {"match_iou_low": 0.6, "head_depth": TARGET.head_depth, "match_iou_high": 0.7}
    ]
    assert notes == []
    cut, told = path_steps(way[:2], base.with_values)
    assert [step.name for step in cut] == ["base"]
    assert told == ["match_iou_low left out: no step with it can be built"]


def test_a_constraint_of_the_space_leaves_a_step_out() -> None:
    def build(values: Any) -> DetectorConfig:
        if "head_shared" not in values and "lr" in values:
            raise ConfigError("the space's constraint must hold")
        return BASE.with_values(values)

    steps, notes = leave_one_out(WAY, BASE, build)
    assert [step.name for step in steps] == ["best", "-lr", "-head_depth"]
    assert notes == ["-head_shared is left out: the space's constraint must hold"]


def test_nobody_is_said_to_have_predicted_what_nobody_could(tmp_path: Path) -> None:
    study = planned(tmp_path, write_dataset(tmp_path / "data"), trials=3)
    write_plan(study)
    train_all(study)
    other = list(read_study(study.folder)[1].trials)[-1]
    made = ablation(study.folder, path=["base", other])
    assert all(step.about == "" for step in made.steps)
    assert any("too few trials to predict" in note for note in made.space.notes)
    assert all(len(step.changes) <= 2 for step in made.steps), "each change by itself"


def test_a_budget_in_seconds_is_the_epochs_that_the_best_had(searched: Path) -> None:
    plan = json.loads((searched / "study.json").read_text())
    plan["budget_unit"] = "seconds"
    (searched / "study.json").write_text(json.dumps(plan))
    best = read_study(searched)[1].best_trial()
    assert best is not None
    lines = (searched / "journal.jsonl").read_text().splitlines()
    lines.insert(
        len(lines) - 1,
        json.dumps(
            {"event": "trial_probed", "time": 0.0, "trial": best.id, "seconds_per_epoch": 2.0, "levels": [1, 3, 7]}
        ),
    )
    (searched / "journal.jsonl").write_text("\n".join(lines) + "\n")
    assert ablation(searched).levels == [7]
