"""What --resume goes on with, what it may change, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.records import JOURNAL_NAME, JournalError
from search.journal import Journal
from search.options import Options, StudyError
from search.plan import Study, write_plan
from search.resume import resume_plan
from spaces.distributions import Float
from tests.search.builders import planned, say

pytestmark = pytest.mark.usefixtures("two_cores_of_its_own")


class TestResume:
    @pytest.fixture(autouse=True)
    def begun(self, tmp_path: Path, data: Path) -> None:
        self.runs, self.data = tmp_path / "runs", data
        study = planned(tmp_path, data, seed=3)
        self.plan = study.plan
        write_plan(study)

    def resumed(self, **options: Any) -> Study:
        return resume_plan(
            Options(**{"space": "smoke", "runs_dir": str(self.runs), "name": "s", "resume": True, **options}), say
        )

    def test_goes_on_with_the_same_plan(self) -> None:
        study = self.resumed()
        assert study.resumed
        assert study.plan == self.plan
        assert study.space.to_dict() == self.plan["space"]

    def test_trials_and_hours_may_be_extended(self) -> None:
        study = self.resumed(trials=30, max_hours=2.0)
        assert (study.plan["trials"], study.plan["max_hours"]) == (30, 2.0)

    def test_finals_audits_checkpoints_and_failures_may_be_extended(self) -> None:
        asked = {"seeds_final": 3, "top": 2, "audit": 5, "keep": "best", "max_failures": 4}
        plan = self.resumed(**asked).plan
        assert {name: plan[name] for name in asked} == asked

    @pytest.mark.parametrize(("asked", "epochs"), [(True, 27), (False, 0), (None, 0)])
    def test_the_winners_longer_training_may_be_asked_for_later(self, asked: bool | None, epochs: int) -> None:
        """The smoke space's budget names none; --polish takes three times a full training."""
        assert self.resumed(polish=asked).plan["polish"] == epochs

    def test_plain_training_may_be_asked_for_later(self) -> None:
        assert self.resumed().plan["audit_base"] is False
        assert self.resumed(audit_base=True).plan["audit_base"] is True

    def test_a_start_that_the_study_has_is_no_change_and_another_is_refused(self) -> None:
        assert self.resumed(pretrained="none").plan == self.plan
        with pytest.raises(StudyError, match="--pretrained imagenet.*every trial was trained with it"):
            self.resumed(pretrained="imagenet")

    def test_more_epochs_are_one_more_rung_and_a_longer_schedule_for_what_comes(self) -> None:
        study = self.resumed(epochs=20)
        assert (study.levels, study.extend_to) == ([1, 3, 9], 20)
        assert study.space.base.schedule_epochs == 20
        assert study.plan["epochs"] == self.plan["epochs"] == 9, "the frozen plan stays"
        journal = Journal(self.runs / "s" / JOURNAL_NAME)
        journal.append("levels_extended", levels=[1, 3, 9, 20], restart=[])
        journal.close()
        later = self.resumed()
        assert (later.levels, later.extend_to, later.space.base.schedule_epochs) == ([1, 3, 9, 20], None, 20)
        assert self.resumed(epochs=20).extend_to is None, "asked again, it is no change"

    def test_a_space_edit_replaces_the_fields_and_stays(self, tmp_path: Path) -> None:
        (tmp_path / "wider.yaml").write_text("include: smoke\nfields: {lr: {log: [0.0001, 0.1]}}\n")
        study = self.resumed(space_edit=str(tmp_path / "wider.yaml"))
        assert list(study.space.fields) == ["lr"]
        assert study.space.fields["lr"] == Float(1e-4, 0.1, log=True)
        assert study.space.base.to_dict() == self.plan["space"]["base"]
        journal = Journal(self.runs / "s" / JOURNAL_NAME)
        journal.append("session_started", trials=12, max_hours=None, fields=study.plan["fields"])
        journal.close()
        assert list(self.resumed().space.fields) == ["lr"]

    def test_what_repeats_the_plan_is_no_change(self) -> None:
        study = self.resumed(
            seed=3, metric="mAP", epochs=9, sampler="tpe", scheduler="asha", data=str(self.data), profile="cpu"
        )
        assert study.plan == self.plan

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 4}, {"metric": "AP50"}, {"epochs": 8}, {"prune_on": "best"}, {"rank_on": "last"}, {"sampler": "random"}, {"scheduler": "none"}, {"eta": 2}, {"grace": 2},
            {"set_fields": ["lr=0.5"]}, {"data": "/elsewhere"}, {"profile": "gpu"}, {"skip_bad": True}, {"official_eval": True},
        ],
        ids=lambda change: next(iter(change)),
    )  # fmt: skip
    def test_what_would_change_the_plan_is_refused_by_name(self, change: dict[str, Any]) -> None:
        option = "--" + next(iter(change)).replace("_", "-").replace("-fields", "")
        with pytest.raises(StudyError, match=option):
            self.resumed(**change)

    def test_a_refusal_says_what_the_study_has_and_why_it_stays(self) -> None:
        with pytest.raises(
            StudyError, match=r"--metric AP50 \(the study has mAP\): its rungs have judged by it.*\n.*--reuse"
        ):
            self.resumed(metric="AP50")

    def test_changed_data_is_refused(self) -> None:
        for split in ("train", "val"):
            content = json.loads((self.data / f"{split}.json").read_text())
            content["annotations"][0]["bbox"] = [5, 5, 30, 30]
            content["annotations"][0]["area"] = 900
            (self.data / f"{split}.json").write_text(json.dumps(content))
        with pytest.raises(StudyError, match=r"fingerprint.*would not compare"):
            self.resumed()

    def test_without_a_study_there_is_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="holds no study"):
            self.resumed(name="other")
        with pytest.raises(StudyError, match="there is no study of space smoke"):
            self.resumed(name=None, runs_dir=str(tmp_path / "empty"))

    def test_what_an_earlier_session_extended_stays_extended(self) -> None:
        journal = Journal(self.runs / "s" / JOURNAL_NAME)
        journal.append("session_started", trials=40, max_hours=2.5)
        journal.close()
        plan = self.resumed().plan
        assert (plan["trials"], plan["max_hours"]) == (40, 2.5)
        assert self.resumed(trials=50).plan["trials"] == 50

    def test_wrong_options_are_refused_as_for_a_new_study(self) -> None:
        with pytest.raises(StudyError, match="--trials must be positive, got -5"):
            self.resumed(trials=-5)

    def test_a_torn_plan_beside_is_passed_over(self) -> None:
        (self.runs / "torn").mkdir()
        (self.runs / "torn" / "study.json").write_text("{")
        assert self.resumed(name=None).folder.name == "s"

    def test_without_a_name_the_newest_of_the_space_goes_on(self, tmp_path: Path) -> None:
        import os

        os.utime(self.runs / "s" / "study.json", (0, 0))
        for number, name in enumerate(("smoke-1", "smoke-2", "smoke-3")):
            study = planned(tmp_path, self.data, name=name)
            write_plan(study)
            os.utime(study.folder / "study.json", (number, 100 - abs(number - 1)))
        assert self.resumed(name=None).folder.name == "smoke-2"

    def test_a_torn_plan_is_said(self) -> None:
        (self.runs / "s" / "study.json").write_text('{"format": 1,')
        with pytest.raises(JournalError, match=r"study\.json"):
            self.resumed()
