"""Several objectives and late bloomers: fronts worked by hand, intervals against the published ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from results.audit import audit_of
from results.charts import front
from results.pareto import dominates, pareto_front
from results.state import StudyState


def state_with(rows: list[tuple[str, str, dict[str, float], str]]) -> StudyState:
    """Trials of (id, role, metrics of their one epoch, outcome: finished or pruned)."""
    state = StudyState("mAP", [1, 2])
    for name, role, metrics, outcome in rows:
        created: dict[str, Any] = {
            "event": "trial_created", "trial": name, "role": role, "config_hash": name, "config": {}, "varied": {}, "seed": 0,
            "of": "x" if role == "audit" else "", "to_epoch": 2 if role == "audit" else 1,
        }  # fmt: skip
        state.apply(created)
        target = 2 if outcome == "finished" else 1
        for epoch in range(1, target + 1):
            state.apply(
                {"event": "epoch", "trial": name, "epoch": epoch, "metrics": metrics, "per_class": {}, "seconds": 1}
            )
        state.apply({"event": "leg_started", "trial": name, "to_epoch": target})
        state.apply({"event": "leg_ended", "trial": name, "outcome": "reached"})
    return state


class TestPareto:
    OBJECTIVES = ("mAP", "latency_ms")

    def test_worked_by_hand(self) -> None:
        rows = [
            ("good_slow", {"mAP": 0.5, "latency_ms": 30.0}),
            ("poor_fast", {"mAP": 0.2, "latency_ms": 5.0}),
            ("middle", {"mAP": 0.4, "latency_ms": 10.0}),
            ("beaten", {"mAP": 0.4, "latency_ms": 12.0}),
            ("twin", {"mAP": 0.5, "latency_ms": 30.0}),
        ]
        state = state_with([(name, "search", metrics, "finished") for name, metrics in rows])
        front = pareto_front(state, self.OBJECTIVES)
        assert [row["trial"] for row in front] == ["good_slow", "twin", "middle", "poor_fast"]
        assert front[0] == {"trial": "good_slow", "config": "good_slow", "mAP": 0.5, "latency_ms": 30.0}

    def test_only_who_reached_the_top_and_has_all_objectives(self) -> None:
        state = state_with(
            [
                ("a", "search", {"mAP": 0.5, "latency_ms": 30.0}, "finished"),
                ("b", "search", {"mAP": 0.9, "latency_ms": 1.0}, "pruned"),
                ("c", "search", {"mAP": 0.9}, "finished"),
            ]
        )
        assert [row["trial"] for row in pareto_front(state, self.OBJECTIVES)] == ["a"]

    def test_fewer_parameters_are_better(self) -> None:
        assert dominates([0.5, 1e6], [0.5, 2e6], ("mAP", "parameters"))
        assert not dominates([0.5, 2e6], [0.5, 1e6], ("mAP", "parameters"))

    def test_the_chart_has_the_score_upwards_and_the_cost_to_the_right(self) -> None:
        state = state_with(
            [
                ("a", "search", {"mAP": 0.5, "latency_ms": 30.0}, "finished"),
                ("b", "search", {"mAP": 0.4, "latency_ms": 40.0}, "finished"),
            ]
        )
        drawn = front(SimpleNamespace(plan={"objectives": list(self.OBJECTIVES)}, state=state))  # type: ignore[arg-type]
        assert drawn is not None
        assert (drawn.x, drawn.y) == ("latency_ms", "mAP")
        dominated, on_front = drawn.marks
        assert (on_front.x, on_front.y) == ([30.0], [0.5])  # type: ignore[union-attr]
        assert (dominated.x, dominated.y) == ([40.0], [0.4])  # type: ignore[union-attr]

    def test_less_latency_is_better_and_equal_is_no_domination(self) -> None:
        assert dominates([0.5, 10.0], [0.5, 11.0], self.OBJECTIVES)
        assert not dominates([0.5, 11.0], [0.5, 10.0], self.OBJECTIVES)
        assert not dominates([0.5, 10.0], [0.5, 10.0], self.OBJECTIVES)


class TestAudit:
    def study(self, audited: list[float]) -> StudyState:
        search = [(f"s{n}", "search", {"mAP": 0.5 - n / 10}, "finished") for n in range(4)]
        pruned = [(f"p{n}", "search", {"mAP": 0.1}, "pruned") for n in range(9)]
        return state_with(
            [*search, *pruned, *((f"a{n}", "audit", {"mAP": x}, "finished") for n, x in enumerate(audited))]
        )

    def test_counts_who_beats_the_kth_best(self) -> None:
        found = audit_of(self.study([0.45, 0.31, 0.3, 0.2, 0.1]), 3)  # the third best of the search has 0.3
        assert found is not None
        assert (found.entered, found.audited, found.top, found.pruned) == (2, 5, 3, 9)

    # Clopper and Pearson's intervals: 0 of 5: 1 - 0.025^(1/5) = 0.5218; 5 of 5 its mirror; 2 of 5: tables.
    @pytest.mark.parametrize(
        ("audited", "low", "high"),
        [([0.1] * 5, 0.0, 0.5218), ([0.9] * 5, 0.4782, 1.0), ([0.9, 0.9, 0.1, 0.1, 0.1], 0.0527, 0.8534)],
    )
    def test_the_interval_is_clopper_and_pearsons(self, audited: list[float], low: float, high: float) -> None:
        found = audit_of(self.study(audited), 3)
        assert found is not None
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
        assert f"{found.entered} of 5 pruned trials (of 9)" in found.describe()

    def test_to_diverge_is_not_to_enter(self) -> None:
        state = self.study([0.45, 0.1])
        state.trials["a1"].outcome = "diverged"
        state.trials["a1"].epochs[1] = {
            **state.trials["a0"].epochs[max(state.trials["a0"].epochs)]
        }  # high before it did
        found = audit_of(state, 3)
        assert found is not None
        assert (found.entered, found.audited) == (1, 2)

    def test_without_an_audit_there_is_none(self) -> None:
        assert audit_of(self.study([]), 3) is None
