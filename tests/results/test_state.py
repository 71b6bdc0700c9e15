"""The state of a study as a pure function of its journal."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.state import StudyState, metric_of

LEVELS = [1, 3, 9]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("mAP", 0.5), ("AP_small", math.nan), ("AP75", math.nan), ("class:car", 0.25), ("class:tram", math.nan)],
)
def test_minus_one_null_and_missing_scores_are_nan(metric: str, expected: float) -> None:
    record = {"metrics": {"mAP": 0.5, "AP_small": -1.0, "AP75": None}, "per_class": {"car": 0.25, "tram": -1.0}}
    assert metric_of(record, metric) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(metric_of(record, "class:unknown"))


def created(trial: str, **more: Any) -> dict[str, Any]:
    values = {"role": "search", "config_hash": f"h{trial}", "config": {}, "varied": {}, "seed": 0, "proposal": None}
    return {"event": "trial_created", "trial": trial, **values, **more}


def started(trial: str, to_epoch: int) -> dict[str, Any]:
    return {"event": "leg_started", "trial": trial, "leg": 1, "from_epoch": 0, "to_epoch": to_epoch}


def epoch(trial: str, number: int, score: float | None) -> dict[str, Any]:
    return {
        "event": "epoch",
        "trial": trial,
        "epoch": number,
        "metrics": {"mAP": score},
        "per_class": {},
        "seconds": 2.0,
    }


def ended(trial: str, outcome: str, reason: str = "") -> dict[str, Any]:
    return {"event": "leg_ended", "trial": trial, "outcome": outcome, "reason": reason}


def replayed(*records: dict[str, Any]) -> StudyState:
    return StudyState.replay(records, "mAP", LEVELS)


class TestState:
    def test_a_trial_between_rungs_is_paused_and_told_pruned(self) -> None:
        state = replayed(created("a"), started("a", 1), epoch("a", 1, 0.2), ended("a", "reached"))
        trial = state.trials["a"]
        assert (trial.rung, trial.outcome, trial.leg_target, trial.last_epoch) == (0, "", None, 1)
        assert state.arrivals == [{"a": 0.2}, {}, {}]
        assert state.final_state(trial) == "pruned"

    def test_a_trial_at_the_top_is_finished(self) -> None:
        records = [created("a"), started("a", 9), *(epoch("a", n, n / 10) for n in range(1, 10)), ended("a", "reached")]
        state = replayed(*records)
        assert state.final_state(state.trials["a"]) == "finished"
        assert state.arrivals[2] == {"a": 0.9}

    @pytest.mark.parametrize("outcome", ["interrupted", "lost", "error"])
    def test_a_leg_that_was_cut_short_is_still_owed(self, outcome: str) -> None:
        state = replayed(created("a"), started("a", 3), epoch("a", 1, 0.2), ended("a", outcome))
        assert state.trials["a"].leg_target == 3
        assert state.final_state(state.trials["a"]) == "stopped"
        assert (state.trials["a"].losses, state.trials["a"].retries) == (outcome == "lost", outcome == "error")

    @pytest.mark.parametrize("outcome", ["diverged", "failed", "infeasible"])
    def test_a_leg_that_cannot_go_on_ends_its_trial_with_the_reason(self, outcome: str) -> None:
        state = replayed(created("a"), started("a", 1), ended("a", outcome, "loss became nan"))
        assert (state.final_state(state.trials["a"]), state.trials["a"].reason) == (outcome, "loss became nan")

    def test_the_first_report_of_an_epoch_counts(self) -> None:
        state = replayed(created("a"), started("a", 1), epoch("a", 1, 0.2), epoch("a", 1, 0.7))
        assert state.trials["a"].score("mAP", 1) == 0.2

    def test_the_best_epoch_is_the_earliest_of_equals_and_never_nan(self) -> None:
        scores = [0.1, 0.4, None, 0.4]
        state = replayed(created("a"), started("a", 9), *(epoch("a", n, s) for n, s in enumerate(scores, 1)))
        assert state.trials["a"].ranked_epoch("mAP") == 2
        assert state.trials["a"].ranked_score("mAP") == 0.4
        assert state.trials["a"].seconds == 8.0

    def test_best_trial_prefers_the_higher_rung_then_the_score_then_the_first(self) -> None:
        def at_rung(trial: str, level: int, score: float) -> list[dict[str, Any]]:
            return [created(trial), started(trial, level), epoch(trial, level, score), ended(trial, "reached")]

        assert replayed().best_trial() is None
        state = replayed(*at_rung("low", 1, 0.9), *at_rung("a", 3, 0.3), *at_rung("b", 3, 0.5), *at_rung("c", 3, 0.5))
        assert state.best_trial() is state.trials["b"]

    def test_unknown_events_change_nothing_but_are_kept(self) -> None:
        state = replayed(created("a"), {"event": "from_the_future", "trial": "a"})
        assert len(state.records) == 2
        assert list(state.trials) == ["a"]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["create", "start", "epoch", "end", "promote", "prune"]), st.integers(0, 3), st.integers(1, 9)
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(EVENTS)
def test_replay_of_any_prefix_is_the_state_that_the_live_state_had_there(events: list[tuple[str, int, int]]) -> None:
    records: list[dict[str, Any]] = [created(str(n)) for n in range(4)]
    for kind, who, number in events:
        trial = str(who)
        match kind:
            case "create":
                records.append({"event": "proposal", "number": number, "values": {}})
            case "start":
                records.append(started(trial, LEVELS[number % 3]))
                records.append(epoch(trial, LEVELS[number % 3], number / 10))
            case "epoch":
                records.append(epoch(trial, number, number / 10))
            case "end":
                outcomes = ("reached", "lost", "error", "diverged", "interrupted")
                target = next(
                    (r["to_epoch"] for r in reversed(records) if r["event"] == "leg_started" and r["trial"] == trial),
                    None,
                )
                if target is not None:
                    records.append(ended(trial, outcomes[number % 5]))
            case "promote":
                records.append({"event": "promoted", "trial": trial, "rung": number % 3, "to_epoch": 9})
            case "prune":
                records.append({"event": "trial_pruned", "trial": trial, "reason": f"{number}th"})
    live = StudyState("mAP", LEVELS)
    for count, record in enumerate(records, 1):
        live.apply(record)
        then = StudyState.replay(copy.deepcopy(records[:count]), "mAP", LEVELS)
        assert vars(then) == vars(live), count
