"""Spaces by name and from users' files: loaded, and refused in words where they are wrong."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.config import ConfigError
from spaces.distributions import Choice, Fitted, Float, Integer, SpaceError, When
from spaces.loading import load_space
from spaces.space import (
    resolve,
)
from tests.spaces.test_space import PHOTOS, STREET


class TestWrongSpaceFiles:
    def refused(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(SpaceError) as caught:
            load_space(str(path))
        return str(caught.value)

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("box_loss: {choice: [smooth_l1, diou]}", "box_loss must be one of smooth_l1, giou, ciou, got 'diou'"),
            ("trunk: {float: [1, 2]}", "trunk must be str"),
            ("lr: {log: [0.1, 500]}", r"lr must lie in [1e-09, 100], got 500.0"),
            ("head_depth: {integer: [a, b]}", "fields.head_depth"),
        ],
    )
    def test_what_a_field_cannot_be_is_refused_with_its_place(self, tmp_path: Path, entry: str, said: str) -> None:
        message = self.refused(tmp_path, f"include: smoke\nfields:\n  {entry}\n")
        assert said in message
        assert "mine" in message

    @pytest.mark.parametrize("value", ["many", "0", "1.5", "true"])
    def test_a_budget_counts_in_whole_numbers(self, tmp_path: Path, value: str) -> None:
        message = self.refused(tmp_path, f"include: smoke\nbudget: {{trials: {value}}}\nfields: {{}}\n")
        assert "budget.trials must be a whole number from 1 on" in message

    def test_a_file_that_includes_itself_is_refused(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, f"include: {tmp_path / 'mine.yaml'}\nfields: {{}}\n")
        assert "must not include itself" in message


class TestLoadByName:
    def test_an_unknown_space_names_all_and_the_nearest(self) -> None:
        with pytest.raises(
            SpaceError, match=r'"retinanett" is no space; there are .*smoke.*Did you mean "retinanet"\?'
        ):
            load_space("retinanett")

    def test_a_module_that_is_no_space_is_none(self) -> None:
        with pytest.raises(SpaceError, match="is no space"):
            load_space("fitting")


class TestYaml:
    def write(self, folder: Path, content: Any) -> str:
        path = folder / "mine.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    def test_a_space_with_every_kind(self, tmp_path: Path) -> None:
        fields = {
            "focal_gamma": {"float": [1, 2.5]},
            "lr": {"log": [0.0001, 0.01]},
            "head_depth": {"integer": [0, 2]},
            "anchor_scales": {"choice": [[1.0], [1.0, 1.5]]},
            "anchor_sizes": {"fitted": [0.5, 2.0]},
        }
        content = {
            "include": "smoke",
            "about": "mine",
            "base": {"batch_size": 2},
            "budget": {"trials": 5},
            "fields": fields,
        }
        space = load_space(self.write(tmp_path, content))
        smoke = load_space("smoke")
        assert (space.name, space.about) == ("mine", "mine")
        cpu = space.profiles["cpu"]
        assert cpu.budget == replace(smoke.profiles["cpu"].budget, trials=5)
        assert cpu.base == {**smoke.profiles["cpu"].base, "batch_size": 2}
        assert dict(cpu.fields) == {
            "focal_gamma": Float(1.0, 2.5), "lr": Float(1e-4, 1e-2, log=True), "head_depth": Integer(0, 2),
            "anchor_scales": Choice((1.0,), (1.0, 1.5)), "anchor_sizes": Fitted(0.5, 2.0),
        }  # fmt: skip
        assert resolve(space, "cpu", PHOTOS).base.batch_size == 2

    def test_numbers_without_a_point_are_numbers(self, tmp_path: Path) -> None:
        text = "include: smoke\nbase: {weight_decay: 1e-4}\nfields: {lr: {log: [1e-4, 1e-2]}}\n"
        space = load_space(self.write(tmp_path, text))
        assert space.profiles["cpu"].fields["lr"] == Float(1e-4, 1e-2, log=True)
        assert resolve(space, "cpu", STREET).base.weight_decay == 1e-4

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"fields": {"focal_gama": {"float": [1, 2]}}}, 'Did you mean "focal_gamma"'),
            ({"base": {"bach_size": 2}, "fields": {}}, 'Did you mean "batch_size"'),
            ({"fields": {"lr": {"float": [2, 1]}}}, r"fields\.lr: .*low <= high"),
            ({"fields": {"lr": {"log": [0, 1]}}}, r"fields\.lr: .*positive"),
            ({"fields": {"lr": {"float": ["a", 1]}}}, r"fields\.lr"),
            ({"fields": {"lr": {"float": [1]}}}, r"fields\.lr"),
            ({"fields": {"lr": {"normal": [0, 1]}}}, r"fields\.lr must be a constant or one of"),
            ({"fields": {"lr": [0.1, 0.2]}}, r"fields\.lr: .*must be float.* A range is one of"),
            ({"fields": {"zoom_max": {"quantised": [0, 0.4, 0]}}}, r"fields\.zoom_max: .*step must be positive"),
            ({"fields": {"lr": {"log": [1e-4, 1], "only_if": "sgd"}}}, r"only_if must be \{field: value\}"),
            ({"fields": {}, "constraints": "lr < 1"}, "constraints must be a list"),
            ({"fields": {}, "constraints": ["lr <"]}, "must be one expression"),
            ({"fields": {}, "constraints": ["rl < 1"]}, "is not a DetectorConfig field"),
            ({"fields": {}, "constraints": ["__import__('os') == 1"]}, "may use fields, numbers"),
            ({"fields": {"lr": {"choice": []}}}, r"fields\.lr: .*at least one option"),
            ({"fields": ["lr"]}, "fields must be a mapping"),
            (["lr"], "must have `fields:`"),
            ({"fields": {}, "include": "nothing"}, '"nothing" is no space'),
            ({"fields": {}, "budget": {"trails": 5}}, "budget has 'trails'"),
            ("fields: {lr: [", "must be YAML"),
            ("", "must have `fields:`"),
            ({"fields": {}, "base": ["lr"]}, "base"),
        ],
    )
    def test_mistakes_are_space_errors_that_name_the_file_or_field(
        self, tmp_path: Path, content: Any, said: str
    ) -> None:
        path = self.write(tmp_path, content)
        with pytest.raises(SpaceError, match=said):
            load_space(path)

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            (4, "include: smoke\nfields:\n  lr: {log: [0.001, 0.01]}\n  head_depth: {integer: [a, b]}\n"),
            (3, "include: smoke\nfields:\n  bach_size: 4\n"),
            (3, "include: smoke\nbudget:\n  trials: many\nfields: {}\n"),
            (4, "include: smoke\nfields: {}\nconstraints:\n  - lr < bach_size\n"),
            (4, "chain:\n  - {name: a, change: {lr: 1}}\n\n  - {name: b, changes: {lr: 2}}\n"),
            (2, "include: smoke\nfeilds: {}\nfields: {}\n"),
        ],
    )
    def test_a_mistake_is_told_with_its_line(self, tmp_path: Path, line: int, text: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(SpaceError, match=rf"mine\.yaml, line {line}: "):
            load_space(path)

    def test_conditions_constants_steps_and_constraints(self, tmp_path: Path) -> None:
        text = (
            "include: smoke\nfields:\n  optimizer: {choice: [adamw, sgd]}\n  batch_size: 4\n  head_depth: {integer: [0, 3]}\n"
            "  zoom_max: {quantised: [0, 0.4, 0.1]}\n  sgd_momentum: {float: [0.8, 0.99], only_if: {optimizer: sgd}}\n"
            "constraints: ['head_depth * head_channels <= 32', increasing(anchor_scales)]\n"
        )
        space = resolve(load_space(self.write(tmp_path, text)), "cpu", STREET)
        assert space.base.batch_size == 4
        assert space.fields["zoom_max"] == Float(0.0, 0.4, step=0.1)
        assert space.fields["sgd_momentum"] == When("optimizer", {"sgd": Float(0.8, 0.99)})
        assert space.config({"head_depth": 2}).head_depth == 2  # 2 x 16 channels
        with pytest.raises(ConfigError, match=r"head_depth \* head_channels <= 32.*got head_depth=3, head_channels=16"):
            space.config({"head_depth": 3})
        assert type(space).from_dict(space.to_dict()).constraints == space.constraints

    @pytest.mark.parametrize("section", ["base", "budget"])
    def test_an_empty_section_says_nothing_or_is_refused_but_never_crashes(self, tmp_path: Path, section: str) -> None:
        path = self.write(tmp_path, f"include: smoke\n{section}:\nfields: {{}}\n")
        with contextlib.suppress(SpaceError):
            assert getattr(load_space(path).profiles["cpu"], section) == getattr(
                load_space("smoke").profiles["cpu"], section
            )

    def test_fitted_is_refused_for_what_no_dataset_gives(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"include": "smoke", "fields": {"lr": {"fitted": [0.5, 2.0]}}})
        with pytest.raises(SpaceError, match="lr"):
            resolve(load_space(path), "cpu", STREET)

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match=r"nowhere\.yaml: must be a readable file"):
            load_space(str(tmp_path / "nowhere.yaml"))


class TestPythonFiles:
    def test_a_file_with_space_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text(
            "from dataclasses import replace\nfrom spaces.distributions import Float\nfrom spaces.smoke import SPACE as SMOKE\n"
            "cpu = replace(SMOKE.profiles['cpu'], fields={'lr': Float(1e-3, 1e-2)})\n"
            "SPACE = replace(SMOKE, name='mine', profiles={'cpu': cpu, 'gpu': cpu})\n"
        )
        space = load_space(str(path))
        assert space.name == "mine"
        assert resolve(space, "cpu", STREET).fields == {"lr": Float(1e-3, 1e-2)}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("SPACES = 1\n", "must define SPACE"),
            ("SPACE = {'lr': 1}\n", "must define SPACE"),
            ("import nothing_of_that_name\n", "ModuleNotFoundError"),
            ("x = 1 / 0\n", "ZeroDivisionError: division by zero"),
            ("SPACE = (\n", "SyntaxError"),
            ("from spaces.distributions import Float\nFloat(2, 1)\n", "low <= high"),
        ],
    )
    def test_mistakes_are_space_errors_that_name_the_file(self, tmp_path: Path, text: str, said: str) -> None:
        path = tmp_path / "mine.py"
        path.write_text(text)
        with pytest.raises(SpaceError, match=rf"mine\.py: .*{said}"):
            load_space(str(path))

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match="there is no such file"):
            load_space(str(tmp_path / "nowhere.py"))
