"""How sure a validation set makes us of an mAP: bootstrap over its images, from stored matches, nothing matched again.

The variance that it speaks of is that between images; that between seeds is in results/statistics.py.

AP is read off the upper envelope of a noisy curve, and so comes out too high, the more so the fewer the images; a
resample, in which images stand twice, comes out higher still, and a plain percentile interval lies too high (it covers
about 90 % where 95 % is meant: benchmarks/COVERAGE.md). The bias of such envelopes falls with n^(-2/3) (Grenander's
estimator; measured here: about n^(-0.65)), so that half the images show it, and the interval is moved by it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from results.matching import ClassMatches, Matches

REPLICATES = 1000
HALVES = 100  # random halves of the images that show the bias
BIAS_EXPONENT = 2 / 3
LEAST_UNITS = 40  # images or groups: with 16 a nominal 95 % covers 81 %, with 50 about 90 %, with 100 and more 94 %
LEAST_OF_CLASS = 10  # images that hold a class: one alone gives an interval without width
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ImageInterval:
    """A value on all images, and the 95 % interval of what it would be on endlessly many such images."""

    value: float
    low: float
    high: float
    sd: float  # of the resamples
    bias: float  # by which the value is expected to be too high; the interval is moved by it, the value is not
    groups: int  # independent units that were drawn: images, or sequences of them


def draw_weights(groups: Sequence[Any], replicates: int, seed: int) -> np.ndarray:
    """How often each image counts (R, N): as many groups drawn with replacement as there are; images of a group go together."""
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return np.asarray(drawn[:, member], dtype=np.int64)


def draw_halves(groups: Sequence[Any], halves: int, seed: int) -> np.ndarray:
    """Weights (R, N) of 0 and 1: each time a random half of the groups."""
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    rng = np.random.default_rng([seed, 1])
    drawn = np.array([rng.permutation(len(names)) < len(names) // 2 for _ in range(halves)])
    return np.asarray(drawn[:, member], dtype=np.int64)


def intervals(
    statistic: Callable[[np.ndarray], np.ndarray], groups: Sequence[Any], replicates: int = REPLICATES, seed: int = 0
) -> list[ImageInterval]:
    """The intervals of several values at once: `statistic` maps weights (R, N) to values (R, M); NaN where one has none."""
    units = len(set(map(str, groups)))
    whole = statistic(np.ones((1, len(groups)), dtype=np.int64))[0]
    if units < LEAST_UNITS:  # a bootstrap of so few covers too little to be told
        return [ImageInterval(float(value), *(math.nan,) * 4, units) for value in whole]
    drawn = statistic(draw_weights(groups, replicates, seed))
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class without a box has no value in any resample
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
        middle, sd = np.nanmean(drawn, axis=0), np.nanstd(drawn, axis=0, ddof=1)
        halved = np.nanmean(statistic(draw_halves(groups, HALVES, seed)), axis=0)
        bias = (halved - whole) / (2**BIAS_EXPONENT - 1)
    moved = whole - bias - middle
    columns = zip(whole, low + moved, high + moved, sd, bias, strict=True)
    return [ImageInterval(float(v), float(a), float(z), float(s), float(b), units) for v, a, z, s, b in columns]


def mAP_interval(  # noqa: N802
    matches: Matches, groups: Sequence[Any] | None = None, replicates: int = REPLICATES, seed: int = 0
) -> ImageInterval:
    """mAP and its interval over images; `groups` names the group of each image where frames are not independent."""
    return _as_score(intervals(lambda w: matches.mAP(w)[:, None], _units(matches, groups), replicates, seed)[0])


def class_intervals(matches: Matches, groups: Sequence[Any] | None = None, seed: int = 0) -> list[ImageInterval]:
    """AP of each class and its interval over images; none for a class that few images hold."""
    found = intervals(matches.per_class, _units(matches, groups), seed=seed)
    return [_as_score(_if_common(one, kind)) for one, kind in zip(found, matches.classes, strict=True)]


def _as_score(found: ImageInterval) -> ImageInterval:
    """An interval within 0..1, where a score lies."""
    return replace(found, low=float(np.clip(found.low, 0, 1)), high=float(np.clip(found.high, 0, 1)))


def _if_common(found: ImageInterval, kind: ClassMatches) -> ImageInterval:
    """An interval of a class that enough images hold, else none."""
    return found if np.count_nonzero(kind.boxes) >= LEAST_OF_CLASS else replace(found, low=math.nan, high=math.nan)


def difference_interval(
    matches: Matches, against: Matches, groups: Sequence[Any] | None = None, replicates: int = REPLICATES, seed: int = 0
) -> ImageInterval:
    """mAP minus another's on the same images, which are drawn for both alike.

    Raises: ValueError where the two were not scored on the same number of images.
    """
    _check_same(matches, against)
    units = _units(matches, groups)
    return intervals(lambda w: (matches.mAP(w) - against.mAP(w))[:, None], units, replicates, seed)[0]


def class_difference_intervals(
    matches: Matches, against: Matches, groups: Sequence[Any] | None = None, seed: int = 0
) -> list[ImageInterval]:
    """As `difference_interval`, class by class."""
    _check_same(matches, against)
    found = intervals(lambda w: matches.per_class(w) - against.per_class(w), _units(matches, groups), seed=seed)
    return [_if_common(one, kind) for one, kind in zip(found, matches.classes, strict=True)]


def _units(matches: Matches, groups: Sequence[Any] | None) -> Sequence[Any]:
    return range(matches.num_images) if groups is None else groups


def _check_same(matches: Matches, against: Matches) -> None:
    if against.num_images != matches.num_images:
        raise ValueError(f"two mAPs must be of the same images, got {matches.num_images} and {against.num_images}")
