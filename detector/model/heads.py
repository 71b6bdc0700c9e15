"""Classification and box heads over pyramid levels (Lin et al. 2018, section 4), shared or one per level.

Shapes: B images, L levels, H W cells of a level, A anchors a cell, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model.norms import make_norm


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
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=3, padding=1, bias=kind == "none") for a, b in pairwise(widths)
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
        norms = cast(nn.ModuleList, self.norms[level if len(self.norms) > 1 else 0])
        for conv, norm in zip(self.convs, norms, strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        output: Tensor = self.output(x)
        return output


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
        logits, regressions = [], []
        for level, x in enumerate(features):
            copy, within = (0, level) if self.shared else (level, 0)
            logits.append(permute_to_b_hwa_k(self.classification[copy](x, within), self.num_scores))
            regressions.append(permute_to_b_hwa_k(self.regression[copy](x, within), 4))
        return torch.cat(logits, dim=1).float(), torch.cat(regressions, dim=1).float()


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
