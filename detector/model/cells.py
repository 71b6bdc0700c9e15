"""Levels and the anchors of one of their cells, from a config alone: numpy, so that plans are checked without torch.

All lengths are canvas pixels; boxes are xyxy. `anchors.py` shifts the cells over the canvas.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detector.config import ConfigError, DetectorConfig

IOU_WITHOUT_THRESHOLD = 0.5  # what "matches" means where the matcher has no threshold of its own (ATSS)
# Fewer boxes than this within reach of any anchor, and a detector cannot learn them, whatever else it does.
LEAST_RECALL = 0.05


def level_strides(config: DetectorConfig) -> list[int]:
    """Canvas pixels per cell of each level: trunk level l has 2^l, every extra level doubles."""
    first = config.neck_levels[0]
    return [2 ** (first + n) for n in range(config.num_levels)]


def level_shapes(config: DetectorConfig) -> list[tuple[int, int]]:
    """(rows, columns) of each level: a stride-2 convolution with padding rounds up."""
    height, width = config.image_size_px
    return [(-(-height // stride), -(-width // stride)) for stride in level_strides(config)]


def level_sizes(sizes: Any, num_levels: int) -> list[tuple[float, ...]]:
    """The sides of the square anchors of each level, before scales: one number doubles from level to level."""
    if isinstance(sizes, (int, float)):
        return [(float(sizes) * 2**n,) for n in range(num_levels)]
    return [row if isinstance(row, tuple) else (row,) for row in sizes]


def num_anchors_per_cell(config: DetectorConfig) -> list[int]:
    """Anchors at one cell of each level: sizes x scales x ratios, or 2 + 2 x ratios for SSD's priors."""
    return [len(cell) for cell in level_cells_xyxy(config)]


def num_anchors_per_level(config: DetectorConfig) -> list[int]:
    """Anchors of each level of the canvas."""
    shapes = level_shapes(config)
    return [rows * columns * a for (rows, columns), a in zip(shapes, num_anchors_per_cell(config), strict=True)]


def level_cells_xyxy(config: DetectorConfig) -> list[np.ndarray]:
    """The anchors of one cell of each level, around the origin: (A_l, 4) float32 each."""
    if config.anchor_kind == "ssd":
        sizes = [_sides(size) for size in config.prior_sizes]
        return [cell_priors_xyxy(sizes[n], sizes[n + 1], ratios) for n, ratios in enumerate(config.prior_ratios)]
    return [cell_anchors_xyxy(sizes, config) for sizes in level_sizes(config.anchor_sizes, config.num_levels)]


def _sides(size: float | tuple[float, ...]) -> tuple[float, float]:
    """(height, width) of a prior's square, which may be none."""
    if isinstance(size, tuple):
        return (size[0], size[-1])
    return (size, size)


def cell_priors_xyxy(size: tuple[float, float], following: tuple[float, float], ratios: Any) -> np.ndarray:
    """SSD's priors of one cell (Liu et al. 2016, section 2.2), (2 + 2 x ratios, 4) around the origin.

    The level's square, the square between it and the following level's, then per ratio r a lying and a standing
    rectangle of the first square's area. Sizes are (height, width).
    """
    (height, width), (next_height, next_width) = size, following
    sides = [(height, width), (math.sqrt(height * next_height), math.sqrt(width * next_width))]
    for ratio in ratios if isinstance(ratios, tuple) else (ratios,):
        root = math.sqrt(ratio)
        sides += [(height / root, width * root), (height * root, width / root)]
    return _around_origin(np.array([h for h, _ in sides]), np.array([w for _, w in sides])).astype(np.float32)


def cell_anchors_xyxy(sizes: tuple[float, ...], config: DetectorConfig) -> np.ndarray:
    """The anchors of one cell around the origin, (ratios x sizes x scales, 4).

    A ratio r = height / width keeps the area: width s / sqrt(r), height s * sqrt(r).
    """
    sides = np.array([size * scale for size in sizes for scale in config.anchor_scales])
    roots = np.sqrt(np.array(config.anchor_ratios))
    boxes = _around_origin((roots[:, None] * sides).ravel(), (sides / roots[:, None]).ravel())
    return (boxes.round() if config.anchor_rounding else boxes).astype(np.float32)


def _around_origin(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    return np.stack([-widths, -heights, widths, heights], axis=1) / 2


def best_overlaps(config: DetectorConfig, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Highest IoU of each box (N, 4) with any anchor of the canvas: (N,) float64.

    On each level the anchors of the nearest cell are tried alone: of anchors of one shape the nearest overlaps most.
    """
    boxes = boxes_xyxy.astype(np.float64)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    best = np.zeros(len(boxes))
    levels = zip(level_cells_xyxy(config), level_strides(config), level_shapes(config), strict=True)
    for cell, stride, (rows, columns) in levels:
        nearest = np.clip(np.round(centres / stride - config.anchor_offset), 0, [columns - 1, rows - 1])
        offset = centres - (nearest + config.anchor_offset) * stride  # (N, 2) of the box from its cell's centre
        low = np.maximum(cell[None, :, :2], (offset - sides / 2)[:, None])  # (N, A, 2)
        high = np.minimum(cell[None, :, 2:], (offset + sides / 2)[:, None])
        shared = np.clip(high - low, 0, None).prod(axis=-1)
        areas = (cell[:, 2:] - cell[:, :2]).prod(axis=-1)[None] + sides.prod(axis=-1)[:, None]
        best = np.maximum(best, (shared / (areas - shared)).max(axis=1))
    return best


def match_threshold(config: DetectorConfig) -> float:
    """The IoU from which an anchor of this config answers for a box."""
    return IOU_WITHOUT_THRESHOLD if config.matcher == "atss" else config.match_iou_high


def check_anchors(config: DetectorConfig, boxes_xyxy: np.ndarray) -> None:
    """Raises: ConfigError where hardly any of the training boxes (N, 4) is within reach of an anchor."""
    recall = float((best_overlaps(config, boxes_xyxy) >= match_threshold(config)).mean())
    if recall < LEAST_RECALL:
        raise ConfigError(
            f"anchors must be able to match: {recall:.1%} of the training boxes have an anchor at IoU "
            f"{match_threshold(config):g} or more, at least {LEAST_RECALL:.0%} must. Set sizes and ratios from "
            "`python -m detector.explore --fit-anchors`, or anchors: fitted in the space's base"
        )
