"""Classification and box heads over pyramid levels (Lin et al. 2018, section 4), shared or one per level.

Shapes: B images, L levels, H W cells of a level, N = B x sum HW cells, A anchors a cell, O outputs a cell, K classes; M cells
and P anchors of a batch are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice, pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model.norms import make_norm
from detector.model.sparse_convolution import Grid, as_rows, convolve_rows


class AtAnchors(NamedTuple):
    """The box regression of P anchors of a batch, each once, in any order."""

    image: Tensor  # (P,)
    anchor: Tensor  # (P,) which of the image's sum HWA
    box_regression: Tensor  # (P, 4)


class Tower(nn.Module):
    """`depth` 3x3 convolutions with norm and ReLU, then the output convolution.

    Serves `num_levels` levels with the same convolutions; batch norms are per level even so, since levels differ
    in their statistics (as EfficientDet does).
    """

    def __init__(self, in_channels: int, out_channels: int, num_levels: int, config: DetectorConfig) -> None:
        super().__init__()
        depth = config.head_depth
        kind = config.head_norm if depth else "none"
        group_channels = config.group_norm_channels if kind == "group" else 0
        widths = [in_channels] + ([config.head_channels] * depth if depth else [])
        self.without_norm = kind == "none"
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=3, padding=1, bias=self.without_norm) for a, b in pairwise(widths)
        )
        norm_sets = num_levels if kind == "batch" else 1
        self.norms = nn.ModuleList(
            nn.ModuleList(make_norm(kind, width, group_channels) for width in widths[1:]) for _ in range(norm_sets)
        )
        self.output = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)
        nn.init.normal_(self.output.weight, std=0.01)  # Lin et al. 2018, section 4.1
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)
        # Differs from the paper: 0.01 here as well would fit its 256 channels alone. Through four narrow convolutions
        # nothing would be left of a gradient (measured with 16 channels: norm 0.5 where a head without them has 15).
        for conv in cast(Iterable[nn.Conv2d], self.convs):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, level: int) -> Tensor:
        output: Tensor = self.output(self._hidden(x, level, len(self.convs)))
        return output

    def at(self, maps: list[Tensor], cells: Tensor) -> Tensor:
        """(M, O): the tower's output at `cells` (M,) of all its maps, hidden convolutions done only where the next one reads.

        A hidden one is done everywhere where norms follow, or where more than half of the cells are read; all of them,
        the output's included, where `cells` are more than half.
        """
        grid, hidden = Grid(maps), list(cast(Iterable[nn.Conv2d], self.convs))
        if not grid.few(cells):
            return as_rows([self(x, level) for level, x in enumerate(maps)])[cells]
        # Where each of the last layers is done, the output's last: a hidden one at all that the next one reads.
        read = [grid.rounded_up(cells)]
        while self.without_norm and len(read) <= len(hidden) and grid.few(wider := grid.around(read[0])):
            read.insert(0, wider)
        num_everywhere = len(hidden) + 1 - len(read)
        rows = as_rows([self._hidden(x, level, num_everywhere) for level, x in enumerate(maps)])
        under = grid.under_kernel(read[0])
        for conv, (here, following) in zip(hidden[num_everywhere:], pairwise(read), strict=True):
            rows = F.relu(convolve_rows(conv, rows, under), inplace=True)
            under = grid.rows_of(here)[grid.under_kernel(following)]
        return convolve_rows(self.output, rows, under)[: len(cells)]

    def _hidden(self, x: Tensor, level: int, count: int) -> Tensor:
        """The map after `count` of the hidden convolutions."""
        norms = cast(nn.ModuleList, self.norms[level if len(self.norms) > 1 else 0])
        for conv, norm in islice(zip(self.convs, norms, strict=True), count):
            x = F.relu(norm(conv(x)), inplace=True)
        return x


class DenseHead(nn.Module):
    """Pyramid maps -> (class logits (B, sum HWA, C), box regression (B, sum HWA, 4)), both fp32.

    C is K for sigmoid scores, K + 1 for softmax: the last is background.
    """

    def __init__(
        self, config: DetectorConfig, in_channels: list[int], num_anchors_per_cell: list[int], num_classes: int
    ) -> None:
        super().__init__()
        softmax = config.class_scores == "softmax"
        self.num_scores = num_classes + 1 if softmax else num_classes
        # Shared: one tower, which knows of every level; else a tower a level.
        self.shared = config.head_shared
        levels = 1 if self.shared else len(in_channels)
        each = len(in_channels) if self.shared else 1

        def towers(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(
                Tower(in_channels[n], num_anchors_per_cell[n] * outputs, each, config) for n in range(levels)
            )

        self.classification = towers(self.num_scores)
        self.regression = towers(4)
        start = initial_bias(config.prior_probability, num_classes, softmax) if config.bias_init == "prior" else None
        for tower in self.classification:
            if start is not None:
                bias = cast(Tower, tower).output.bias
                assert bias is not None
                with torch.no_grad():
                    bias.copy_(start.repeat(len(bias) // len(start)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.logits(features), self.box_regression(features)

    def logits(self, features: list[Tensor]) -> Tensor:
        """(B, sum HWA, C)."""
        return self._everywhere(self.classification, self.num_scores, features)

    def box_regression(self, features: list[Tensor]) -> Tensor:
        """(B, sum HWA, 4)."""
        return self._everywhere(self.regression, 4, features)

    def box_regression_at(self, features: list[Tensor], asked: Tensor) -> AtAnchors:
        """The box regression of the anchors `asked` for, (B, sum HWA) bool; the box head works at their cells and what those read."""
        found, first = [], 0
        for tower, maps in self._served(self.regression, features):
            per_cell = tower.output.out_channels // 4
            end = first + sum(x.shape[2] * x.shape[3] for x in maps) * per_cell
            own = asked[:, first:end]  # of these maps' anchors
            of_cells = own.reshape(-1, per_cell)  # (N, A)
            cells = of_cells.any(dim=1).nonzero().squeeze(1)  # (M,)
            values = tower.at(maps, cells).view(-1, per_cell, 4)[of_cells[cells]]  # (M, A, 4) -> (P, 4)
            image, anchor = own.nonzero(as_tuple=True)
            found.append(AtAnchors(image, anchor + first, values.float()))
            first = end
        return AtAnchors(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _everywhere(self, towers: nn.ModuleList, k: int, features: list[Tensor]) -> Tensor:
        levels = [
            permute_to_b_hwa_k(tower(x, level), k)
            for tower, maps in self._served(towers, features)
            for level, x in enumerate(maps)
        ]
        return torch.cat(levels, dim=1).float()

    def _served(self, towers: nn.ModuleList, features: list[Tensor]) -> Iterable[tuple[Tower, list[Tensor]]]:
        """Each tower with the maps that it serves."""
        served = [features] if self.shared else [[x] for x in features]
        return zip(cast(Iterable[Tower], towers), served, strict=True)


def initial_bias(prior: float, num_classes: int, softmax: bool) -> Tensor:
    """Biases of one anchor's scores under which an object has probability `prior`, all weights being about 0.

    Sigmoid: every class at `prior` (Lin et al. 2018, section 3.3). Softmax: background alone, so that it starts at
    1 - prior (the report's p); the classes share the rest.
    """
    if not softmax:
        return torch.full((num_classes,), -math.log((1 - prior) / prior))
    bias = torch.zeros(num_classes + 1)
    bias[-1] = math.log((1 - prior) * num_classes / prior)
    return bias


def permute_to_b_hwa_k(x: Tensor, k: int) -> Tensor:
    """(B, A*K, H, W) -> (B, H*W*A, K); a view where x is channels_last."""
    batch = x.shape[0]
    return x.permute(0, 2, 3, 1).reshape(batch, -1, k)
