"""Do two splits come from the same source? Permutation tests on class shares and box measures, whole sequences at a time.

Frames of one drive look alike: shuffling single images would call chance a difference. What is shuffled between the
splits are groups (sequences where they are known, else images), so that only a difference beyond the spread between
groups stands out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.data.dataset import DataError, Split

SHUFFLES = 999
MEASURES = ("width", "height", "root area", "height / width", "centre x", "centre y")


@dataclass(frozen=True)
class Shift:
    """One comparison: how far apart the splits are, and how often groups dealt at random are as far."""

    what: str
    first: float  # share of a class, or median of a measure
    second: float
    distance: float  # difference of shares, or Kolmogorov-Smirnov's D
    chance: float  # p of the permutation test
    adjusted: float  # after Holm, over all comparisons of this run


def groups_of(split: Split, pattern: str | None) -> list[str]:
    """The group of each image: what `pattern` finds in its file name (its first group, if it has one), else the image.

    Raises: DataError for a pattern that is none, or that an image's name does not contain.
    """
    names = [record.file_name for record in split.images]
    if pattern is None:
        return names
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise DataError(f"--sequence {pattern!r} must be a regular expression ({error})") from None
    missing = [name for name, match in zip(names, found, strict=True) if match is None]
    if missing:
        raise DataError(
            f"--sequence {pattern!r} must be found in every file name; it is not in {missing[:3]} ({len(missing)})"
        )
    return [(match.group(1) if match.groups() else match.group(0)) for match in found if match is not None]


def box_measures(split: Split) -> np.ndarray:
    """(boxes, 6) of MEASURES in the images' own pixels, centres as shares of the image; crowds left out."""
    rows = []
    for record, boxes, crowd in zip(split.images, split.boxes_xyxy, split.crowd, strict=True):
        kept = boxes[~crowd].astype(np.float64)
        width, height = (kept[:, 2:] - kept[:, :2]).T
        x, y = ((kept[:, :2] + kept[:, 2:]) / 2 / [record.width, record.height]).T
        rows.append(np.stack([width, height, np.sqrt(width * height), height / width, x, y], axis=1))
    return np.concatenate(rows)


def kept_labels(split: Split) -> np.ndarray:
    """Class of every box that is not a crowd's, (N,)."""
    return np.concatenate([rows[~crowd] for rows, crowd in zip(split.labels, split.crowd, strict=True)])


def compare_splits(first: Split, second: Split, pattern: str | None = None, seed: int = 0) -> list[Shift]:
    """Class shares, box measures and boxes per image of two splits, compared; least likely by chance first.

    Raises: DataError for a pattern of sequences that does not fit the file names.
    """
    names = [(0, name) for name in groups_of(first, pattern)] + [(1, name) for name in groups_of(second, pattern)]
    known = {name: n for n, name in enumerate(dict.fromkeys(names))}
    image_group = np.array([known[name] for name in names])
    in_second = np.array([split == 1 for split, _ in known])  # by group
    deals = _deals(in_second, seed)  # (1 + SHUFFLES, groups); row 0 is how the splits really are
    labels = [labels[~crowd] for s in (first, second) for labels, crowd in zip(s.labels, s.crowd, strict=True)]
    box_group = np.repeat(image_group, [len(rows) for rows in labels])
    found: list[tuple[str, float, float, float, float]] = []
    flat = np.concatenate(labels)
    for k, name in enumerate(first.class_names):
        found.append((f"share of {name}", *_share_test(flat == k, box_group, deals)))
    measures = np.concatenate([box_measures(first), box_measures(second)])
    for column, name in enumerate(MEASURES):
        found.append((name, *_distribution_test(measures[:, column], box_group, deals)))
    per_image = np.array([len(rows) for rows in labels], dtype=np.float64)
    found.append(("boxes per image", *_distribution_test(per_image, image_group, deals)))
    adjusted = holm([row[-1] for row in found])
    return sorted(
        (Shift(*row, p) for row, p in zip(found, adjusted, strict=True)), key=lambda s: (s.adjusted, -s.distance)
    )


def _deals(in_second: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([in_second, *(rng.permutation(in_second) for _ in range(SHUFFLES))])


def _share_test(hits: np.ndarray, group: np.ndarray, deals: np.ndarray) -> tuple[float, float, float, float]:
    """(share in the first, in the second, difference, chance); hits and group run over the boxes."""
    groups = deals.shape[1]
    hit, total = np.bincount(group, hits, groups), np.bincount(group, minlength=groups).astype(float)
    in_second, of_second = deals @ hit, deals @ total
    second = in_second / np.maximum(of_second, 1)
    first = (hit.sum() - in_second) / np.maximum(total.sum() - of_second, 1)
    distance = np.abs(first - second)
    return float(first[0]), float(second[0]), float(second[0] - first[0]), _chance(distance)


def _distribution_test(values: np.ndarray, group: np.ndarray, deals: np.ndarray) -> tuple[float, float, float, float]:
    """(median in the first, in the second, Kolmogorov-Smirnov's D, chance)."""
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], group[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # D is looked at where a value ends: ties belong together
    distances = []
    for deal in deals:
        second = deal[owner]
        of_second = max(int(second.sum()), 1)
        of_first = max(len(second) - int(second.sum()), 1)
        step = np.where(second, 1.0 / of_second, -1.0 / of_first).cumsum()
        distances.append(np.abs(step[last]).max())
    really = deals[0][group]
    medians = [float(np.median(values[side])) if side.any() else float("nan") for side in (~really, really)]
    return medians[0], medians[1], float(distances[0]), _chance(np.array(distances))


def _chance(distances: np.ndarray) -> float:
    """Share of all deals, the real one among them, that are at least as far apart as the real one."""
    return float((distances >= distances[0] - 1e-12).mean())


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's adjustment: the family-wise error of calling those below a level different is at most that level."""
    order = sorted(range(len(chances)), key=lambda n: chances[n])
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, n in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[n]))
        adjusted[n] = highest
    return adjusted
