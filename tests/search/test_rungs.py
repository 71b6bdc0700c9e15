"""Rungs and the three schedulers: golden ladders, algorithm 2 of the ASHA paper as an oracle, and Ray's own decisions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.rungs import (
    SCHEDULERS,
    NoPruning,
    PromotionAsha,
    Rung,
    Scheduler,
    StoppingAsha,
    make_scheduler,
    percentile,
    rung_levels,
)

REPEATABLE = settings(max_examples=100, deadline=None, derandomize=True)
THOUSANDS = settings(max_examples=2000, deadline=None, derandomize=True)

# Few distinct scores, so that ties are common.
SCORES = st.integers(0, 6).map(lambda tenth: tenth / 10)
SCORES_OR_NAN = st.one_of(SCORES, SCORES, SCORES, st.just(math.nan))


class TestRungLevels:
    def test_powers_of_three_to_243_are_six_rungs(self) -> None:
        # A float logarithm finds 4.999.. steps here and loses a rung.
        assert rung_levels(1, 243, 3) == [1, 3, 9, 27, 81, 243]

    def test_the_top_is_the_last_rung_where_eta_does_not_divide(self) -> None:
        assert rung_levels(2, 18, 3) == [2, 6, 18]
        assert rung_levels(2, 20, 3) == [2, 6, 18, 20]
        assert rung_levels(1, 10, 4) == [1, 4, 10]

    def test_grace_equal_to_the_top_is_one_rung(self) -> None:
        assert rung_levels(7, 7, 3) == [7]

    @pytest.mark.parametrize("eta", [1, 0, -3])
    def test_eta_below_two_is_refused(self, eta: int) -> None:
        with pytest.raises(ValueError, match=f"--eta must be at least 2.*got {eta}"):
            rung_levels(1, 9, eta)

    @pytest.mark.parametrize(("grace", "top"), [(0, 9), (-1, 9), (10, 9), (1, 0)])
    def test_grace_outside_the_budget_is_refused_with_both_values(self, grace: int, top: int) -> None:
        with pytest.raises(ValueError, match=f"--grace {grace} --epochs {top}"):
            rung_levels(grace, top, 3)

    @REPEATABLE
    @given(st.integers(1, 50), st.integers(0, 5000), st.integers(2, 7))
    def test_levels_grow_by_eta_and_end_at_the_top(self, grace: int, more: int, eta: int) -> None:
        top = grace + more
        levels = rung_levels(grace, top, eta)
        assert levels[0] == grace or levels == [top]
        assert levels[-1] == top
        assert levels == sorted(set(levels))
        assert all(levels[k + 1] == levels[k] * eta for k in range(len(levels) - 2))
        if len(levels) > 1:
            assert levels[-2] < top <= levels[-2] * eta


def algorithm_2(rungs: list[list[tuple[str, float]]], promoted: list[set[str]], eta: int) -> tuple[str, int] | None:
    """get_job of Li et al. 2020, algorithm 2, line for line: lists of (trial, score) in order of arrival.

    Written without the code under test: repeated maximum instead of a sort. NaN is never among the best.
    """
    for k in reversed(range(len(rungs) - 1)):
        left = list(rungs[k])
        candidates: list[str] = []
        for _ in range(len(rungs[k]) // eta):
            best = None
            for entry in left:
                if not math.isnan(entry[1]) and (best is None or entry[1] > best[1]):
                    best = entry
            if best is None:
                break
            left.remove(best)
            candidates.append(best[0])
        promotable = [trial for trial in candidates if trial not in promoted[k]]
        if promotable:
            return promotable[0], k
    return None


def all_promotions(scheduler: Scheduler, rung: Rung) -> list[str]:
    """Who goes on from the first rung while nobody new arrives, in order."""
    gone: list[str] = []
    while (promotion := scheduler.next_promotion([rung, Rung(), Rung()])) is not None:
        gone.append(promotion[0])
        rung.promote(promotion[0])
    return gone


def goes_on(scheduler: StoppingAsha, scores: list[float]) -> bool:
    """Whether the last of these scores, in order of arrival, is let on."""
    names = [str(number) for number in range(len(scores))]
    return names[-1] in all_promotions(scheduler, Rung(dict(zip(names, scores, strict=True))))


class TestPromotionAsha:
    @THOUSANDS
    @given(st.integers(2, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 50), SCORES_OR_NAN), max_size=60))
    def test_decides_as_algorithm_2_on_any_order_of_events(
        self, eta: int, events: list[tuple[bool, int, float]]
    ) -> None:
        levels = rung_levels(1, eta**3, eta)
        scheduler = PromotionAsha(levels, eta)
        rungs = [Rung() for _ in levels]
        plain: list[list[tuple[str, float]]] = [[] for _ in levels]
        promoted: list[set[str]] = [set() for _ in levels]
        running: list[tuple[str, int]] = []
        created = 0
        for finishes, which, score in events:
            if finishes and running:
                trial, rung = running.pop(which % len(running))
                rungs[rung].arrive(trial, score)
                plain[rung].append((trial, score))
            else:
                expected = algorithm_2(plain, promoted, eta)
                assert scheduler.next_promotion(rungs) == expected
                if expected is None:
                    created += 1
                    running.append((f"t{created}", 0))
                else:
                    trial, rung = expected
                    rungs[rung].promote(trial)
                    promoted[rung].add(trial)
                    running.append((trial, rung + 1))

    def test_the_first_trial_alone_waits(self) -> None:
        scheduler = PromotionAsha([1, 3, 9], 3)
        assert scheduler.next_promotion([Rung({"a": 0.9}), Rung(), Rung()]) is None

    def test_at_the_rung_boundary_one_of_eta_goes_on(self) -> None:
        scheduler = PromotionAsha([1, 3, 9], 3)
        two = {"a": 0.1, "b": 0.2}
        assert scheduler.next_promotion([Rung(two), Rung(), Rung()]) is None  # floor(2 / 3) = 0
        assert scheduler.next_promotion([Rung({**two, "c": 0.0}), Rung(), Rung()]) == ("b", 0)  # floor(3 / 3) = 1

    def test_n_that_is_no_multiple_of_eta_is_rounded_down(self) -> None:
        scheduler = PromotionAsha([1, 3, 9], 3)
        five = {"a": 0.1, "b": 0.5, "c": 0.4, "d": 0.3, "e": 0.2}
        assert all_promotions(scheduler, Rung(five)) == ["b"]  # floor(5 / 3) = 1
        assert all_promotions(scheduler, Rung({**five, "f": 0.0})) == ["b", "c"]  # floor(6 / 3) = 2

    def test_of_equal_scores_the_first_to_arrive_goes_on(self) -> None:
        scheduler = PromotionAsha([1, 3], 3)
        assert scheduler.next_promotion([Rung({"late": 0.1, "first": 0.5, "second": 0.5}), Rung()]) == ("first", 0)
        assert scheduler.next_promotion([Rung({"second": 0.5, "late": 0.1, "first": 0.5}), Rung()]) == ("second", 0)

    def test_nan_is_worst_and_counts_as_an_arrival(self) -> None:
        scheduler = PromotionAsha([1, 3], 3)
        assert scheduler.next_promotion([Rung({"a": math.nan, "b": 0.0, "c": math.nan}), Rung()]) == ("b", 0)
        assert scheduler.next_promotion([Rung(dict.fromkeys("abc", math.nan)), Rung()]) is None

    def test_the_highest_rung_is_promoted_first(self) -> None:
        scheduler = PromotionAsha([1, 3, 9], 3)
        low = Rung(dict(zip("abcdefgh", (0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.95, 0.1), strict=True)), set("abc"))
        middle = Rung({"a": 0.3, "b": 0.6, "c": 0.2})
        assert scheduler.next_promotion([low, middle, Rung()]) == ("b", 1)
        middle.promote("b")
        assert scheduler.next_promotion([low, middle, Rung()]) == ("g", 0)

    def test_nobody_leaves_the_top(self) -> None:
        everyone = dict.fromkeys("abcdef", 0.5)
        assert PromotionAsha([1, 3], 3).next_promotion([Rung(), Rung(everyone)]) is None

    def test_explain_says_place_number_and_how_many_went_on(self) -> None:
        rungs = [Rung({"a": 0.1, "b": 0.5, "c": 0.4}), Rung()]
        assert PromotionAsha([1, 3], 3).explain(rungs, "c", 0) == "2nd of 3 at the rung of 1, where the top 1 went on"


def ray_scheduler(levels: list[int], eta: int) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr="epoch", metric="score", mode="max", max_t=levels[-1], grace_period=levels[0], reduction_factor=eta
    )


class TestStoppingAsha:
    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        st.integers(2, 4),
        st.sampled_from([(1, 9), (1, 27), (2, 20), (1, 10), (3, 81)]),
        st.lists(st.tuples(st.integers(0, 100), SCORES), max_size=60),
    )
    def test_decides_as_rays_async_hyperband_on_any_order_of_results(
        self, eta: int, budget: tuple[int, int], events: list[tuple[int, float]]
    ) -> None:
        levels = rung_levels(*budget, eta)
        ours, rays = StoppingAsha(levels, eta), ray_scheduler(levels, eta)
        rungs = [Rung() for _ in levels]
        active: list[tuple[Any, int]] = []  # (Ray's trial, the rung it trains to)
        for number, (which, score) in enumerate(events):
            if which % 3 == 0 or not active:
                trial = SimpleNamespace(trial_id=f"t{number}", status="RUNNING")
                rays.on_trial_add(None, trial)
                active.append((trial, 0))
            trial, rung = active.pop(which % len(active))
            rungs[rung].arrive(trial.trial_id, score)
            if rung == len(levels) - 1:
                continue  # Ray stops everything at max_t, and so do we
            decision = rays.on_trial_result(None, trial, {"epoch": levels[rung], "score": score})
            promotion = ours.next_promotion(rungs)
            assert promotion == ((trial.trial_id, rung) if decision == rays.CONTINUE else None)
            if promotion is not None:
                rungs[rung].promote(trial.trial_id)
                active.append((trial, rung + 1))

    def test_the_first_trial_goes_on(self) -> None:
        assert StoppingAsha([1, 3], 3).next_promotion([Rung({"a": 0.0}), Rung()]) == ("a", 0)

    def test_the_cutoff_is_taken_over_earlier_scores_only(self) -> None:
        # The (1 - 1/2) percentile of 0.25 and 0.75 is 0.5: 0.5 goes on, 0.49 does not.
        scheduler = StoppingAsha([1, 2], 2)
        assert scheduler.cutoff([0.25, 0.75]) == pytest.approx(0.5)
        assert goes_on(scheduler, [0.25, 0.75, 0.5])
        assert not goes_on(scheduler, [0.25, 0.75, 0.49])

    def test_a_tie_with_the_cutoff_goes_on(self) -> None:
        assert goes_on(StoppingAsha([1, 2], 2), [0.5, 0.5])

    def test_nan_among_earlier_scores_is_left_out(self) -> None:
        assert goes_on(StoppingAsha([1, 2], 2), [math.nan, 0.2, 0.4, 0.31])
        assert not goes_on(StoppingAsha([1, 2], 2), [math.nan, 0.2, 0.4, 0.29])

    def test_nan_does_not_go_on_past_a_real_score(self) -> None:
        # "NaN is worst", says the module.
        assert not goes_on(StoppingAsha([1, 2], 2), [0.2, 0.4, math.nan])

    def test_after_nan_alone_a_real_score_goes_on_without_a_warning(self) -> None:
        assert goes_on(StoppingAsha([1, 2], 2), [math.nan, 0.2])

    def test_explain_says_the_cutoff(self) -> None:
        rungs = [Rung({"a": 0.4, "b": 0.1}), Rung()]
        assert (
            StoppingAsha([1, 2], 2).explain(rungs, "b", 0)
            == "0.100 at the rung of 1, below the cut-off 0.400 of 1 before it"
        )


@pytest.mark.parametrize("name", SCHEDULERS)
class TestEveryScheduler:
    """What holds for any scheduler, on random orders of events with ties."""

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(events=st.lists(st.tuples(st.booleans(), st.integers(0, 50), SCORES), max_size=50))
    def test_promotes_once_from_a_rung_only_who_is_there_and_explains_the_rest(
        self, name: str, events: list[tuple[bool, int, float]]
    ) -> None:
        scheduler = make_scheduler(name, rung_levels(1, 9, 3), 3)
        rungs = [Rung() for _ in scheduler.levels]
        running: list[tuple[str, int]] = []
        promotions: set[tuple[str, int]] = set()
        created = 0
        for finishes, which, score in events:
            if finishes and running:
                trial, rung = running.pop(which % len(running))
                rungs[rung].arrive(trial, score)
                continue
            promotion = scheduler.next_promotion(rungs)
            assert promotion == scheduler.next_promotion(rungs), "asking changes nothing"
            if promotion is None:
                created += 1
                running.append((f"t{created}", 0))
                continue
            trial, rung = promotion
            assert promotion not in promotions
            assert trial in rungs[rung].scores
            assert 0 <= rung < len(scheduler.levels) - 1
            assert trial not in rungs[rung + 1].scores
            promotions.add(promotion)
            rungs[rung].promote(trial)
            running.append((trial, rung + 1))
        for index, rung_at in enumerate(rungs):
            for trial in rung_at.scores.keys() - rung_at.promoted:
                words = scheduler.explain(rungs, trial, index)
                assert len(words.split()) >= 3, words
                assert "nan" not in words

    def test_the_last_level_is_the_top(self, name: str) -> None:
        assert make_scheduler(name, rung_levels(1, 9, 3), 3).levels[-1] == 9


def test_who_was_due_to_go_on_is_not_told_that_others_did() -> None:
    scheduler = make_scheduler("asha", rung_levels(1, 9, 3), 3)
    rungs = [Rung({"a": 0.3, "b": 0.2, "c": 0.1}), Rung(), Rung()]
    assert scheduler.explain(rungs, "a", 0) == "1st of 3 at the rung of 1: due to go on when the study ended"
    assert scheduler.explain(rungs, "b", 0) == "2nd of 3 at the rung of 1, where the top 1 went on"


def test_none_has_one_rung_and_promotes_nobody() -> None:
    scheduler = make_scheduler("none", [9], 3)
    assert isinstance(scheduler, NoPruning)
    assert scheduler.levels == [9]
    assert scheduler.next_promotion([Rung({"a": 1.0, "b": 0.5, "c": 0.2})]) is None


@REPEATABLE
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 9))
def test_the_percentile_is_numpys_to_the_last_bit(scores: list[float], eta: int) -> None:
    assert percentile(sorted(scores), (1 - 1 / eta) * 100) == np.percentile(scores, (1 - 1 / eta) * 100)


@REPEATABLE
@given(st.lists(SCORES_OR_NAN, max_size=30), st.lists(st.integers(0, 100), max_size=10))
def test_a_rung_ranks_as_a_stable_sort_does(scores: list[float], promoted: list[int]) -> None:
    rung = Rung({str(number): score for number, score in enumerate(scores)})
    for number in dict.fromkeys(n % len(scores) for n in promoted if scores):
        rung.promote(str(number))
    ranked = sorted(rung.scores, key=lambda t: math.inf if math.isnan(rung.scores[t]) else -rung.scores[t])
    assert [rung.place(trial) for trial in ranked] == list(range(len(scores)))
    waiting = [t for t in ranked if t not in rung.promoted and not math.isnan(rung.scores[t])]
    assert rung.best_waiting() == (waiting[0] if waiting else None)
