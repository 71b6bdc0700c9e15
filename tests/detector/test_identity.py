"""Identity: what the hash covers, weight files by content, ids that no two trials share, and records of format 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.config import DEFAULTS, ConfigError, DetectorConfig, config_hash
from detector.identity import digest_of, distinct_id, hash_of, migrated, pin_weights, weights_path

# Part of every hash: a default that changes here gives every config of every study another identity.
PINNED = json.loads((Path(__file__).parents[1] / "fixtures" / "defaults.json").read_text())


def test_defaults_are_the_ones_that_all_hashes_were_made_with() -> None:
    assert {name: DEFAULTS[name] for name in PINNED} == PINNED
    added = sorted(set(DEFAULTS) - set(PINNED))
    assert not added, f"add {added} with their defaults to tests/fixtures/defaults.json"


def test_the_hash_covers_what_differs_from_the_defaults_alone() -> None:
    defaults = {"lr": 0.1, "depth": 2}
    assert hash_of({"lr": 0.2, "depth": 2}, defaults) == hash_of({"lr": 0.2}, defaults)
    assert hash_of({"lr": 0.2, "depth": 3}, defaults) != hash_of({"lr": 0.2}, defaults)
    assert hash_of({"lr": 0.1}, defaults) == hash_of({}, defaults)


def test_a_new_field_changes_no_hash_until_it_is_used() -> None:
    before = DetectorConfig(lr=2e-3)
    values = before.active_dict()
    assert hash_of({**values, "a_field_of_2027": 0}, {**DEFAULTS, "a_field_of_2027": 0}) == before.hash()
    assert hash_of({**values, "a_field_of_2027": 1}, {**DEFAULTS, "a_field_of_2027": 0}) != before.hash()


def test_a_value_is_not_its_neighbours() -> None:
    """lr=0.01 alone and weight_decay=0.01 alone are two configs."""
    assert DetectorConfig(lr=0.01).hash() != DetectorConfig(weight_decay=0.01).hash()


def test_a_weight_file_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"one")
    (tmp_path / "b.pt").write_bytes(b"one")
    (tmp_path / "c.pt").write_bytes(b"two")
    a, b, c = (DetectorConfig(pretrained=str(tmp_path / name)) for name in ("a.pt", "b.pt", "c.pt"))
    assert a.hash() == b.hash() != c.hash()
    assert (
        len({config.hash() for config in (a, DetectorConfig(), DetectorConfig(trunk_width=1.0, pretrained="imagenet"))})
        == 3
    )


def test_a_pinned_weight_file_keeps_its_identity_when_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    pinned = DetectorConfig(pretrained=pin_weights(str(file)))
    identity = DetectorConfig(pretrained=str(file)).hash()
    file.unlink()
    assert pinned.hash() == identity
    assert weights_path(pinned.pretrained) == str(file)
    with pytest.raises(ConfigError, match="readable file of weights"):
        DetectorConfig(pretrained=str(file)).hash()


def test_a_file_that_changes_has_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"one")
    first = digest_of(str(file))
    file.write_bytes(b"other")
    assert digest_of(str(file)) != first


@pytest.mark.parametrize("name", ["none", "imagenet", "coco"])
def test_weights_by_name_stay_names(name: str) -> None:
    assert pin_weights(name) == name


def test_ids_have_twelve_digits_and_more_where_another_has_those() -> None:
    first = distinct_id("words", ())
    assert len(first) == 12
    assert distinct_id("words", {first}) == distinct_id("words", ())[:12] + distinct_id("words", {first})[12:]
    assert len(distinct_id("words", {first})) == 13
    assert distinct_id("words", {first, distinct_id("words", {first})})[:13] == distinct_id("words", {first})
    assert distinct_id("other", {first}) != first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"trunk_weights": "", "detector_weights": "", "lr": 0.1}, {"lr": 0.1, "pretrained": "none"}),
        ({"trunk_weights": "imagenet", "normalization": "dataset"}, {"pretrained": "imagenet"}),
        (
            {"trunk_weights": "", "trunk": "report_ssd", "frozen_stages": 2},
            {"pretrained": "none", "trunk": "report_ssd"},
        ),
        (
            {"trunk_weights": "w.pt", "frozen_stages": 5, "neck_levels": [3, 4]},
            {"pretrained": "w.pt", "frozen_stages": 4, "neck_levels": [3, 4]},
        ),
        ({"trunk_weights": "t.pt", "detector_weights": "d.pt"}, {"pretrained": "d.pt"}),
        ({"pretrained": "coco"}, {"pretrained": "coco"}),
    ],
)
def test_records_of_format_1_are_read_by_todays_names(old: dict[str, object], new: dict[str, object]) -> None:
    assert migrated(old) == new


def test_a_user_who_writes_an_old_name_is_told_the_new_one() -> None:
    with pytest.raises(ConfigError, match='"trunk_weights" is now "pretrained"'):
        DetectorConfig.from_dict({"trunk_weights": "imagenet"})


def test_the_hash_of_a_record_is_that_of_its_config() -> None:
    config = DetectorConfig(lr=3e-3, optimizer="sgd")
    assert config_hash(config.active_dict()) == config.hash()
