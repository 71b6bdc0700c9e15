"""The verdict: winner against base, on the same seeds and to the same length, by hand-worked numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from results.state import StudyState
from results.tables import configurations, delivered, summary
from results.verdict import compared_trials, verdict_of

LEVELS = [1, 9]


class Journal:
    """Writes the records of a small study by hand."""

    def __init__(self) -> None:
        self.state = StudyState("mAP", LEVELS)

    def record(self, event: str, **values: Any) -> None:
        self.state.apply({"event": event, "time": 0.0, **values})

    def trial(
        self, name: str, config: str, score: float, role: str = "search", seed: int = 0, to: int = 9, of: str = ""
    ) -> None:
        own: dict[str, Any] = (
            {"of": of, "to_epoch": to, **({"levels": [to]} if role in ("polish", "plain") else {})} if of else {}
        )
        self.record(
            "trial_created",
            trial=name,
            role=role,
            config_hash=config,
            config={"lr": config},
            varied={},
            seed=seed,
            **own,
        )
        for epoch in (1, to) if role == "search" and to > 1 else (to,):
            self.record("leg_started", trial=name, to_epoch=epoch)
            metrics = {"mAP": score if epoch == to else 0.01, "AP50": 0.5}
            self.record("epoch", trial=name, epoch=epoch, metrics=metrics, per_class={}, seconds=3.0, threads=2)
            self.record("leg_ended", trial=name, outcome="reached")

    def study(self, base: float, best: float) -> Journal:
        self.trial("b", "base", base)
        self.trial("w", "win", best)
        self.trial("p", "pruned", 0.05, to=1)
        return self

    def finals(self, base: list[float], best: list[float]) -> Journal:
        for seed, (a, b) in enumerate(zip(base, best, strict=True), 1):
            self.trial(f"b{seed}", "base", a, "final", seed, of="b")
            self.trial(f"w{seed}", "win", b, "final", seed, of="w")
        return self


def test_one_seed_gives_a_difference_and_no_interval_and_says_so() -> None:
    found = verdict_of(Journal().study(0.30, 0.36).state)
    assert found is not None
    assert (found.low, found.high, found.seeds, found.split, found.decision) == (
        None,
        None,
        1,
        "val",
        "not established",
    )
    assert found.difference == pytest.approx(0.06)
    assert "0.060 mAP more than the base, on one seed, which gives no interval" in found.describe()
    assert "--seeds-final 3" in found.advice()
    assert "test.json" in found.advice()


def test_fresh_seeds_give_a_paired_interval_and_the_seed_that_chose_counts_no_more() -> None:
    journal = Journal().study(0.30, 0.90).finals([0.30, 0.31, 0.32], [0.36, 0.36, 0.39])
    found = verdict_of(journal.state)
    assert found is not None
    # Gaps 0.06 0.05 0.07: mean 0.06, sd 0.01, error 0.01 / sqrt(3), t of 2 degrees of freedom at 97.5 %: 4.3027.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert found.difference == pytest.approx(0.06)
    assert (found.low, found.high) == (pytest.approx(0.06 - half, abs=1e-6), pytest.approx(0.06 + half, abs=1e-6))
    assert (found.seeds, found.decision, found.fresh) == (3, "better", True)
    assert found.describe().startswith(
        "The winner beats the base by 0.060 mAP (95 % interval +0.035 .. +0.085 over 3 seeds)"
    )


def test_an_interval_that_holds_zero_establishes_nothing() -> None:
    found = verdict_of(Journal().study(0.30, 0.36).finals([0.30, 0.31, 0.32], [0.31, 0.30, 0.34]).state)
    assert found is not None
    assert found.decision == "not established"
    assert "is not established (95 % interval" in found.describe()
    assert "--seeds-final 6" in found.advice()


def test_a_winner_of_the_validation_images_may_lose_on_the_held_out_ones() -> None:
    journal = Journal().study(0.30, 0.36).finals([0.30, 0.31, 0.32], [0.36, 0.36, 0.39])
    for seed, (base, best) in enumerate([(0.30, 0.20), (0.31, 0.21), (0.32, 0.22)], 1):
        journal.record("test_scored", trial=f"b{seed}", which="base", metrics={"mAP": base})
        journal.record("test_scored", trial=f"w{seed}", which="best", metrics={"mAP": best})
    found = verdict_of(journal.state)
    assert found is not None
    assert (found.split, found.decision) == ("test", "worse")
    assert "The base is better than the winner, by 0.100 mAP" in found.describe()


def test_fresh_seeds_choose_the_winner_too() -> None:
    """What led by luck on the search's seed is not compared as the winner where the base means more."""
    found = verdict_of(Journal().study(0.30, 0.36).finals([0.30, 0.31, 0.32], [0.20, 0.21, 0.22]).state)
    assert found is not None
    assert found.decision == "base is best"


def test_a_fresh_seed_that_diverged_counts_as_nothing_learned() -> None:
    journal = Journal().study(0.30, 0.36).finals([0.30, 0.31], [0.40, 0.41])
    journal.record("leg_ended", trial="b2", outcome="diverged")
    found = verdict_of(journal.state)
    assert found is not None
    assert found.difference == pytest.approx(((0.40 - 0.30) + (0.41 - 0.0)) / 2)


def test_where_the_base_wins_it_is_said() -> None:
    found = verdict_of(Journal().study(0.40, 0.36).state)
    assert found is not None
    assert (found.decision, found.difference) == ("base is best", 0.0)
    assert found.describe().startswith("The base is best")


def test_trials_of_different_lengths_are_not_compared() -> None:
    journal = Journal()
    journal.trial("b", "base", 0.1, to=1)
    journal.trial("w", "win", 0.3)
    found = verdict_of(journal.state)
    assert found is not None
    assert (found.difference, found.decision) == (None, "not established")
    assert "were not trained to the same length" in found.describe()


def test_held_out_scores_take_the_place_of_validation_once_all_have_them() -> None:
    journal = Journal().study(0.30, 0.36)
    assert [trial.id for trial in compared_trials(journal.state)] == ["w", "b"]
    journal.record("test_scored", trial="w", which="best", metrics={"mAP": 0.50})
    assert verdict_of(journal.state).split == "val"  # type: ignore[union-attr]
    journal.record("test_scored", trial="b", which="base", metrics={"mAP": 0.49})
    found = verdict_of(journal.state)
    assert found is not None
    assert (found.split, found.difference) == ("test", pytest.approx(0.01))
    assert "the held-out split" in found.describe()


def test_nothing_is_said_before_anything_scored() -> None:
    assert verdict_of(StudyState("mAP", LEVELS)) is None


def test_the_longer_training_is_the_best_where_it_scored_more_and_the_winner_stays_the_winner() -> None:
    for score, top in ((0.5, "long"), (0.2, "w")):
        journal = Journal().study(0.30, 0.36)
        journal.trial("long", "win-36", score, "polish", to=36, of="w")
        rows = configurations(journal.state)
        assert rows[0]["trial"] == top
        assert [row["best_rung"] for row in rows if row["trial"] == "long"] == [36]
        assert delivered(journal.state).id == top  # type: ignore[union-attr]
        assert verdict_of(journal.state).difference == pytest.approx(0.06)  # type: ignore[union-attr]


def test_the_summary_tells_what_it_cost_and_what_the_base_gives_for_that() -> None:
    journal = Journal().study(0.30, 0.36)
    journal.trial("plain", "base-40", 0.33, "plain", to=40, of="b")
    told = summary({"name": "s", "dataset": {}, "versions": {}}, journal.state)
    assert told["cost"] == {
        "epochs": 5,
        "worker_minutes": 0.5,
    }  # five epochs of 3 s on 2 threads; the plain one is no cost
    assert [(row["epochs"], row["score"], row["of_epochs"]) for row in told["plain"]] == [(40, 0.33, 9)]
    assert told["trials"] == 3, "the search's alone"
