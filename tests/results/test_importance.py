"""What varied and mattered: an effect that is there is found, one that is not is called chance."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from results.importance import MIN_TRIALS, SHUFFLES, Effect, effects
from results.state import StudyState


def state_with(rows: list[tuple[dict[str, Any], float]]) -> StudyState:
    """A study whose trials all reached the first rung with these values and scores."""
    state = StudyState("mAP", [1, 3])
    for number, (values, score) in enumerate(rows):
        trial = f"t{number}"
        state.apply({
            "event": "trial_created", "trial": trial, "role": "search", "config_hash": trial, "config": values, "varied": values, "seed": 0,
        })  # fmt: skip
        state.apply({"event": "leg_started", "trial": trial, "to_epoch": 1})
        metrics = {"mAP": None if math.isnan(score) else score}
        state.apply({"event": "epoch", "trial": trial, "epoch": 1, "metrics": metrics, "per_class": {}, "seconds": 1.0})
        state.apply({"event": "leg_ended", "trial": trial, "outcome": "reached"})
    return state


def found(rows: list[tuple[dict[str, Any], float]]) -> dict[str, Effect]:
    return {effect.field: effect for effect in effects(state_with(rows))}


def test_a_field_that_orders_the_scores_explains_all_of_them() -> None:
    lr = found([({"lr": n / 1000}, math.sqrt(n)) for n in range(1, 11)])["lr"]
    assert lr.share == pytest.approx(1.0)  # Spearman: monotone is enough
    assert lr.direction == "higher is better"
    assert lr.n == 10
    assert lr.chance == pytest.approx(1 / (SHUFFLES + 1), abs=0.003)


def test_the_other_direction() -> None:
    assert found([({"lr": n / 1000}, -n + 20.0) for n in range(1, 11)])["lr"].direction == "lower is better"


def test_spearmans_rho_squared_by_hand() -> None:
    # Ranks 1..6 against 2 1 4 3 6 5: sum of d^2 = 6, rho = 1 - 6 * 6 / (6 * 35) = 29 / 35.
    rows = [({"lr": float(n)}, score) for n, score in enumerate([0.2, 0.1, 0.4, 0.3, 0.6, 0.5])]
    assert found(rows)["lr"].share == pytest.approx((29 / 35) ** 2)


def test_eta_squared_of_a_choice_by_hand() -> None:
    # Ranks 0 1 2 | 3 4 5: group means 1 and 4 around 2.5: between 6 * 1.5^2 = 13.5 of 17.5.
    rows = [({"loss": "l1" if n < 3 else "giou"}, n / 10) for n in range(6)]
    effect = found(rows)["loss"]
    assert effect.share == pytest.approx(13.5 / 17.5)
    assert effect.direction == "best: giou"


def test_a_switch_is_a_choice_not_a_number() -> None:
    rows = [({"shared": n % 2 == 0}, n % 2 + n / 100) for n in range(8)]
    assert found(rows)["shared"].direction == "best: False"


def test_noise_is_called_chance() -> None:
    rng = random.Random(5)
    rows = [({"noise": rng.random(), "lr": n / 100}, n / 100) for n in range(16)]
    everything = found(rows)
    assert everything["noise"].chance > 0.05 > everything["lr"].chance
    assert [effect.field for effect in effects(state_with(rows))] == ["lr", "noise"], "least likely by chance first"


def test_chance_is_uniform_where_nothing_matters() -> None:
    rng = random.Random(11)
    chances = [found([({"x": rng.random()}, rng.random()) for _ in range(8)])["x"].chance for _ in range(20)]
    assert 0.2 < sum(chance <= 0.5 for chance in chances) / 20 < 0.8
    assert sum(chance <= 0.1 for chance in chances) <= 6


def test_too_few_trials_say_nothing() -> None:
    assert found([({"lr": float(n)}, n / 10) for n in range(MIN_TRIALS - 1)]) == {}
    assert found([({"lr": float(n)}, n / 10) for n in range(MIN_TRIALS)]) != {}


def test_nan_scores_and_trials_without_the_field_are_left_out() -> None:
    rows: list[tuple[dict[str, Any], float]] = [({"lr": float(n)}, n / 10) for n in range(8)]
    rows += [({"lr": 99.0}, math.nan), ({"other": 1.0}, 0.5)]
    assert found(rows)["lr"].n == 8


def test_equal_scores_explain_nothing() -> None:
    effect = found([({"lr": float(n), "loss": "ab"[n % 2]}, 0.5) for n in range(8)])
    assert effect["lr"].share == effect["loss"].share == 0.0
    assert effect["lr"].chance == 1.0


def test_the_same_study_gives_the_same_effects() -> None:
    rng = random.Random(2)
    rows = [({"a": rng.random(), "b": rng.choice("xyz")}, rng.random()) for _ in range(12)]
    assert effects(state_with(rows)) == effects(state_with(rows))


def test_an_empty_study_has_no_effects() -> None:
    assert effects(StudyState("mAP", [1, 3])) == []
