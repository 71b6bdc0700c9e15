"""Anchor boxes of every pyramid level, xyxy canvas pixels, in the heads' order (level, row, column, anchor of a cell)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from detector.config import DetectorConfig


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


def level_cells_xyxy(config: DetectorConfig) -> list[Tensor]:
    """The anchors of one cell of each level, around the origin: (A_l, 4) each."""
    if config.anchor_kind == "ssd":
        sizes = [_sides(size) for size in config.prior_sizes]
        return [cell_priors_xyxy(sizes[n], sizes[n + 1], ratios) for n, ratios in enumerate(config.prior_ratios)]
    return [cell_anchors_xyxy(sizes, config) for sizes in level_sizes(config.anchor_sizes, config.num_levels)]


def _sides(size: float | tuple[float, ...]) -> tuple[float, float]:
    """(height, width) of a prior's square, which may be none."""
    if isinstance(size, tuple):
        return (size[0], size[-1])
    return (size, size)


def cell_priors_xyxy(size: tuple[float, float], following: tuple[float, float], ratios: Any) -> Tensor:
    """SSD's priors of one cell (Liu et al. 2016, section 2.2), (2 + 2 x ratios, 4) around the origin.

    The level's square, the square between it and the following level's, then per ratio r a lying and a standing
    rectangle of the first square's area. Sizes are (height, width).
    """
    (height, width), (next_height, next_width) = size, following
    sides = [(height, width), (math.sqrt(height * next_height), math.sqrt(width * next_width))]
    for ratio in ratios if isinstance(ratios, tuple) else (ratios,):
        root = math.sqrt(ratio)
        sides += [(height / root, width * root), (height * root, width / root)]
    boxes = torch.tensor(sides, dtype=torch.float64)
    return (torch.stack([-boxes[:, 1], -boxes[:, 0], boxes[:, 1], boxes[:, 0]], dim=1) / 2).float()


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
    cells = level_cells_xyxy(config)
    return torch.cat(
        [
            _shift_over_grid(cell, stride, shape, config.anchor_offset)
            for cell, stride, shape in zip(cells, strides, shapes, strict=True)
        ]
    )


def num_anchors_per_level(config: DetectorConfig) -> list[int]:
    """Anchors of each level of the canvas."""
    shapes = level_shapes(config)
    return [rows * columns * a for (rows, columns), a in zip(shapes, num_anchors_per_cell(config), strict=True)]


def _shift_over_grid(cell: Tensor, stride: int, shape: tuple[int, int], offset: float) -> Tensor:
    """Cell anchors (A, 4) at every cell of a (rows, columns) grid -> (rows*columns*A, 4)."""
    y = (torch.arange(shape[0]) + offset) * stride
    x = (torch.arange(shape[1]) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell[None]).reshape(-1, 4).float()
