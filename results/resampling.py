"""How sure a validation set makes us of an mAP: bootstrap over its images, from stored matches, nothing matched again.

The variance that it speaks of is that between images; that between seeds is in results/statistics.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.matching import Matches

REPLICATES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ImageInterval:
    """A value on all images, and the 95 % percentile interval of it over resampled images."""

    value: float
    low: float
    high: float
    sd: float
    groups: int  # independent units that were drawn: images, or sequences of them


def draw_weights(groups: Sequence[Any], replicates: int, seed: int) -> np.ndarray:
    """How often each image counts (R, N): as many groups drawn with replacement as there are; images of a group go together."""
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    return np.asarray(drawn[:, member], dtype=np.int64)


def mAP_interval(  # noqa: N802
    matches: Matches, groups: Sequence[Any] | None = None, replicates: int = REPLICATES, seed: int = 0
) -> ImageInterval:
    """mAP and its interval over images; `groups` names the group of each image where frames are not independent."""
    return difference_interval(matches, None, groups, replicates, seed)


def difference_interval(
    matches: Matches,
    against: Matches | None,
    groups: Sequence[Any] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> ImageInterval:
    """mAP minus another's on the same images, which are drawn for both alike.

    Raises: ValueError where the two were not scored on the same number of images.
    """
    if against is not None and against.num_images != matches.num_images:
        raise ValueError(f"two mAPs must be of the same images, got {matches.num_images} and {against.num_images}")
    units = list(range(matches.num_images)) if groups is None else list(groups)
    weights = draw_weights(units, replicates, seed)
    value, drawn = float(matches.mAP()[0]), matches.mAP(weights)
    if against is not None:
        value, drawn = value - float(against.mAP()[0]), drawn - against.mAP(weights)
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) < 2:
        return ImageInterval(value, np.nan, np.nan, np.nan, len(set(units)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return ImageInterval(value, float(low), float(high), float(drawn.std(ddof=1)), len(set(map(str, units))))
