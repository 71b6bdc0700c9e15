"""3x3 convolutions of pyramid maps at some of their cells alone.

Shapes: B images, L levels of H W cells; N = B x sum HW cells, numbered by image, level, row and column; M of them; C channels
in, O out; R rows of features. Where there is no cell (outside of a map, or to round M up) a list of cells holds N, and one of
rows R, which `convolve_rows` reads as zeros; of whole maps R is N.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A cell alone costs 1.5 times (bf16) to twice (fp32) its share of a whole map's convolution, at 256 channels
# (benchmarks/NOTES.md): beyond so many of them, all are done at once.
LARGEST_SHARE = 0.5
# Numbers of cells are rounded up to multiples of a 32nd of all, so that what a step holds has one of few sizes: freed memory that
# stays with the process (detector/memory.py) hardly ever fits another. In 120 steps a process grew from 1001 to 2109 MiB
# without this, and to 1076 with it (benchmarks/NOTES.md).
NUM_SIZES = 32


def pays_on(device: torch.device) -> bool:
    """On a CPU. Shapes depend on the data here, and a GPU would have to wait to learn them."""
    return device.type == "cpu"


class Grid:
    """The grid of a batch's maps (B, C, H, W): its cells, and which lie under a kernel at which."""

    def __init__(self, maps: list[Tensor]) -> None:
        self.of_one_image = neighbours_of(tuple((x.shape[2], x.shape[3]) for x in maps))  # (sum HW, 9)
        self.per_image = len(self.of_one_image)
        self.num_cells = len(maps[0]) * self.per_image

    def few(self, cells: Tensor) -> bool:
        """Whether `cells` (M,) are so few that a convolution at them alone costs less than everywhere."""
        return len(cells) <= LARGEST_SHARE * self.num_cells

    def rounded_up(self, cells: Tensor) -> Tensor:
        """`cells` and so many N behind them that their number M is a multiple of a 32nd of N."""
        step = -(-self.num_cells // NUM_SIZES)
        return F.pad(cells, (0, -len(cells) % step), value=self.num_cells)

    def under_kernel(self, cells: Tensor) -> Tensor:
        """(M, 9): the cells that lie under a 3x3 kernel at `cells` (M,), row by row; N outside of the map."""
        within = cells % self.per_image
        own = self.of_one_image[within]
        outside = (own < 0) | (cells == self.num_cells)[:, None]
        return torch.where(outside, self.num_cells, own + (cells - within)[:, None])

    def around(self, cells: Tensor) -> Tensor:
        """All cells that lie under the kernel at any of `cells` (..,), in ascending order and rounded up (M,)."""
        read = torch.zeros(self.num_cells + 1, dtype=torch.bool)
        read[self.under_kernel(cells)] = True
        return self.rounded_up(read[:-1].nonzero().squeeze(1))

    def rows_of(self, cells: Tensor) -> Tensor:
        """(N + 1,): the row of each cell where only `cells` (M,) have rows; M, the row of zeros, for none (N).

        -1 for a cell without a row, which `convolve_rows` refuses.
        """
        row = torch.full((self.num_cells + 1,), -1)
        row[cells] = torch.arange(len(cells))
        row[-1] = len(cells)
        return row


@lru_cache(maxsize=8)  # heads of their own ask once a level
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
    """(M, O): a 3x3 convolution where the rows `under` (M, 9) lie under its kernel; index R stands for a row of zeros.

    rows: (R, C). The module itself is not called, so its hooks are not either.
    """
    assert conv.kernel_size == (3, 3)
    assert conv.stride == conv.padding == conv.dilation == (1, 1)
    assert conv.groups == 1
    with_zeros = F.pad(rows, (0, 0, 0, 1))
    # Not with_zeros[under]: there -1, a cell without a row, would be the row of zeros. Here it is an IndexError.
    patches = with_zeros.index_select(0, under.flatten()).view(len(under), under.shape[1] * rows.shape[1])
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9 C); a view where the weight lies in channels_last
    return F.linear(patches, weight, conv.bias)
