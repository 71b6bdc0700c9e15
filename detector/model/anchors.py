"""Anchor boxes of every pyramid level, xyxy canvas pixels, in the heads' order (level, row, column, anchor of a cell)."""

from __future__ import annotations

import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.model.cells import level_cells_xyxy, level_shapes, level_strides


def make_anchors_xyxy(config: DetectorConfig) -> Tensor:
    """All anchors of the canvas, (sum of rows*columns*A over levels, 4)."""
    strides, shapes = level_strides(config), level_shapes(config)
    return torch.cat(
        [
            _shift_over_grid(torch.from_numpy(cell), stride, shape, config.anchor_offset)
            for cell, stride, shape in zip(level_cells_xyxy(config), strides, shapes, strict=True)
        ]
    )


def _shift_over_grid(cell: Tensor, stride: int, shape: tuple[int, int], offset: float) -> Tensor:
    """Cell anchors (A, 4) at every cell of a (rows, columns) grid -> (rows*columns*A, 4)."""
    y = (torch.arange(shape[0]) + offset) * stride
    x = (torch.arange(shape[1]) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell[None]).reshape(-1, 4).float()
