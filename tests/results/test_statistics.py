"""Statistics against scipy, statsmodels, closed forms and cases worked by hand; their coverage is in benchmarks/coverage.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from results.statistics import (
    bootstrap_mean,
    detectable_by_interval,
    differences,
    fit_two_way,
    hedges,
    holm,
    mean_interval,
    minimum_detectable,
    paired_difference,
    unequal_spread,
)

NAN = math.nan


def drawn(steps: int, seeds: int, rng: np.random.Generator) -> dict[str, dict[int, float]]:
    """Scores with an effect of each seed, as trainings have them."""
    luck = rng.normal(0, 0.02, seeds)
    return {
        f"s{k}": {seed: float(0.3 + 0.01 * k + luck[seed] + rng.normal(0, 0.01)) for seed in range(seeds)}
        for k in range(steps)
    }


class TestTwoWay:
    def test_a_case_worked_by_hand(self) -> None:
        """Two steps, three seeds: gaps 1, 2, 3; the residual of the model is theirs, halved.

        Mean gap 2; residuals are +-(gap - 2)/2: squares 4 x 0.25 = 1 over 2 degrees of freedom, variance 0.5;
        the standard error of the gap is sqrt(2 x 0.5 / 3) = 0.57735.
        """
        scores = {"a": {0: 10.0, 1: 20.0, 2: 30.0}, "b": {0: 11.0, 1: 22.0, 2: 33.0}}
        model = fit_two_way(scores)
        assert (model.degrees_of_freedom, model.residual_sd) == (2, pytest.approx(math.sqrt(0.5)))
        found = differences(scores, [("b", "a")])[0]
        assert found.estimate == pytest.approx(2.0)
        assert (found.high - found.low) / 2 == pytest.approx(4.302653 * 0.577350, rel=1e-6)
        paired = found.paired
        assert paired is not None  # with two steps, both are the same test
        assert (paired.low, paired.high, paired.p) == pytest.approx((found.low, found.high, found.p))

    @pytest.mark.parametrize(("steps", "seeds"), [(2, 3), (4, 3), (11, 3), (6, 5)])
    def test_a_full_table_has_the_closed_form(self, steps: int, seeds: int) -> None:
        scores = drawn(steps, seeds, np.random.default_rng(steps * 10 + seeds))
        table = np.array([list(row.values()) for row in scores.values()])
        left = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
        freedom = (steps - 1) * (seeds - 1)
        sd = math.sqrt((left**2).sum() / freedom)
        model = fit_two_way(scores)
        assert (model.degrees_of_freedom, model.residual_sd) == (freedom, pytest.approx(sd))
        found = differences(scores, [(f"s{k}", f"s{k - 1}") for k in range(1, steps)])
        half = stats.t.ppf(0.975, freedom) * sd * math.sqrt(2 / seeds)
        for k, difference in enumerate(found, 1):
            gap = table[k].mean() - table[k - 1].mean()
            assert (difference.estimate, difference.low, difference.high) == pytest.approx(
                (gap, gap - half, gap + half)
            )
            assert difference.effect_size == pytest.approx(hedges(freedom) * gap / sd)
            assert difference.missing == ()

    def test_with_missing_cells_it_is_statsmodels_least_squares(self) -> None:
        pandas = pytest.importorskip("pandas")
        formula = pytest.importorskip("statsmodels.formula.api")
        scores = drawn(5, 4, np.random.default_rng(7))
        del scores["s1"][2], scores["s3"][0], scores["s3"][3]
        rows = [(step, f"seed{seed}", score) for step, row in scores.items() for seed, score in row.items()]
        frame = pandas.DataFrame(rows, columns=["step", "seed", "score"])
        reference = formula.ols("score ~ C(step, Treatment('s2')) + C(seed)", frame).fit()
        name = "C(step, Treatment('s2'))[T.s3]"
        found = differences(scores, [("s3", "s2")])[0]
        low, high = reference.conf_int().loc[name]
        assert (found.estimate, found.low, found.high, found.p) == pytest.approx(
            (reference.params[name], low, high, reference.pvalues[name])
        )
        assert (found.n, found.missing) == (2, (0, 3))

    def test_one_seed_gives_values_without_intervals(self) -> None:
        found = differences({"a": {0: 0.2}, "b": {0: 0.3}}, [("b", "a")])[0]
        assert found.estimate == pytest.approx(0.1)
        assert all(math.isnan(v) for v in (found.low, found.high, found.p, found.p_holm, found.detectable))
        assert found.paired is None
        assert not found.significant

    def test_steps_that_share_no_seed_and_no_third_step_are_not_compared(self) -> None:
        found = differences({"a": {0: 0.2, 1: 0.3}, "b": {2: 0.3, 3: 0.5}}, [("b", "a")])[0]
        assert found.n == 0
        assert math.isnan(found.estimate)

    def test_a_third_step_connects_them(self) -> None:
        scores = {"a": {0: 1.0, 1: 2.0}, "b": {2: 5.0, 3: 6.0}, "c": {0: 2.0, 1: 3.0, 2: 3.0, 3: 4.0}}
        assert differences(scores, [("b", "a")])[0].estimate == pytest.approx(3.0)  # c - a = 1, b - c = 2

    def test_nan_counts_as_missing(self) -> None:
        found = differences({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: NAN}}, [("b", "a")])[0]
        assert (found.n, found.missing) == (1, (1,))

    def test_a_step_without_any_score_is_left_out(self) -> None:
        assert differences({"a": {0: 1.0}, "b": {}}, [("b", "a"), ("c", "a")]) == []

    def test_no_score_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs scores"):
            fit_two_way({"a": {}})


class TestPaired:
    def test_is_scipys(self) -> None:
        scores = drawn(2, 6, np.random.default_rng(3))
        a, b = scores["s0"], scores["s1"]
        reference = stats.ttest_rel(list(b.values()), list(a.values()))
        interval = reference.confidence_interval(0.95)
        found = paired_difference(b, a)
        assert found is not None
        assert (found.p, found.low, found.high) == pytest.approx((reference.pvalue, interval.low, interval.high))
        assert found.correlation == pytest.approx(np.corrcoef(list(a.values()), list(b.values()))[0, 1])

    def test_over_the_seeds_that_both_have(self) -> None:
        found = paired_difference({0: 2.0, 1: 4.0, 7: 9.0}, {1: 3.0, 0: 0.0, 5: 1.0})
        assert found is not None
        assert (found.n, found.mean) == (2, 1.5)
        assert math.isnan(found.correlation)


class TestHolm:
    def test_a_case_worked_by_hand(self) -> None:
        # sorted .01 .02 .04: x3 = .03, x2 = .04, x1 = .04 (never below the one before)
        assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])

    def test_nan_is_not_counted_and_none_exceeds_one(self) -> None:
        adjusted = holm([NAN, 0.6, 0.7])
        assert math.isnan(adjusted[0])
        assert adjusted[1:] == [1.0, 1.0]

    def test_is_statsmodels(self) -> None:
        multitest = pytest.importorskip("statsmodels.stats.multitest")
        p = np.random.default_rng(0).uniform(size=12) ** 3
        assert holm(list(p)) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]))


class TestDetectable:
    def test_a_study_with_that_difference_finds_it_in_eight_of_ten(self) -> None:
        sd, n = 0.01, 4
        error = sd * math.sqrt(1 / n)
        delta = minimum_detectable(error, n - 1)
        rng = np.random.default_rng(1)
        found = stats.ttest_1samp(rng.normal(delta, sd, (20000, n)), 0.0, axis=1).pvalue <= 0.05
        assert found.mean() == pytest.approx(0.80, abs=0.012)  # 4 standard errors

    def test_is_statsmodels(self) -> None:
        power = pytest.importorskip("statsmodels.stats.power")
        n = 9
        reference = power.TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
        assert minimum_detectable(1 / math.sqrt(n), n - 1) == pytest.approx(reference, rel=1e-6)

    @pytest.mark.parametrize("left", [1, 2, 20])
    def test_there_is_one_at_any_freedom(self, left: int) -> None:
        assert minimum_detectable(1.0, left) > 2

    def test_none_without_freedom(self) -> None:
        assert math.isnan(minimum_detectable(1.0, 0))
        assert math.isnan(minimum_detectable(NAN, 3))


def test_hedges_correction_worked_by_hand() -> None:
    # gamma(1) / (sqrt(1) gamma(1/2)) = 1 / 1.7724539; gamma(5) / (sqrt(5) gamma(4.5)) = 24 / (2.2360680 x 11.6317284)
    assert (hedges(2), hedges(10)) == pytest.approx((0.5641896, 0.9227456), abs=1e-7)
    assert math.isnan(hedges(1))


class TestBootstrap:
    def test_below_eight_seeds_there_is_none(self) -> None:
        assert bootstrap_mean([0.1 * k for k in range(7)], 0) is None

    def test_near_normal_it_is_near_the_t_interval_and_the_same_for_a_seed(self) -> None:
        values = list(np.random.default_rng(5).normal(0.3, 0.02, 40))
        found = bootstrap_mean(values, 0)
        assert found == bootstrap_mean(values, 0)
        assert found == pytest.approx(mean_interval(values), abs=0.002)


def test_mean_interval_is_scipys_and_nan_for_one_value() -> None:
    values = [0.31, 0.29, 0.34]
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((reference.low, reference.high))
    assert all(math.isnan(end) for end in mean_interval([0.3]))


def test_the_detectable_difference_of_an_interval_is_that_of_its_standard_error() -> None:
    half = float(stats.t.ppf(0.975, 4)) * 0.01
    assert detectable_by_interval(0.03 - half, 0.03 + half, 4) == pytest.approx(minimum_detectable(0.01, 4))
    assert math.isnan(detectable_by_interval(0.0, 1.0, 0))


def test_the_detectable_difference_is_found_after_holm_in_four_of_five_studies() -> None:
    """Eleven steps on three seeds, one real step of just that size: how often its corrected p is at most 5 %."""
    rng = np.random.default_rng(0)
    steps = [f"s{n}" for n in range(11)]
    pairs = list(itertools.pairwise(steps))
    size = minimum_detectable(0.01 * math.sqrt(2 / 3), 20, comparisons=10)
    found = 0
    for _ in range(300):
        noise = rng.normal(0, 0.01, (11, 3)) + rng.normal(0, 0.01, (1, 3))
        noise[6:] += size
        scores = {step: dict(enumerate(row)) for step, row in zip(steps, noise.tolist(), strict=True)}
        found += differences(scores, [(b, a) for a, b in pairs])[5].significant
    assert 0.74 <= found / 300 <= 0.88  # 80 %, and a little more where Holm's later steps are reached


def test_trainings_that_ignore_their_seed_are_not_significant() -> None:
    scores = {"a": {0: 0.1, 1: 0.1, 2: 0.1}, "b": {0: 0.3, 1: 0.3 + 1e-16, 2: 0.3}}
    (found,) = differences(scores, [("b", "a")])
    assert found.estimate == pytest.approx(0.2)
    assert not found.significant
    assert all(math.isnan(value) for value in (found.low, found.p, found.effect_size, found.detectable))


def test_unequal_spread_is_bartletts_test() -> None:
    scores = {"a": {0: 0.1, 1: 0.2, 2: 0.35}, "b": {0: 0.11, 1: 0.12, 2: 0.10}, "c": {0: 0.5}, "d": {0: 0.2, 1: 0.2}}
    assert unequal_spread(scores) == pytest.approx(stats.bartlett([0.1, 0.2, 0.35], [0.11, 0.12, 0.10]).pvalue)
    assert math.isnan(unequal_spread({"a": {0: 0.1}, "b": {0: 0.2}}))
