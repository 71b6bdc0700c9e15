"""Anchor boxes of every pyramid level, xyxy canvas pixels, in the heads' order (level, row, column, ratio, scale)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detector.config import DetectorConfig


def level_strides(config: DetectorConfig) -> list[int]:
    """Canvas pixels per cell of each level: trunk level l has 2^l, every extra level doubles."""
    first = config.neck_levels[0]
    return [2 ** (first + n) for n in range(len(config.neck_levels) + config.extra_levels)]


def level_shapes(config: DetectorConfig) -> list[tuple[int, int]]:
    """(rows, columns) of each level: a stride-2 convolution with padding rounds up."""
    height, width = config.image_size_px
    return [(-(-height // stride), -(-width // stride)) for stride in level_strides(config)]


def level_sizes(sizes: Any, num_levels: int) -> list[tuple[float, ...]]:
    """The sides of the square anchors of each level, before scales: one number doubles from level to level."""
    if isinstance(sizes, (int, float)):
        return [(float(sizes) * 2**n,) for n in range(num_levels)]
    return [row if isinstance(row, tuple) else (row,) for row in sizes]


def num_anchors_per_cell(config: DetectorConfig) -> int:
    """sizes x scales x ratios at one cell."""
    sizes = level_sizes(config.anchor_sizes, len(config.neck_levels) + config.extra_levels)[0]
    return len(sizes) * len(config.anchor_scales) * len(config.anchor_ratios)


def cell_anchors_xyxy(sizes: tuple[float, ...], config: DetectorConfig) -> Tensor:
    """The anchors of one cell around the origin, (ratios x sizes x scales, 4).

    A ratio r = height / width keeps the area: width s / sqrt(r), height s * sqrt(r).
    """
    sides = torch.tensor([size * scale for size in sizes for scale in config.anchor_scales], dtype=torch.float64)
    roots = torch.tensor(config.anchor_ratios, dtype=torch.float64).sqrt()
    heights = (roots[:, None] * sides[None, :]).flatten()
    widths = (sides[None, :] / roots[:, None]).flatten()
    boxes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return (boxes.round() if config.anchor_rounding else boxes).float()


def make_anchors_xyxy(config: DetectorConfig) -> Tensor:
    """All anchors of the canvas, (sum of rows*columns*A over levels, 4)."""
    strides, shapes = level_strides(config), level_shapes(config)
    rows = level_sizes(config.anchor_sizes, len(strides))
    return torch.cat(
        [
            _shift_over_grid(cell_anchors_xyxy(sizes, config), stride, shape, config.anchor_offset)
            for sizes, stride, shape in zip(rows, strides, shapes, strict=True)
        ]
    )


def _shift_over_grid(cell: Tensor, stride: int, shape: tuple[int, int], offset: float) -> Tensor:
    """Cell anchors (A, 4) at every cell of a (rows, columns) grid -> (rows*columns*A, 4)."""
    y = (torch.arange(shape[0]) + offset) * stride
    x = (torch.arange(shape[1]) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell[None]).reshape(-1, 4).float()
