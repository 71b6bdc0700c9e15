"""Every space of the package, and those that users write: loaded, checked, completed by a dataset, written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.config import FIELD_NAMES, ConfigError
from spaces.distributions import Choice, Fitted, Float, SpaceError, When
from spaces.fitting import DatasetFacts
from spaces.loading import load_space, space_names
from spaces.space import (
    FITTED,
    Budget,
    Profile,
    ResolvedSpace,
    Space,
    StreetData,
    check_space,
    resolve,
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
        space = load_space("retinanet_wide")
        lr = space.profiles["cpu"].fields["lr"]
        assert isinstance(lr, When)
        assert resolve(space, "cpu", STREET, {"optimizer": "sgd", "lr": 0.01}).fields.get("lr") is None
        found = resolve(space, "cpu", STREET, {"optimizer": "sgd"})
        assert found.fields["lr"] == lr.cases["sgd"]

    @pytest.mark.parametrize("space", ["retinanet", "retinanet_wide"])
    @pytest.mark.parametrize("profile", ["cpu", "gpu"])
    def test_a_whole_detectors_weights_leave_trunk_and_heads_as_they_are(
        self, space: str, profile: str, tmp_path: Path
    ) -> None:
        (tmp_path / "best.pt").write_bytes(b"weights")
        starts = [str(tmp_path / "best.pt"), *(["coco"] if profile == "gpu" else [])]
        for start in starts:
            found = resolve(load_space(space), profile, STREET, {"pretrained": start})
            shapes = {"trunk", "head_depth", "head_channels", "head_shared"} & set(found.fields)
            assert not shapes, "proposals that change them could not load the file"

    def test_from_nothing_the_default_space_takes_a_narrow_trunk_and_its_own_fields(self) -> None:
        found = resolve(load_space("retinanet"), "cpu", STREET, {"pretrained": "none"})
        assert (found.base.trunk, found.base.trunk_width, found.base.frozen_stages) == ("resnet18", 0.25, 0)
        assert "trunk_lr_factor" not in found.fields
        assert all(found.contains(name, getattr(found.base, name)) for name in ("lr", "zoom_max", "focal_gamma"))

    def test_a_trunk_is_searched_where_another_ones_weights_are_at_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("spaces.space.at_hand", lambda trunk: trunk == "resnet18")
        found = resolve(load_space("retinanet"), "cpu", STREET)
        assert found.fields["trunk"] == Choice("tf_efficientnet_lite0", "resnet18"), "the base's own is always one"
        monkeypatch.setattr("spaces.space.at_hand", lambda trunk: False)
        found = resolve(load_space("retinanet"), "cpu", STREET)
        assert "trunk" not in found.fields
        assert any("no other trunk than tf_efficientnet_lite0" in note for note in found.notes)

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


def test_options_and_cases_take_the_form_that_a_config_holds_them_in() -> None:
    """Otherwise no trial's value would be found among them."""
    fields: dict[str, Any] = {
        "lr": Choice("1e-3", 2e-3), "anchor_scales": Choice([1.0], (1, 2)), "mosaic_probability": Choice(0, 0.5),
        "copy_paste_probability": When("mosaic_probability", {0: Float(0.0, 1.0)}),
    }  # fmt: skip
    smoke = load_space("smoke")
    profile = replace(smoke.profiles["cpu"], fields=fields)
    found = resolve(replace(smoke, profiles={"cpu": profile}), "cpu", STREET).fields
    assert found["lr"] == Choice(0.001, 0.002)
    assert found["anchor_scales"] == Choice((1.0,), (1.0, 2.0))
    assert isinstance(found["copy_paste_probability"], When)
    assert list(found["copy_paste_probability"].cases) == [0.0]
    assert type(next(iter(found["copy_paste_probability"].cases))) is float
