"""What mattered: shares of known functions over the prior, and associations that a shuffle tells from chance."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from detector.config import DetectorConfig
from results.importance import MIN_TRIALS, SHUFFLES, Effect, Importance, association, first_rung
from results.state import StudyState
from spaces.distributions import Choice, Distribution, Float, When, entry_to_dict

FIELDS: dict[str, Distribution | When] = {
    "lr": Float(0.0, 1.0),
    "weight_decay": Float(0.0, 1.0),
    "zoom_max": Float(0.0, 1.0),
    "box_loss": Choice("smooth_l1", "giou"),
}


def state_with(rows: list[tuple[dict[str, Any], float]], levels: tuple[int, ...] = (1, 3)) -> StudyState:
    """A study whose trials all reached the first rung with these values and scores."""
    state = StudyState("mAP", list(levels))
    for number, (values, score) in enumerate(rows):
        trial = f"t{number}"
        state.apply({
            "event": "trial_created", "trial": trial, "role": "search", "config_hash": trial, "config": values, "varied": values, "seed": 0,
        })  # fmt: skip
        reach(state, trial, 1, score)
    return state


def reach(state: StudyState, trial: str, epoch: int, score: float) -> None:
    state.apply({"event": "leg_started", "trial": trial, "to_epoch": epoch})
    metrics = {"mAP": None if math.isnan(score) else score}
    state.apply({"event": "epoch", "trial": trial, "epoch": epoch, "metrics": metrics, "per_class": {}, "seconds": 1.0})
    state.apply({"event": "leg_ended", "trial": trial, "outcome": "reached"})


def plan_of(**fields: Distribution | When) -> dict[str, Any]:
    plain = {name: entry_to_dict(entry) for name, entry in fields.items()}
    return {"space": {"base": DetectorConfig().to_dict(), "fields": plain}}


def importance(state: StudyState, **fields: Distribution | When) -> Importance:
    return Importance(plan_of(**(fields or FIELDS)), state)


def found(rows: list[tuple[dict[str, Any], float]]) -> dict[str, Effect]:
    return {effect.field: effect for effect in importance(state_with(rows)).effects}


def drawn(trials: int, score: Any, low: float = 0.0, seed: int = 0) -> list[tuple[dict[str, Any], float]]:
    """Trials drawn from the space, their lr from `low` on only, and a function of them as their score."""
    rng = random.Random(seed)
    rows = []
    for _ in range(trials):
        values = {
            "lr": rng.uniform(low, 1),
            "weight_decay": rng.random(),
            "zoom_max": rng.random(),
            "box_loss": rng.choice(["smooth_l1", "giou"]),
        }
        rows.append((values, score(values)))
    return rows


def test_shares_of_an_additive_function_are_its_variances() -> None:
    # Var(lr) = 1/12, Var(0.5 weight_decay) = 1/48, Var(0.5 [giou]) = 1/16: 0.50, 0.125 and 0.375 of their sum.
    effects = found(drawn(500, lambda v: v["lr"] + 0.5 * v["weight_decay"] + 0.5 * (v["box_loss"] == "giou")))
    assert effects["lr"].share.main == pytest.approx(0.5, abs=0.06)
    assert effects["weight_decay"].share.main == pytest.approx(0.125, abs=0.05)
    assert effects["box_loss"].share.main == pytest.approx(0.375, abs=0.06)
    assert effects["zoom_max"].share.main < 0.02
    for effect in effects.values():
        assert effect.share.low <= effect.share.main <= effect.share.high
        assert effect.share.total == pytest.approx(effect.share.main, abs=0.05), "nothing is shared"


def test_a_pure_interaction_shows_in_the_total_alone() -> None:
    effects = found(drawn(500, lambda v: float((v["lr"] > 0.5) == (v["box_loss"] == "giou"))))
    for name in ("lr", "box_loss"):
        assert effects[name].share.main < 0.1
        assert effects[name].share.total > 0.7


def test_shares_are_over_the_prior_not_over_what_was_tried() -> None:
    # Nine in ten trials have lr in its best tenth, as a sampler would: among them lr explains next to nothing.
    rows = drawn(450, lambda v: v["lr"] + 0.1 * v["weight_decay"], low=0.9) + drawn(
        50, lambda v: v["lr"] + 0.1 * v["weight_decay"], seed=1
    )
    values = [v["lr"] for v, _ in rows[:450]]
    among_those = association(values, np.array([score for _, score in rows[:450]]).argsort().argsort().astype(float))
    assert among_those < 0.8
    assert found(rows)["lr"].share.main > 0.9


def test_the_curve_of_a_field_is_the_mean_over_all_others() -> None:
    curve = dict(found(drawn(500, lambda v: v["lr"] + (v["box_loss"] == "giou")))["box_loss"].share.curve)
    assert curve["giou"] - curve["smooth_l1"] == pytest.approx(1.0, abs=0.05)
    assert curve["smooth_l1"] == pytest.approx(0.5, abs=0.05)


def test_later_rungs_tell_their_survivors_share_with_their_number() -> None:
    rows = drawn(60, lambda v: v["lr"])
    state = state_with(rows)
    for number in range(20):  # at the second rung weight_decay decides
        reach(state, f"t{number}", 3, rows[number][0]["weight_decay"])
    effects = {effect.field: effect for effect in importance(state).effects}
    n, share = effects["weight_decay"].above[3]
    assert n == 20
    assert share > 0.6
    assert effects["weight_decay"].share.main < 0.05


def test_too_few_survivors_say_nothing_of_their_rung() -> None:
    state = state_with(drawn(20, lambda v: v["lr"]))
    for number in range(MIN_TRIALS - 1):
        reach(state, f"t{number}", 3, 0.5)
    assert all(effect.above == {} for effect in importance(state).effects)


def test_a_diverged_trial_detects_nothing() -> None:
    state = state_with([({"lr": (n + 1) / 10}, 0.5) for n in range(8)])
    config = DetectorConfig().with_values({"lr": 0.95})
    state.apply({
        "event": "trial_created", "trial": "d", "role": "search", "config_hash": "d", "config": config.active_dict(), "varied": {"lr": 0.95}, "seed": 0,
    })  # fmt: skip
    state.apply({"event": "leg_ended", "trial": "d", "outcome": "diverged"})
    assert ("d", 0.0) in [(trial.id, score) for trial, score in first_rung(state)]
    assert importance(state).effects[0].n == 9


def test_noise_has_a_wide_interval_and_explains_nothing() -> None:
    rng = random.Random(1)
    made = importance(state_with(drawn(20, lambda v: rng.random())))
    assert made.explained < 0.2
    assert max(effect.share.high - effect.share.low for effect in made.effects) > 0.3


def test_a_field_that_orders_the_scores_explains_all_of_them() -> None:
    lr = found([({"lr": n / 11}, math.sqrt(n)) for n in range(1, 11)])["lr"]
    assert lr.share.main > 0.95
    assert lr.direction == "higher is better"
    assert lr.n == 10
    assert lr.chance == pytest.approx(1 / (SHUFFLES + 1), abs=0.003)


def test_the_other_direction() -> None:
    assert found([({"lr": n / 1000}, -n + 20.0) for n in range(1, 11)])["lr"].direction == "lower is better"


def test_spearmans_rho_squared_by_hand() -> None:
    # Ranks 1..6 against 2 1 4 3 6 5: sum of d^2 = 6, rho = 1 - 6 * 6 / (6 * 35) = 29 / 35.
    assert association([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], np.array([1.0, 0, 3, 2, 5, 4])) == pytest.approx((29 / 35) ** 2)


def test_eta_squared_of_a_choice_by_hand() -> None:
    # Ranks 0 1 2 | 3 4 5: group means 1 and 4 around 2.5: between 6 * 1.5^2 = 13.5 of 17.5.
    losses = ["l1" if n < 3 else "giou" for n in range(6)]
    assert association(losses, np.arange(6.0)) == pytest.approx(13.5 / 17.5)
    assert found([({"loss": loss}, n / 10) for n, loss in enumerate(losses * 2)])["loss"].direction == "-", (
        "as likely by chance"
    )
    twelve = ["l1" if n < 6 else "giou" for n in range(12)]
    assert found([({"loss": loss}, n / 10) for n, loss in enumerate(twelve)])["loss"].direction == "best: giou"


def test_eta_squared_of_three_options_is_that_of_scipy() -> None:
    from scipy.stats import f_oneway

    rng = np.random.default_rng(0)
    options, ranks = rng.choice(list("abc"), 30).tolist(), rng.permutation(30).astype(float)
    f = f_oneway(*([r for o, r in zip(options, ranks, strict=True) if o == option] for option in "abc")).statistic
    assert association(options, ranks) == pytest.approx(2 * f / (2 * f + 27))  # eta^2 from F of 2 and 27 degrees


def test_a_switch_is_a_choice_not_a_number() -> None:
    rows = [({"shared": n % 2 == 0}, n % 2 + n / 100) for n in range(8)]
    assert found(rows)["shared"].direction == "best: False"


def test_noise_is_called_chance() -> None:
    rng = random.Random(5)
    rows = [({"noise": rng.random(), "lr": n / 16}, n / 100) for n in range(16)]
    everything = found(rows)
    assert everything["noise"].chance > 0.05 > everything["lr"].chance
    assert [effect.field for effect in importance(state_with(rows)).effects] == ["lr", "noise"], (
        "the largest share first"
    )


def test_chance_is_uniform_where_nothing_matters() -> None:
    rng = random.Random(11)
    rows = [({f"x{field}": rng.random() for field in range(20)}, rng.random()) for _ in range(8)]
    chances = [effect.chance for effect in found(rows).values()]
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
    assert effect["lr"].share.main == 0.0
    assert effect["lr"].chance == 1.0


def test_the_same_study_gives_the_same_effects() -> None:
    rng = random.Random(2)
    rows = [({"a": rng.random(), "b": rng.choice("xyz")}, rng.random()) for _ in range(12)]
    assert importance(state_with(rows)).effects == importance(state_with(rows)).effects


def test_an_empty_study_has_no_effects() -> None:
    assert importance(StudyState("mAP", [1, 3])).effects == []
