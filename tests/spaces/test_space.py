"""Every space of the package, and those that users write: loaded, checked, completed by a dataset, written down."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.config import FIELD_NAMES, ConfigError
from spaces.distributions import Choice, Fitted, Float, Integer, SpaceError, When
from spaces.fitting import DatasetFacts
from spaces.space import (
    FITTED,
    Budget,
    Profile,
    ResolvedSpace,
    Space,
    StreetData,
    check_space,
    load_space,
    resolve,
    space_names,
)

# Half a sweep and a whole one of the street, and photographs of 4:3.
STREET = DatasetFacts(
    ((128, 512),) * 4, ((20.0, 12.0), (30.0, 14.0), (16.0, 40.0), (12.0, 12.0)), (0, 1, 2, 3), full_turn=False
)
FULL_TURN = replace(STREET, image_sizes=((128, 1024),) * 4, full_turn=True)
PHOTOS = DatasetFacts(((480, 640),) * 3, ((100.0, 80.0), (200.0, 210.0), (60.0, 150.0)), (0, 1, 2))
DATASETS = {"street": STREET, "full turn": FULL_TURN, "photos": PHOTOS}

CASES = [(name, profile) for name in space_names() for profile in load_space(name).profiles]


def cases_of(entry: Any) -> list[Any]:
    return list(entry.cases.values()) if isinstance(entry, When) else [entry]


class TestEverySpace:
    def test_there_are_spaces(self) -> None:
        assert {"retinanet", "smoke"} <= set(space_names())
        assert "space" not in space_names()
        assert "distributions" not in space_names()

    @pytest.mark.parametrize("name", space_names())
    def test_it_says_what_it_is_and_has_both_profiles(self, name: str) -> None:
        space = load_space(name)
        assert space.name == name
        assert space.about
        assert set(space.profiles) == {"cpu", "gpu"}

    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_all_names_are_config_fields(self, name: str, profile: str) -> None:
        chosen = load_space(name).profiles[profile]
        assert set(chosen.base) | set(chosen.fields) <= set(FIELD_NAMES)
        for entry in chosen.fields.values():
            if isinstance(entry, When):
                assert entry.field in FIELD_NAMES

    @pytest.mark.parametrize("facts", DATASETS.values(), ids=DATASETS)
    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_it_resolves_and_its_base_lies_inside(self, name: str, profile: str, facts: DatasetFacts) -> None:
        space = load_space(name)
        found = resolve(space, profile, facts)
        for field, entry in found.fields.items():
            value = getattr(found.base, field)
            if isinstance(entry, When):
                case = entry.cases.get(getattr(found.base, entry.field))
                assert case is None or case.contains(value), f"{field}={value!r} is outside {case}"
            else:
                assert entry.contains(value), f"{field}={value!r} is outside {entry}"
        height, width = found.base.image_size_px
        if space.profiles[profile].base.get("image_size_px") == FITTED:
            assert height * width <= space.profiles[profile].max_pixels
        assert FITTED not in repr(found.fields)

    @pytest.mark.parametrize("facts", DATASETS.values(), ids=DATASETS)
    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_every_end_of_every_field_makes_a_config_and_changes_it(
        self, name: str, profile: str, facts: DatasetFacts
    ) -> None:
        found = resolve(load_space(name), profile, facts)
        for field, entry in found.fields.items():
            hashes = set()
            options = entry.cases.items() if isinstance(entry, When) else [(None, entry)]
            for case, option in options:
                condition = {entry.field: case} if isinstance(entry, When) else {}
                for value in option.grid(2):
                    assert found.contains(field, value)
                    hashes.add(found.config({**condition, field: value}).hash())
            assert len(hashes) > 1, f"{field} changes nothing"

    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_it_survives_json(self, name: str, profile: str) -> None:
        found = resolve(load_space(name), profile, FULL_TURN)
        again = ResolvedSpace.from_dict(json.loads(json.dumps(found.to_dict())))
        assert again == found
        assert again.to_dict() == found.to_dict()

    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_roll_is_searched_only_where_images_are_a_full_turn(self, name: str, profile: str) -> None:
        space = load_space(name)
        if "roll_probability" not in space.profiles[profile].fields:
            pytest.skip("this space does not search it")
        assert "roll_probability" in resolve(space, profile, FULL_TURN).fields
        for facts in (STREET, PHOTOS):
            found = resolve(space, profile, facts)
            assert "roll_probability" not in found.fields
            assert any("roll_probability is not searched" in note for note in found.notes)

    @pytest.mark.parametrize(("name", "profile"), CASES)
    def test_the_budget_is_one(self, name: str, profile: str) -> None:
        budget = load_space(name).profiles[profile].budget
        assert budget.trials >= 1
        assert 1 <= budget.grace <= budget.epochs
        assert budget.eta >= 2


class TestResolve:
    def test_fixed_fields_are_in_the_base_and_not_searched(self) -> None:
        found = resolve(
            load_space("smoke"), "cpu", STREET, {"lr": 0.002, "anchor_sizes": 11.0, "image_size_px": (64, 128)}
        )
        assert (found.base.lr, found.base.anchor_sizes, found.base.image_size_px) == (0.002, 11.0, (64, 128))
        assert not {"lr", "anchor_sizes"} & set(found.fields)

    def test_a_condition_on_a_fixed_field_is_decided(self) -> None:
        space = load_space("retinanet")
        lr = space.profiles["cpu"].fields["lr"]
        assert isinstance(lr, When)
        assert resolve(space, "cpu", STREET, {"optimizer": "sgd", "lr": 0.01}).fields.get("lr") is None
        found = resolve(space, "cpu", STREET, {"optimizer": "sgd"})
        assert found.fields["lr"] == lr.cases["sgd"]

    def test_a_condition_without_a_case_is_not_searched(self) -> None:
        profile = replace(
            load_space("smoke").profiles["cpu"], fields={"sgd_momentum": When("optimizer", {"sgd": Float(0.8, 0.99)})}
        )
        found = resolve(Space("s", "s", {"cpu": profile}), "cpu", STREET)
        assert found.fields == {}

    def test_fitted_stands_for_what_the_dataset_gives(self) -> None:
        fields = {"anchor_ratios": Choice(FITTED, (0.5, 1.0, 2.0)), "anchor_sizes": Fitted(0.5, 2.0)}
        profile = replace(load_space("smoke").profiles["cpu"], fields=fields)
        found = resolve(Space("s", "s", {"cpu": profile}), "cpu", STREET)
        assert found.fields["anchor_ratios"] == Choice(found.base.anchor_ratios, (0.5, 1.0, 2.0))
        size = found.base.anchor_sizes
        assert found.fields["anchor_sizes"] == Float(0.5 * size, 2.0 * size, log=True)

    def test_config_leaves_out_what_the_config_does_not_consume(self) -> None:
        found = resolve(load_space("smoke"), "cpu", STREET)
        config = found.config({"box_loss": "giou", "smooth_l1_beta": 0.7})
        assert config.box_loss == "giou"
        assert config.smooth_l1_beta == found.base.smooth_l1_beta

    def test_config_refuses_what_breaks_a_rule_across_fields(self) -> None:
        with pytest.raises(ConfigError, match="match_iou_low"):
            resolve(load_space("smoke"), "cpu", STREET).config({"match_iou_low": 0.9})


class TestCheckSpace:
    def with_profile(self, base: dict[str, Any], fields: dict[str, Any]) -> Space:
        return Space("mine", "x", {"cpu": Profile(base, fields, Budget(1, 1, 1), 34_000, StreetData(1, 1, 1, 180))})

    @pytest.mark.parametrize("kind", ["base", "fields"])
    def test_an_unknown_field_names_space_profile_place_and_nearest(self, kind: str) -> None:
        wrong = {"focal_gama": Float(1, 2)}
        space = self.with_profile(wrong, {}) if kind == "base" else self.with_profile({}, wrong)
        with pytest.raises(
            SpaceError, match=rf'space mine, profile cpu, {kind}: "focal_gama".*Did you mean "focal_gamma"\?'
        ):
            check_space(space)

    def test_a_condition_on_nothing_is_refused(self) -> None:
        with pytest.raises(SpaceError, match="lr depends on optimizer"):
            check_space(self.with_profile({}, {"lr": When("optimizer", {"sgd": Float(0.1, 1.0)})}))


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
            ({"fields": {"lr": {"normal": [0, 1]}}}, r"fields\.lr must be one of"),
            ({"fields": {"lr": [0.1, 0.2]}}, r"fields\.lr must be one of"),
            ({"fields": {"lr": {"choice": []}}}, r"fields\.lr: .*at least one option"),
            ({"fields": ["lr"]}, "must have `fields:`"),
            (["lr"], "must have `fields:`"),
            ({"fields": {}, "include": "nothing"}, '"nothing" is no space'),
            ({"fields": {}, "budget": {"trails": 5}}, r"budget has \['trails'\]"),
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
