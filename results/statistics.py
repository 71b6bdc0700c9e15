"""Differences between steps that were each trained on several seeds: intervals, p-values, what could have been seen at all.

Pure functions of scores by step and seed. The variance that they speak of is that between seeds; that between validation
images is in results/resampling.py.

Model (two-way, additive): score[step, seed] = mean + step + seed + residual. A seed's luck (its split of batches, its
first weights) is shared by all steps and drops out of their differences; the residual is pooled over all steps, which
at three seeds is worth far more than each step's own spread: (K-1)(S-1) degrees of freedom for K steps on S seeds.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.80
BOOTSTRAP_FROM = 8  # seeds: at 3 a percentile bootstrap of nominal 95 % covers about 67 %
RESAMPLES = 9999
NO_RESIDUAL = 1e-12  # of mAP: what rounding leaves

Scores = Mapping[str, Mapping[int, float]]  # by step, then by seed


@dataclass(frozen=True)
class Paired:
    """The paired t of one step against another, over the seeds that both have; its variance is these two steps' own."""

    n: int
    mean: float
    low: float
    high: float
    p: float
    correlation: float  # of the two steps' scores over seeds: what pairing by seed is worth


@dataclass(frozen=True)
class Difference:
    """Step minus another, by the two-way model; NaN where one seed allows no interval."""

    step: str
    against: str
    n: int  # seeds that both have
    missing: tuple[int, ...]  # seeds at hand that one of the two lacks
    estimate: float
    low: float
    high: float
    p: float
    p_holm: float  # over all differences of the table (Holm 1979)
    effect_size: float  # in residual standard deviations, Hedges' correction for few of them
    detectable: (
        float  # the smallest true difference that would be called real, Holm's correction and all, with 80 % power
    )
    paired: Paired | None

    @property
    def significant(self) -> bool:
        """Whether the family of differences, 5 % of error for all together, calls this one real."""
        return self.p_holm <= ALPHA


@dataclass(frozen=True)
class TwoWay:
    """A fitted model: the mean of each step at an average seed, and what is left."""

    steps: tuple[str, ...]
    coefficients: np.ndarray  # (K + S - 1,): a mean a step, then every seed but the first against it
    covariance: np.ndarray  # of the coefficients, for a residual variance of 1
    design: np.ndarray  # (N, K + S - 1)
    residual_sd: float  # NaN without degrees of freedom
    degrees_of_freedom: int

    def contrast(self, step: str, against: str) -> tuple[float, float]:
        """(step minus the other, its standard error); NaN where the seeds at hand do not connect the two."""
        weights = np.zeros(len(self.coefficients))
        weights[self.steps.index(step)], weights[self.steps.index(against)] = 1.0, -1.0
        reachable = weights @ np.linalg.pinv(self.design) @ self.design
        if not np.allclose(reachable, weights, atol=1e-8):
            return math.nan, math.nan
        return float(weights @ self.coefficients), self.residual_sd * math.sqrt(
            float(weights @ self.covariance @ weights)
        )


def fit_two_way(scores: Scores) -> TwoWay:
    """Least squares of the two-way model; cells may be missing.

    Raises: ValueError where there is no score.
    """
    cells = [
        (step, seed, score) for step, row in scores.items() for seed, score in row.items() if not math.isnan(score)
    ]
    if not cells:
        raise ValueError("a two-way model needs scores, got none")
    steps = tuple(step for step in scores if any(step == s for s, _, _ in cells))
    seeds = sorted({seed for _, seed, _ in cells})
    design = np.zeros((len(cells), len(steps) + len(seeds) - 1))
    for row, (step, seed, _) in enumerate(cells):
        design[row, steps.index(step)] = 1.0
        if seed != seeds[0]:
            design[row, len(steps) + seeds.index(seed) - 1] = 1.0
    observed = np.array([score for _, _, score in cells])
    coefficients = np.linalg.pinv(design) @ observed
    left = len(cells) - int(np.linalg.matrix_rank(design))
    squares = float(((observed - design @ coefficients) ** 2).sum())
    sd = math.sqrt(squares / left) if left > 0 else math.nan
    if sd < NO_RESIDUAL:  # trainings that do not depend on their seed, up to rounding: nothing is left to judge by
        sd = 0.0
    return TwoWay(steps, coefficients, np.linalg.pinv(design.T @ design), design, sd, left)


def differences(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Each (step, the one it is compared with), in the order given; steps without a score are left out.

    One residual serves all pairs; Holm's correction counts all of them.
    """
    from scipy.stats import t as student

    told = [(step, against) for step, against in pairs if _scored(scores, step) and _scored(scores, against)]
    if not told:
        return []
    model = fit_two_way(scores)
    seeds = {seed for row in scores.values() for seed in row}
    left = model.degrees_of_freedom
    found = []
    for step, against in told:
        both = _scored(scores, step) & _scored(scores, against)
        estimate, error = model.contrast(step, against)
        half = float(student.ppf(0.5 + CONFIDENCE / 2, left)) * error if left > 0 and error > 0 else math.nan
        p = float(2 * student.sf(abs(estimate) / error, left)) if left > 0 and error > 0 else math.nan
        effect = hedges(left) * estimate / model.residual_sd if left > 0 and model.residual_sd > 0 else math.nan
        missing, low, high = tuple(sorted(seeds - both)), estimate - half, estimate + half
        smallest = minimum_detectable(error, left, len(told))
        paired = paired_difference(scores[step], scores[against])
        found.append(Difference(step, against, len(both), missing, estimate, low, high, p, p, effect, smallest, paired))
    adjusted = holm([difference.p for difference in found])
    return [replace(difference, p_holm=p) for difference, p in zip(found, adjusted, strict=True)]


def paired_difference(scores: Mapping[int, float], against: Mapping[int, float]) -> Paired | None:
    """The paired t over the seeds that both have; None below two of them."""
    from scipy.stats import t as student

    seeds = [seed for seed in scores if seed in against and not math.isnan(scores[seed] - against[seed])]
    n = len(seeds)
    if n < 2:
        return None
    gaps = [scores[seed] - against[seed] for seed in seeds]
    mean, error = statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(n)
    half = float(student.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    p = float(2 * student.sf(abs(mean) / error, n - 1)) if error > 0 else math.nan
    columns = [[row[seed] for seed in seeds] for row in (scores, against)]
    vary = n > 2 and all(len(set(column)) > 1 for column in columns)
    return Paired(n, mean, mean - half, mean + half, p, statistics.correlation(*columns) if vary else math.nan)


def unequal_spread(scores: Scores) -> float:
    """p of Bartlett's test (1937) that all steps spread alike over their seeds, which a pooled residual supposes; NaN where
    too few spread at all."""
    from scipy.stats import bartlett

    columns = [[score for score in row.values() if not math.isnan(score)] for row in scores.values()]
    columns = [column for column in columns if len(column) > 1 and statistics.stdev(column) > NO_RESIDUAL]
    return float(bartlett(*columns).pvalue) if len(columns) > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979), in the order given; NaN stays NaN and is not counted."""
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, k) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[k] = highest
    return adjusted


def minimum_detectable(standard_error: float, degrees_of_freedom: int, comparisons: int = 1) -> float:
    """The true difference that a two-sided t test finds in 80 % of studies like this one (noncentral t).

    At 5 % for all `comparisons` together: the test that Holm's procedure begins with, which one real difference among
    others that are none must pass.
    """
    if degrees_of_freedom < 1 or not standard_error > 0:
        return math.nan
    return standard_error * _detectable_in_errors(degrees_of_freedom, max(1, comparisons))


def detectable_by_interval(low: float, high: float, degrees_of_freedom: int) -> float:
    """`minimum_detectable` of a difference whose 95 % interval, of a t with these degrees of freedom, is known."""
    from scipy.stats import t as student

    if degrees_of_freedom < 1:
        return math.nan
    critical = float(student.ppf(0.5 + CONFIDENCE / 2, degrees_of_freedom))
    return minimum_detectable((high - low) / (2 * critical), degrees_of_freedom)


@functools.cache
def _detectable_in_errors(degrees_of_freedom: int, comparisons: int) -> float:
    """The same for a standard error of 1."""
    from scipy.optimize import brentq
    from scipy.stats import nct
    from scipy.stats import t as student

    critical = float(student.ppf(1 - ALPHA / comparisons / 2, degrees_of_freedom))

    def power(difference: float) -> float:
        wrong_side = float(nct.cdf(-critical, degrees_of_freedom, difference))
        found = float(nct.sf(critical, degrees_of_freedom, difference))
        return found + (0.0 if math.isnan(wrong_side) else wrong_side)  # so far out that scipy gives it up

    high = critical
    while power(high) < POWER:
        high *= 1.5
    return float(brentq(lambda difference: power(difference) - POWER, 0.0, high))


def hedges(degrees_of_freedom: int) -> float:
    """Hedges' correction (1981, equation 6e) of a standardised difference for its bias upwards."""
    half = degrees_of_freedom / 2
    if degrees_of_freedom < 2:
        return math.nan
    return math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)


def bootstrap_mean(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """A 95 % interval of a mean over seeds by BCa bootstrap (Efron 1987); None below eight values, where it covers too little."""
    from scipy.stats import bootstrap

    if len(values) < BOOTSTRAP_FROM or len(set(values)) < 2:
        return None
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of a mean over seeds (one-sample t); NaN below two values."""
    from scipy.stats import t as student

    if len(values) < 2:
        return math.nan, math.nan
    half = float(student.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def _scored(scores: Scores, step: str) -> set[int]:
    return {seed for seed, score in scores.get(step, {}).items() if not math.isnan(score)}
