"""3x3 convolutions of pyramid maps at some of their cells alone.

For a CPU: shapes depend on the data, for which a GPU would have to wait.
Shapes: B images, L levels of H W cells; N = B x sum HW cells, numbered by image, level, row and column; M of them; C channels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A cell alone costs as much as 1.5 (bf16) to 2 (fp32) of all of them in one convolution (benchmarks/NOTES.md).
WORTH_IT = 0.5


class Cells:
    """The cells of a batch's maps (B, C, H, W), and which of them touch."""

    def __init__(self, maps: list[Tensor]) -> None:
        own = neighbours_of(tuple((x.shape[2], x.shape[3]) for x in maps))  # (sum HW, 9)
        images, each = len(maps[0]), len(own)
        self.count = images * each
        first = torch.arange(0, self.count, each)[:, None, None]
        # (N, 9): the cells under a 3x3 kernel, row by row; N where one lies outside of the map.
        self.neighbours = torch.where(own < 0, self.count, own + first).flatten(0, 1)

    def around(self, cells: Tensor) -> Tensor:
        """What a 3x3 convolution reads to answer at `cells` (M,): cells in ascending order."""
        read = torch.zeros(self.count + 1, dtype=torch.bool)
        read[self.neighbours[cells]] = True
        return read[:-1].nonzero().squeeze(1)

    def rows_of(self, cells: Tensor) -> Tensor:
        """(N + 1,): the row of each of `cells` (M,) where they alone have rows; M for what lies outside, others unset."""
        row = torch.empty(self.count + 1, dtype=torch.int64)
        row[cells] = torch.arange(len(cells))
        row[-1] = len(cells)
        return row


@lru_cache(maxsize=8)
def neighbours_of(shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """The cells under a 3x3 kernel at every cell of one image: (sum HW, 9), -1 outside of the level."""
    levels, first = [], 0
    for height, width in shapes:
        framed = F.pad(torch.arange(first, first + height * width).view(height, width), (1, 1, 1, 1), value=-1)
        shifted = [framed[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
        levels.append(torch.stack(shifted, dim=-1).flatten(0, 1))
        first += height * width
    return torch.cat(levels)


def as_rows(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, H, W) -> (N, C)."""
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1).flatten(0, 1)


def convolve_rows(conv: nn.Conv2d, rows: Tensor, under: Tensor) -> Tensor:
    """(M, O): a 3x3 convolution where the kernel lies over the rows `under` (M, 9) of (R, C), R being a row of zeros."""
    with_zeros = F.pad(rows, (0, 0, 0, 1))
    patches = with_zeros.index_select(0, under.flatten()).view(len(under), under.shape[1] * rows.shape[1])
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9 C); a view where the weight lies in channels_last
    return F.linear(patches, weight, conv.bias)
