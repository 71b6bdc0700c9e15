"""What a space derives from a dataset's annotations: the canvas, the anchors, and where azimuth roll is true."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CANVAS_STEP = 32  # the deepest trunk level's stride
SMALLEST_SIDE = 64
# The ladder of anchor sizes is centred (in logarithms) on the sizes between these quantiles of the boxes.
SIZE_SHARES = (0.05, 0.98)
# Finer anchors than this many strides fall between cells; on the street 12 instead of 9 at stride 8 gave half as much
# mAP again after 1400 images.
SMALLEST_ANCHOR_STRIDES = 1.5
RATIO_SHARES = (1 / 6, 1 / 2, 5 / 6)  # one anchor shape for each third of the boxes
RATIOS_ALIKE = 1.4  # neighbouring shapes closer than this factor are one: their anchors would overlap by IoU > 0.8


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset before anything is decoded. Sizes (height, width) in original pixels."""

    image_sizes: tuple[tuple[int, int], ...]
    box_sizes: tuple[tuple[float, float], ...]
    box_image: tuple[int, ...]  # index into image_sizes of every box
    full_turn: bool = False


def fit_canvas(facts: DatasetFacts, max_pixels: int, step: int = CANVAS_STEP) -> tuple[int, int]:
    """The canvas (height, width), multiples of `step`, of at most `max_pixels` that shrinks a typical image least.

    Images are never enlarged; of canvases that shrink alike the smallest is taken.
    """
    height = statistics.median(size[0] for size in facts.image_sizes)
    width = statistics.median(size[1] for size in facts.image_sizes)
    best: tuple[float, int, tuple[int, int]] | None = None
    smallest = max(SMALLEST_SIDE, step)
    for rows in range(smallest, _up(height, step) + 1, step):
        columns = min(_up(width, step), max_pixels // rows // step * step)
        if columns < smallest:
            continue
        scale = min(1.0, rows / height, columns / width)
        # The narrowest canvas of these rows that keeps the scale.
        columns = max(smallest, min(columns, _up(math.ceil(width * scale - 1e-9), step)))
        candidate = (-round(scale, 6), rows * columns, (rows, columns))
        best = candidate if best is None else min(best, candidate)
    assert best is not None, max_pixels
    return best[2]


def _up(side: float, step: int) -> int:
    return max(SMALLEST_SIDE, step, math.ceil(side / step) * step)


def fit_anchor_size(
    facts: DatasetFacts,
    canvas: tuple[int, int],
    finest_stride: int,
    num_levels: int,
    anchor_scales: tuple[float, ...],
) -> float:
    """The side of the finest square anchor in canvas pixels, before scales.

    Sizes double per level, so the ladder reaches from s * min(scales) to s * 2^(levels-1) * max(scales); s puts its
    middle on the middle of the boxes' root areas.
    """
    scales = [min(canvas[0] / height, canvas[1] / width) for height, width in facts.image_sizes]
    roots = sorted(
        scales[image] * math.sqrt(height * width)
        for (height, width), image in zip(facts.box_sizes, facts.box_image, strict=True)
    )
    low, high = (roots[int(share * (len(roots) - 1))] for share in SIZE_SHARES)
    middle_of_ladder = math.sqrt(2 ** (num_levels - 1) * anchor_scales[0] * anchor_scales[-1])
    return round(max(SMALLEST_ANCHOR_STRIDES * finest_stride, math.sqrt(low * high) / middle_of_ladder), 2)


def fit_anchor_ratios(facts: DatasetFacts) -> tuple[float, ...]:
    """One to three shapes height / width: the middle of each third of the boxes, near ones merged."""
    ratios = sorted(height / width for height, width in facts.box_sizes)
    chosen: list[float] = []
    for share in RATIO_SHARES:
        ratio = round(min(5.0, max(0.2, ratios[int(share * (len(ratios) - 1))])), 2)
        if not chosen or ratio / chosen[-1] >= RATIOS_ALIKE:
            chosen.append(ratio)
    if len(chosen) == 1:  # all alike: the middle third speaks for all
        chosen = [round(min(5.0, max(0.2, statistics.median(ratios))), 2)]
    return tuple(chosen)


KMEANS_SAMPLE, KMEANS_ROUNDS = 4000, 50
FITTED_RATIOS = 3
LEAST_STEP = 2**0.25  # between sizes of one level; closer ones overlap by IoU > 0.7 and answer for the same boxes


def fit_anchors(
    facts: DatasetFacts,
    canvas: tuple[int, int],
    strides: Sequence[int],
    num_ratios: int = FITTED_RATIOS,
    sizes_per_level: int = 1,
    seed: int = 0,
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """(sides of each level's squares in canvas pixels, ratios height / width) by k-means on IoU distance.

    Squares that share a corner overlap by the ratio of their areas, shapes of one area by the shared part: sizes and
    ratios are clustered apart, as anchors are made of every pair of them. The distance is 1 - IoU (Redmon and Farhadi
    2017, section 2); starts are drawn from `seed`.
    """
    scales = [min(canvas[0] / height, canvas[1] / width) for height, width in facts.image_sizes]
    boxes = [
        (height * scales[image], width * scales[image])
        for (height, width), image in zip(facts.box_sizes, facts.box_image, strict=True)
    ]
    rng = random.Random(seed)
    if len(boxes) > KMEANS_SAMPLE:
        boxes = rng.sample(boxes, KMEANS_SAMPLE)
    roots = [math.sqrt(height * width) for height, width in boxes]
    squares = _kmeans([(root, root) for root in roots], len(strides) * sizes_per_level, rng)
    sizes = []
    for level, stride in enumerate(strides):
        low, row = SMALLEST_ANCHOR_STRIDES * stride, []
        for height, width in squares[level * sizes_per_level : (level + 1) * sizes_per_level]:
            row.append(round(max(low, math.sqrt(height * width)), 2))
            low = row[-1] * LEAST_STEP
        sizes.append(tuple(row))
    shapes = _kmeans([(h / root, w / root) for (h, w), root in zip(boxes, roots, strict=True)], num_ratios, rng)
    return tuple(sizes), tuple(sorted({round(height / width, 2) for height, width in shapes}))


def _kmeans(boxes: list[tuple[float, float]], k: int, rng: random.Random) -> list[tuple[float, float]]:
    """k centres (height, width) by area; a centre is the geometric mean of the boxes nearest to it."""
    ordered = sorted(boxes, key=lambda box: (box[0] * box[1], box[0]))
    centres = [ordered[min(len(ordered) - 1, int((n + rng.random()) / k * len(ordered)))] for n in range(k)]
    for _ in range(KMEANS_ROUNDS):
        nearest: list[list[tuple[float, float]]] = [[] for _ in centres]
        for box in boxes:
            nearest[max(range(k), key=lambda n: corner_iou(box, centres[n]))].append(box)
        moved = [_geometric_mean(group) if group else centres[n] for n, group in enumerate(nearest)]
        if moved == centres:
            break
        centres = moved
    return sorted(centres, key=lambda box: (box[0] * box[1], box[0]))


def corner_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """IoU of two boxes (height, width) that share a corner."""
    shared = min(a[0], b[0]) * min(a[1], b[1])
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)


def _geometric_mean(group: list[tuple[float, float]]) -> tuple[float, float]:
    return (
        math.exp(statistics.fmean(math.log(height) for height, _ in group)),
        math.exp(statistics.fmean(math.log(width) for _, width in group)),
    )
