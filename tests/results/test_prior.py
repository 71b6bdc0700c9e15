"""The prior that results/ reads from study.json draws what spaces/ would draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detector.config import DetectorConfig
from results.prior import Prior, value_at
from results.state import StudyState
from spaces.distributions import Choice, Distribution, Float, Integer, When, entry_to_dict

BASE = DetectorConfig()


def prior(**fields: Distribution | When) -> Prior:
    return Prior(BASE, {name: entry_to_dict(entry) for name, entry in fields.items()})


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.77, 0.999])
@pytest.mark.parametrize(
    "entry", [Float(1e-4, 1e-2, log=True), Float(0.0, 0.4), Float(0.0, 0.4, step=0.1), Integer(0, 4), Choice("a", "b", "c")]
)  # fmt: skip
def test_values_are_those_of_the_space(entry: Distribution, share: float) -> None:
    assert value_at(entry_to_dict(entry), share) == pytest.approx(entry.at(share))


def test_a_field_that_depends_on_another_takes_the_range_of_its_case() -> None:
    made = prior(
        optimizer=Choice("adamw", "sgd"),
        lr=When("optimizer", {"adamw": Float(1e-4, 2e-4, log=True), "sgd": Float(1e-2, 2e-2, log=True)}),
    )
    for shares in made.shares(50, np.random.default_rng(0)).tolist():
        config = made.config(shares)
        assert config is not None
        low, high = {"adamw": (1e-4, 2e-4), "sgd": (1e-2, 2e-2)}[config["optimizer"]]
        assert low <= config["lr"] <= high
    assert made.depends_on("lr") == "optimizer"
    assert made.depends_on("optimizer") == "optimizer"


def test_what_nobody_reads_is_not_in_a_config() -> None:
    made = prior(optimizer=Choice("adamw", "sgd"), sgd_momentum=Float(0.8, 0.99))
    adamw, sgd = made.config([0.1, 0.5]), made.config([0.9, 0.5])
    assert adamw is not None
    assert sgd is not None
    assert "sgd_momentum" not in adamw
    assert sgd["sgd_momentum"] == pytest.approx(0.895)


def test_what_breaks_a_rule_across_fields_is_no_config() -> None:
    made = prior(match_iou_low=Choice(0.2, 0.9), match_iou_high=Choice(0.5))
    assert made.config([0.1, 0.5]) is not None
    assert made.config([0.9, 0.5]) is None


def test_points_are_the_middles_of_options_and_spread_over_ranges() -> None:
    made = prior(box_loss=Choice("smooth_l1", "giou"), head_depth=Integer(0, 2), lr=Float(1e-4, 1e-2, log=True))
    assert made.points("box_loss", 9) == [0.25, 0.75]
    assert [made.value("head_depth", share) for share in made.points("head_depth", 9)] == [0, 1, 2]
    assert len(made.points("lr", 9)) == 9
    assert made.value("lr", 0.5) == pytest.approx(1e-3)


def test_an_edited_space_is_the_prior_from_there_on() -> None:
    plan: dict[str, Any] = {"space": {"base": BASE.to_dict(), "fields": {"lr": entry_to_dict(Float(1e-4, 1e-2))}}}
    state = StudyState("mAP", [1])
    assert list(Prior.of(plan, state).fields) == ["lr"]
    state.apply({"event": "session_started", "fields": {"head_depth": entry_to_dict(Integer(0, 2))}})
    assert list(Prior.of(plan, state).fields) == ["head_depth"]
