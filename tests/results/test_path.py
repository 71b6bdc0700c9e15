"""The way from one configuration to another: greedy by the predicted score, fields that depend on each other together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detector.config import DetectorConfig
from results.path import ablation_path, changed_fields, that_matter
from results.prior import Prior
from spaces.distributions import Choice, Distribution, Float, When, entry_to_dict

BASE = DetectorConfig()
GAINS = {"neck_top_down": 0.02, "head_shared": 0.05, "head_depth": -0.01}


class Known:
    """A surrogate whose score is known: what each change from the base brings, in three groups that nearly agree."""

    def __init__(self, gains: dict[str, float], together: float = 0.0) -> None:
        self.gains, self.together = gains, together

    def by_group(self, configs: list[dict[str, Any]]) -> np.ndarray:
        plain = BASE.to_dict()
        scores = []
        for config in configs:
            moved = {name for name in self.gains if config.get(name, plain[name]) != plain[name]}
            both = {"neck_top_down", "head_shared"} <= moved
            scores.append(0.1 + sum(self.gains[name] for name in moved) + self.together * both)
        return np.array(scores) + np.array([[-0.001], [0.0], [0.001]])


def prior(**fields: Distribution | When) -> Prior:
    return Prior(BASE, {name: entry_to_dict(entry) for name, entry in fields.items()})


def path(target: dict[str, Any], surrogate: Known, **fields: Distribution | When) -> list[Any]:
    goal = BASE.with_values(target).active_dict()
    return ablation_path(surrogate, prior(**fields), BASE.active_dict(), goal)  # type: ignore[arg-type]


TARGET = {
    "neck_top_down": not BASE.neck_top_down,
    "head_shared": not BASE.head_shared,
    "head_depth": BASE.head_depth + 1,
}


def test_the_change_that_gains_most_comes_first() -> None:
    steps = path(TARGET, Known(GAINS))
    assert [list(step.changes) for step in steps] == [[], ["head_shared"], ["neck_top_down"], ["head_depth"]]
    assert [step.score for step in steps] == pytest.approx([0.1, 0.15, 0.17, 0.16])
    assert [step.gain for step in steps] == pytest.approx([0, 0.05, 0.02, -0.01])


def test_the_interval_of_a_gain_is_that_of_the_groups() -> None:
    class Unsure(Known):
        def by_group(self, configs: list[dict[str, Any]]) -> np.ndarray:
            moved = np.array([config["head_shared"] != BASE.head_shared for config in configs], dtype=float)
            return 0.1 + np.linspace(0.04, 0.06, 201)[:, None] * moved

    (_, step) = path({"head_shared": TARGET["head_shared"]}, Unsure({}))
    assert step.gain == pytest.approx(0.05)
    assert (step.low, step.high) == (pytest.approx(0.0405), pytest.approx(0.0595))  # 2.5 and 97.5 % of 0.04 .. 0.06


def test_gains_of_all_steps_make_the_whole_difference() -> None:
    steps = path(TARGET, Known(GAINS, together=0.03))
    assert sum(step.gain for step in steps) == pytest.approx(steps[-1].score - steps[0].score)


def test_what_helps_only_together_is_earned_by_the_second() -> None:
    steps = path(
        {name: TARGET[name] for name in ("neck_top_down", "head_shared")},
        Known({"neck_top_down": 0.0, "head_shared": 0.01}, 0.1),
    )
    assert [list(step.changes) for step in steps[1:]] == [["head_shared"], ["neck_top_down"]]
    assert steps[2].gain == pytest.approx(0.1)


def test_a_field_goes_with_the_one_that_it_depends_on() -> None:
    depends = {
        "optimizer": Choice("adamw", "sgd"),
        "lr": When("optimizer", {"adamw": Float(1e-4, 1e-3), "sgd": Float(1e-2, 1e-1)}),
    }
    other = "sgd" if BASE.optimizer == "adamw" else "adamw"
    steps = path(
        {"optimizer": other, "lr": 0.02, "head_depth": BASE.head_depth + 1},
        Known({"lr": 0.1, "head_depth": 0.01}),
        **depends,
    )  # type: ignore[arg-type]
    assert [set(step.changes) for step in steps[1:]] == [{"optimizer", "lr"}, {"head_depth"}]


def test_changes_that_no_rule_lets_go_alone_go_in_an_order_that_it_does() -> None:
    # 0.1 .. 0.2 to 0.6 .. 0.7: the upper bound must rise before the lower one may.
    base = BASE.with_values({"match_iou_low": 0.1, "match_iou_high": 0.2})
    goal = base.with_values({"match_iou_low": 0.6, "match_iou_high": 0.7})
    made = ablation_path(Known({}), Prior(base, {}), base.active_dict(), goal.active_dict())  # type: ignore[arg-type]
    assert [list(step.changes) for step in made[1:]] == [["match_iou_high"], ["match_iou_low"]]


def test_only_consumed_fields_that_differ_are_changes() -> None:
    goal = BASE.with_values({"head_depth": BASE.head_depth + 1}).active_dict()
    assert changed_fields(BASE, goal) == {"head_depth": BASE.head_depth + 1}
    assert changed_fields(BASE, BASE.active_dict()) == {}


def test_no_way_where_there_is_no_difference() -> None:
    assert [step.changes for step in path({}, Known(GAINS))] == [{}]


def test_what_matters_is_trained_alone_and_the_rest_together() -> None:
    steps = path(TARGET, Known({**GAINS, "neck_top_down": 0.001}))
    assert that_matter(steps, 0.05) == [
        {"head_shared": TARGET["head_shared"]},
        {"neck_top_down": TARGET["neck_top_down"], "head_depth": TARGET["head_depth"]},
    ]
    assert that_matter(steps[:2], 0.05) == [{"head_shared": TARGET["head_shared"]}], "no rest, no step for it"
