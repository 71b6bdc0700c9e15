"""DetectorConfig: what it refuses and how it says so, its round trip, and the hash of its consumed fields."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from detector.config import (
    ACTIVE_WHEN,
    BOUNDS,
    CHOICES,
    FIELD_NAMES,
    FIELD_TYPES,
    ConfigError,
    ConsumedConfig,
    DetectorConfig,
    active_fields,
    check_field_name,
    coerce,
)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("focal_gama", "focal_gamma"),
        ("learning_rates", None),
        ("batchsize", "batch_size"),
        ("achor_sizes", "anchor_sizes"),
    ],
)
def test_an_unknown_field_is_refused_and_the_nearest_named(wrong: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        DetectorConfig.from_dict({wrong: 1})
    message = str(caught.value)
    assert f'"{wrong}" is not a DetectorConfig field' in message
    assert (f'Did you mean "{nearest}"?' if nearest else "Fields: train_split, ") in message
    with pytest.raises(ConfigError, match="not a DetectorConfig field"):
        DetectorConfig().with_values({wrong: 1})


def test_an_unknown_field_is_reported_at_the_place_where_it_stands() -> None:
    with pytest.raises(ConfigError, match=r'^spaces/retinanet\.py: "lrr" is not .* Did you mean "lr"\?$'):
        check_field_name("lrr", "spaces/retinanet.py")
    check_field_name("lr", "anywhere")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"anchor_sizes": ((8.0, 12.0), (16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0))},
        {"anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0), "lr_milestones": (0.5,), "optimizer": "sgd"},
        {"image_size_px": (64, 96), "neck_levels": (3,), "channels_last": False, "ema_decay": 0.99},
    ],
)
def test_to_dict_through_json_and_from_dict_give_the_config_back(values: dict) -> None:
    config = DetectorConfig(**values)
    stored = json.loads(json.dumps(config.to_dict()))
    assert set(stored) == set(FIELD_NAMES)
    again = DetectorConfig.from_dict(stored)
    assert again == config
    assert again.hash() == config.hash()


def test_with_values_changes_those_fields_alone_and_checks_them() -> None:
    base = DetectorConfig()
    changed = base.with_values({"image_size_px": [64, 128], "lr": 1})
    assert changed.image_size_px == (64, 128)
    assert changed.lr == 1.0
    assert isinstance(changed.lr, float)
    differing = {name for name in FIELD_NAMES if getattr(changed, name) != getattr(base, name)}
    assert differing == {"image_size_px", "lr"}
    with pytest.raises(ConfigError, match=r"lr must lie in"):
        base.with_values({"lr": -1})


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetectorConfig().lr = 1.0  # type: ignore[misc]


def test_the_hash_is_ten_hex_digits_and_the_same_in_another_interpreter() -> None:
    config = DetectorConfig()
    assert len(config.hash()) == 12
    assert int(config.hash(), 16) >= 0
    code = "from detector.config import DetectorConfig; print(DetectorConfig().hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == config.hash()


# For every conditional field: a config where it sleeps, a config where it counts, and another value for it.
REPORT: dict[str, Any] = {"trunk": "report_ssd"}
NO_NECK: dict[str, Any] = {"neck": "none", "head_shared": False}
SSD: dict[str, Any] = {"anchor_kind": "ssd", "prior_sizes": (8, 16, 32, 64, 128, 256), "prior_ratios": ((2,),) * 5}
HARD: dict[str, Any] = {"class_scores": "softmax", "class_loss": "hard_negatives"}
CONDITIONAL: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "trunk_extra_channels": (REPORT, {"neck_levels": (3, 4, 5, 6), "trunk_extra_channels": (16,)}, (24,)),
    "trunk_width": ({"trunk": "tf_efficientnet_lite0"}, {}, 0.5),
    "norm": (REPORT, {}, "group"),
    "normalization": ({"pretrained": "imagenet", "trunk_width": 1.0}, {}, "imagenet"),
    "trunk_lr_factor": ({}, {"pretrained": "imagenet", "trunk_width": 1.0}, 0.1),
    "min_steps_per_epoch": ({"steps_per_epoch": 5}, {}, 100),
    "ema_warmup_steps": ({}, {"ema_decay": 0.9}, 100),
    "neck_channels": (NO_NECK, {}, 32),
    "neck_norm": (NO_NECK, {}, "batch"),
    "extra_levels": (NO_NECK, {}, 2),
    "neck_top_down": ({"neck": "bifpn"}, {}, False),
    "neck_repeats": ({}, {"neck": "bifpn"}, 3),
    "neck_separable": ({}, {"neck": "bifpn"}, False),
    "anchor_sizes": (SSD, {}, 10.0),
    "anchor_scales": (SSD, {}, (1.0,)),
    "anchor_ratios": (SSD, {}, (1.0,)),
    "anchor_rounding": (SSD, {}, True),
    "prior_sizes": ({}, SSD, (10, 20, 40, 80, 160, 320)),
    "prior_ratios": ({}, SSD, ((3,),) * 5),
    "match_iou_high": ({"matcher": "atss"}, {}, 0.6),
    "match_iou_low": ({"matcher": "ssd"}, {}, 0.3),
    "match_force_best": ({"matcher": "ssd"}, {}, False),
    "atss_candidates": ({}, {"matcher": "atss"}, 5),
    "focal_gamma": (HARD, {}, 1.0),
    "focal_alpha": (HARD, {}, 0.5),
    "negatives_per_positive": ({}, HARD, 1.0),
    "prior_probability": ({"bias_init": "zero"}, {}, 0.1),
    "group_norm_channels": ({"norm": "batch"}, {"norm": "group"}, 4),
    "extra_levels_from": ({"extra_levels": 0}, {"extra_levels": 1}, "trunk"),
    "head_channels": ({"head_depth": 0}, {"head_depth": 1}, 32),
    "head_norm": ({"head_depth": 0}, {"head_depth": 1}, "batch"),
    "smooth_l1_beta": ({"box_loss": "giou"}, {"box_loss": "smooth_l1"}, 0.5),
    "sgd_momentum": ({"optimizer": "adamw"}, {"optimizer": "sgd"}, 0.5),
    "adam_beta2": ({"optimizer": "sgd"}, {"optimizer": "adamw"}, 0.9),
    "lr_milestones": ({"schedule": "cosine"}, {"schedule": "multistep"}, (0.5,)),
    "lr_decay": ({"schedule": "cosine"}, {"schedule": "constant"}, 0.5),
    "final_decay_epochs": ({"schedule": "multistep"}, {"schedule": "constant"}, 3),
    "crop_min_iou": ({"crop_probability": 0.0}, {"crop_probability": 0.5}, 0.7),
}


def test_every_conditional_field_has_a_case() -> None:
    assert set(CONDITIONAL) == set(ACTIVE_WHEN)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_hash_ignores_a_sleeping_field_and_follows_a_waking_one(name: str) -> None:
    asleep, awake, other = CONDITIONAL[name]
    sleeping, waking = DetectorConfig(**asleep), DetectorConfig(**awake)
    assert name not in active_fields(sleeping)
    assert name not in sleeping.active_dict()
    assert sleeping.with_values({name: other}).hash() == sleeping.hash()
    assert name in active_fields(waking)
    assert waking.with_values({name: other}).active_dict()[name] != waking.active_dict()[name]
    assert waking.with_values({name: other}).hash() != waking.hash()


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({"norm": "batch", "neck_norm": "none", "head_norm": "none"}, False),
        ({"neck_norm": "group"}, True),
        ({"head_norm": "group", "head_depth": 1}, True),
        ({"head_norm": "group", "head_depth": 0}, False),  # without convolutions no norm is built
    ],
)
def test_group_norm_channels_count_wherever_a_group_norm_is_built(values: dict, counts: bool) -> None:
    assert ("group_norm_channels" in active_fields(DetectorConfig(**values))) is counts


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_word_outside_the_choices_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DetectorConfig.from_dict({name: "nonsense"})
    assert f"DetectorConfig.{name} must be one of {', '.join(CHOICES[name])}, got 'nonsense'" in str(caught.value)


# What else must change for a field to stand at its bound.
AT_THE_EDGE: dict[tuple[str, float], dict[str, Any]] = {
    ("match_iou_high", 0.05): {"match_iou_low": 0.0},
    ("match_iou_low", 1.0): {"match_iou_high": 1.0},
    ("frozen_stages", 7): {
        "trunk": "report_ssd",
        "neck_levels": (6, 7),
        "pretrained": "w.pt",
        "image_size_px": (128, 256),
    },
}


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_each_bound_holds_its_end_and_refuses_what_lies_beyond(name: str) -> None:
    low, high = BOUNDS[name]
    for edge, beyond in ((low, low - 1), (high, high + 1)):
        if math.isinf(edge):
            continue
        edge, beyond = (int(edge), int(beyond)) if FIELD_TYPES[name] is int else (edge, beyond)
        with pytest.raises(ConfigError, match=rf"DetectorConfig\.{name} must lie in \[.*\], got {beyond}"):
            DetectorConfig(**{name: beyond})
        assert getattr(DetectorConfig(**{**AT_THE_EDGE.get((name, edge), {}), name: edge}), name) == edge


@pytest.mark.parametrize("name", sorted(name for name in BOUNDS if FIELD_TYPES[name] is float))
def test_nan_is_refused_by_every_bounded_float(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"DetectorConfig\.{name} must lie in .* got nan"):
        DetectorConfig.from_dict({name: math.nan})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anchor_sizes", math.nan),
        ("anchor_sizes", [8.0, math.nan, 32.0, 64.0, 128.0]),
        ("anchor_scales", [math.nan]),
        ("anchor_scales", [1.0, math.nan]),
        ("anchor_ratios", [1.0, math.nan]),
        ("lr_milestones", [math.nan]),
        ("batch_size", math.nan),
    ],
)
def test_nan_is_refused_within_lists_and_counts(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        DetectorConfig.from_dict({name: value})


def test_every_number_has_a_bound() -> None:
    numbers = {name for name in FIELD_NAMES if FIELD_TYPES[name] in (int, float)}
    assert numbers | {"focal_alpha"} == set(BOUNDS), "focal_alpha is a number, or one per class"
    for name, (low, high) in BOUNDS.items():
        assert low <= getattr(DetectorConfig(), name) <= high


CROSS = [
    ({"image_size_px": (128, 500)}, "two multiples of 32", "image_size_px=(128, 500)"),
    ({"image_size_px": (32, 512)}, "at least 64", "image_size_px=(32, 512)"),
    ({"image_size_px": (128,)}, "two multiples of 32", "image_size_px=(128,)"),
    ({"neck_levels": (2, 4, 5)}, "consecutive", "neck_levels=(2, 4, 5)"),
    ({"neck_levels": (3, 2)}, "consecutive", "neck_levels=(3, 2)"),
    ({"neck_levels": (1, 2)}, "out of 2, 3, 4, 5", "neck_levels=(1, 2)"),
    ({"neck_levels": (5, 6)}, "out of 2, 3, 4, 5", "neck_levels=(5, 6)"),
    ({"neck_levels": ()}, "consecutive", "neck_levels=()"),
    ({"anchor_scales": ()}, "anchor_scales must be positive and increase", "anchor_scales=()"),
    ({"anchor_scales": (1.0, 1.0)}, "increase", "anchor_scales=(1.0, 1.0)"),
    ({"anchor_scales": (0.0, 1.0)}, "positive", "anchor_scales=(0.0, 1.0)"),
    ({"anchor_ratios": (1.0, -0.5)}, "anchor_ratios must be positive", "anchor_ratios=(1.0, -0.5)"),
    ({"anchor_ratios": ()}, "anchor_ratios must be positive", "anchor_ratios=()"),
    ({"anchor_sizes": 0.0}, "one positive entry per level (5 levels)", "anchor_sizes=0.0"),
    ({"anchor_sizes": (8.0, 16.0)}, "(5 levels)", "extra_levels=1"),
    ({"anchor_sizes": ((8.0,), (8.0,), (8.0,), (8.0,), (8.0, 9.0))}, "(5 levels)", "anchor_sizes="),
    (
        {"trunk": "report_ssd", "neck_levels": (2, 3, 4, 5, 6, 7), "image_size_px": (96, 512)},
        "the nearest is 128 x 512",
        "image_size_px=(96, 512)",
    ),
    ({"trunk_extra_channels": (32,)}, "one for each of neck_levels beyond", "trunk_extra_channels=(32,)"),
    ({"trunk_extra_channels": (8,), "neck_levels": (4, 5, 6)}, "at least 16 each", "trunk_extra_channels=(8,)"),
    ({"anchor_kind": "ssd"}, "one beyond (5 + 1)", "prior_sizes=()"),
    ({"neck": "none"}, "head_shared needs maps of the same channels", "head_shared=True"),
    ({"box_variances": (0.1,)}, "two positive numbers", "box_variances=(0.1,)"),
    ({"class_loss": "hard_negatives"}, "needs class_scores softmax", "class_scores='sigmoid'"),
    ({"match_iou_low": 0.6, "match_iou_high": 0.5}, "must not exceed match_iou_high", "match_iou_low=0.6"),
    ({"pretrained": "imagenet", "trunk_width": 0.5}, "trunk_width 1.0", "trunk_width=0.5"),
    ({"pretrained": "imagenet", "trunk_width": 1.0, "norm": "group"}, "norm batch or frozen", "norm='group'"),
    ({"pretrained": "imagenet", "trunk": "report_ssd"}, "a network that somebody has trained", "trunk='report_ssd'"),
    ({"pretrained": "coco", "trunk": "resnet18"}, "torchvision's RetinaNet", "trunk='resnet18'"),
    (
        {"pretrained": "coco", "trunk": "resnet50", "trunk_width": 1.0},
        "levels 3, 4, 5 and two extra_levels, shared heads",
        "neck_levels=(2, 3, 4, 5)",
    ),
    ({"norm": "frozen"}, "needs pretrained weights", "pretrained='none'"),
    ({"frozen_stages": 1}, "need pretrained weights", "frozen_stages=1"),
    ({"frozen_stages": 5, "neck_levels": (3, 4), "pretrained": "w.pt"}, "deepest of neck_levels", "frozen_stages=5"),
    ({"trunk": "tf_efficientnet_lite0", "norm": "group"}, "for our own resnets", "norm='group'"),
    ({"pretrained": ""}, "must be none, imagenet, coco or a file", "pretrained=''"),
    ({"trunk": ""}, "must be the name of a trunk", "trunk=''"),
    ({"lr_milestones": (0.9, 0.5)}, "lr_milestones must increase", "lr_milestones=(0.9, 0.5)"),
    ({"lr_milestones": (0.5, 1.1)}, "within 0..1", "lr_milestones=(0.5, 1.1)"),
    ({"schedule": "constant", "final_decay_epochs": 19}, "must not exceed schedule_epochs", "final_decay_epochs=19"),
]


@pytest.mark.parametrize(("values", "rule", "received"), CROSS)
def test_a_rule_of_several_fields_is_stated_with_the_values_received(values: dict, rule: str, received: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DetectorConfig(**values)
    assert rule in str(caught.value)
    assert received in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"match_iou_low": 0.5, "match_iou_high": 0.5},
        {"schedule": "constant", "final_decay_epochs": 18},
        {"schedule": "cosine", "final_decay_epochs": 19},  # sleeps
        {"pretrained": "imagenet", "trunk_width": 1.0, "norm": "frozen"},
        {"pretrained": "imagenet", "trunk": "tf_efficientnet_lite0", "norm": "frozen", "frozen_stages": 5},
        {"image_size_px": (64, 64)},
        {"neck_levels": (5,), "extra_levels": 0, "anchor_sizes": (32.0,)},
        {"lr_milestones": (0.5, 1.0)},
    ],
)
def test_the_edge_of_a_rule_is_allowed(values: dict) -> None:
    config = DetectorConfig(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 8.0, 8),
        ("lr", 1, 1.0),
        ("channels_last", False, False),
        ("norm", "group", "group"),
        ("image_size_px", [64, 128.0], (64, 128)),
        ("neck_levels", [3.0, 4], (3, 4)),
        ("anchor_scales", [1, 2], (1.0, 2.0)),
        ("anchor_sizes", 16, 16.0),
        ("anchor_sizes", [8, 16], (8.0, 16.0)),
        ("anchor_sizes", [[8, 9], [16, 18]], ((8.0, 9.0), (16.0, 18.0))),
    ],
)
def test_coerce_gives_the_fields_own_type(name: str, value: object, expected: object) -> None:
    result = coerce(name, value)
    assert result == expected
    assert type(result) is type(expected)
    if isinstance(result, tuple) and not isinstance(result[0], tuple):
        assert [type(item) for item in result] == [type(item) for item in expected]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "text", "value"), [("lr", "1e-3", 1e-3), ("weight_decay", "5E-4", 5e-4), ("batch_size", "8", 8)]
)
def test_a_number_that_yaml_read_as_text_is_a_number(name: str, text: str, value: float) -> None:
    assert coerce(name, text) == value
    assert type(coerce(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels_last", 1),
        ("channels_last", "true"),
        ("batch_size", True),
        ("batch_size", 2.5),
        ("batch_size", "eight"),
        ("batch_size", "2.5"),
        ("batch_size", math.inf),
        ("lr", True),
        ("lr", "fast"),
        ("lr", [1e-3]),
        ("lr", None),
        ("norm", 1),
        ("image_size_px", 128),
        ("image_size_px", "128x512"),
        ("anchor_scales", 1.0),
        ("anchor_scales", [True]),
        ("anchor_scales", ["a"]),
        ("anchor_scales", [[1.0]]),
        ("anchor_sizes", True),
        ("anchor_sizes", "16"),
    ],
)
def test_coerce_refuses_what_would_lose_something(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"DetectorConfig\.{name} must"):
        coerce(name, value)


@pytest.mark.parametrize(
    ("name", "value"), [("image_size_px", [64.9, 128]), ("neck_levels", [2.5, 3.5]), ("image_size_px", [math.nan, 64])]
)
def test_coerce_refuses_a_fraction_within_a_list_of_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"DetectorConfig\.{name} must"):
        coerce(name, value)


def test_consumed_config_reads_like_the_config_and_remembers() -> None:
    reader = ConsumedConfig(DetectorConfig(lr=0.5))
    assert reader.lr == 0.5
    assert reader.to_dict()["lr"] == 0.5  # a method is no field
    assert reader.consumed == {"lr"}
    with pytest.raises(AttributeError):
        _ = reader.no_such_field


def test_a_field_that_nobody_read_fails_the_check() -> None:
    reader = ConsumedConfig(DetectorConfig())
    for name in active_fields(DetectorConfig()) - {"focal_gamma"}:
        getattr(reader, name)
    with pytest.raises(ConfigError, match=r"consumed by nobody: \['focal_gamma'\]"):
        reader.check()
    _ = reader.focal_gamma
    reader.check()


def test_a_sleeping_field_that_was_read_fails_the_check() -> None:
    config = DetectorConfig(optimizer="adamw")
    reader = ConsumedConfig(config)
    for name in active_fields(config) | {"sgd_momentum"}:
        getattr(reader, name)
    with pytest.raises(ConfigError, match=r"inactive: \['sgd_momentum'\]"):
        reader.check()


def test_importing_the_config_imports_no_torch() -> None:
    code = "import sys, detector.config; print([m for m in ('torch', 'numpy', 'ray') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("ratios", [2, [2, 2, 2, 2], [[2], [2, 3], [2], [2]]])
def test_prior_ratios_that_are_numbers_are_read_or_refused_in_words(ratios: Any) -> None:
    values = {
        "anchor_kind": "ssd", "neck_levels": (3, 4, 5), "extra_levels": 1, "prior_sizes": (16, 32, 64, 128, 256),
        "prior_ratios": ratios,
    }  # fmt: skip
    if ratios == [2, 2, 2, 2]:
        assert DetectorConfig.from_dict(values).prior_ratios == (2.0, 2.0, 2.0, 2.0)
        return
    with pytest.raises(ConfigError, match="prior_ratios"):
        DetectorConfig.from_dict(values)
