"""Constraints: arithmetic over a config, and nothing else."""

from __future__ import annotations

import pytest

from detector.config import ConfigError, DetectorConfig
from spaces.constraints import Constraint
from spaces.distributions import SpaceError


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("match_iou_low < match_iou_high", {}, True),
        ("match_iou_low + 0.2 <= match_iou_high", {}, False),
        ("0 < lr < 0.01", {"lr": 0.005}, True),
        ("0 < lr < 0.01", {"lr": 0.05}, False),
        ("increasing(anchor_ratios)", {"anchor_ratios": (0.5, 1.0, 2.0)}, True),
        ("increasing(anchor_ratios)", {"anchor_ratios": (1.0, 1.0)}, False),
        ("optimizer == 'sgd' or not head_shared", {}, False),
        ("optimizer in ('adamw', 'adam')", {}, True),
        ("max(anchor_scales) / min(anchor_scales) <= 2", {}, True),
        ("-len(anchor_ratios) % 2 == 1 and batch_size // 3 == 2", {"batch_size": 8}, True),
    ],
)
def test_holds_or_is_told_with_what_it_got(text: str, values: dict[str, object], holds: bool) -> None:
    config = DetectorConfig().with_values(values)
    if holds:
        Constraint(text).check(config)
        return
    with pytest.raises(ConfigError, match="the space's constraint") as caught:
        Constraint(text).check(config)
    for name, value in values.items():
        assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "lr.__class__", "[x for x in anchor_scales]", "lambda: 1", "(lambda: lr)()", "open('f')",
        "lr ** 9999999", "f'{lr}'", "lr if lr else 1", "len(lr)", "lr / head_depth / 0 > 1", "lr < 'a'", "", "max(trunk_extra_channels) <= 512", "'%q' % lr", "optimizer == 'adamw' or head_depth ** 2 < 9",
        "optimizer == 'adamw' or open('f')", "'a' * 10 ** 9 == optimizer", "'a' * 1000000000 == optimizer", "-" * 5000 + "1", "max(lr, key=lr)",
    ],
)  # fmt: skip
def test_anything_else_is_refused_when_it_is_written(text: str) -> None:
    with pytest.raises(SpaceError, match="constraint"):
        Constraint(text)


def test_a_rule_that_cannot_be_worked_out_for_a_config_is_the_configs_mistake() -> None:
    with pytest.raises(ConfigError, match="cannot be worked out"):
        Constraint("1 / head_depth < 2").check(DetectorConfig(head_depth=0))
