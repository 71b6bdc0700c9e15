"""Necks: FPN (Lin et al. 2017), BiFPN (Tan et al. 2020) or none; extra stride-2 levels (RetinaNet's P6 and P7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model.norms import make_norm


def make_neck(in_channels: list[int], config: DetectorConfig) -> FPN | BiFPN | NoNeck:
    """The neck of a config over trunk maps of these channels; `out_channels` says what its maps have."""
    if config.neck == "none":
        return NoNeck(in_channels, config)
    return BiFPN(in_channels, config) if config.neck == "bifpn" else FPN(in_channels, config)


class NoNeck(nn.Module):
    """The trunk's maps as they are (SSD)."""

    def __init__(self, in_channels: list[int], config: DetectorConfig) -> None:
        super().__init__()
        self.out_channels = list(in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return features


class ExtraLevels(nn.Module):
    """Stride-2 convolutions beyond the last level, from the last trunk map or from its neck output."""

    def __init__(self, trunk_channels: int, config: DetectorConfig) -> None:
        super().__init__()
        channels = config.neck_channels
        self.from_trunk = config.extra_levels > 0 and config.extra_levels_from == "trunk"
        first = trunk_channels if self.from_trunk else channels
        self.convs = nn.ModuleList(
            nn.Conv2d(first if n == 0 else channels, channels, kernel_size=3, stride=2, padding=1)
            for n in range(config.extra_levels)
        )

    def forward(self, trunk_map: Tensor, neck_map: Tensor) -> list[Tensor]:
        x, outputs = trunk_map if self.from_trunk else neck_map, []
        for n, conv in enumerate(self.convs):
            x = conv(x if n == 0 else F.relu(x))
            outputs.append(x)
        return outputs


class FPN(nn.Module):
    """Trunk levels (B, C_l, H_l, W_l), finest first -> as many maps of `neck_channels`, then the extra levels."""

    def __init__(self, in_channels: list[int], config: DetectorConfig) -> None:
        super().__init__()
        channels = config.neck_channels
        self.top_down = config.neck_top_down
        group_channels = config.group_norm_channels if config.neck_norm == "group" else 0
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in in_channels)
        self.output_norm = nn.ModuleList(make_norm(config.neck_norm, channels, group_channels) for _ in in_channels)
        self.extra = ExtraLevels(in_channels[-1], config)
        self.out_channels = [channels] * config.num_levels
        _init_like_torchvision(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        if self.top_down:
            for n in range(len(laterals) - 2, -1, -1):
                upsampled = F.interpolate(laterals[n + 1], size=laterals[n].shape[-2:], mode="nearest")
                laterals[n] = laterals[n] + upsampled
        outputs = [norm(conv(x)) for conv, norm, x in zip(self.output, self.output_norm, laterals, strict=True)]
        extra: list[Tensor] = self.extra(features[-1], outputs[-1])
        return outputs + extra


class BiFPN(nn.Module):
    """Weighted bi-directional pyramid: down, then up, each node a weighted mean of its inputs, `neck_repeats` times.

    EfficientDet's "fast normalised fusion": weights are kept positive by ReLU and divided by their sum + 1e-4.
    """

    def __init__(self, in_channels: list[int], config: DetectorConfig) -> None:
        super().__init__()
        channels = config.neck_channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)
        self.extra = ExtraLevels(in_channels[-1], config)
        self.out_channels = [channels] * config.num_levels
        self.layers = nn.ModuleList(BiFPNLayer(config.num_levels, config) for _ in range(config.neck_repeats))
        _init_like_torchvision(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        maps += self.extra(features[-1], maps[-1])
        for layer in self.layers:
            maps = layer(maps)
        return maps


class BiFPNLayer(nn.Module):
    """One pass: top-down nodes of every level but the last, then bottom-up nodes of every level but the first."""

    def __init__(self, num_levels: int, config: DetectorConfig) -> None:
        super().__init__()
        self.down_weights = nn.Parameter(torch.ones(num_levels - 1, 2))  # own map, the one above
        self.up_weights = nn.Parameter(torch.ones(max(0, num_levels - 2), 3))  # own map, top-down node, the one below
        self.top_weights = nn.Parameter(
            torch.ones(2)
        )  # the coarsest level has no top-down node: own map, the one below
        self.down = nn.ModuleList(_fusion_conv(config) for _ in range(num_levels - 1))
        self.up = nn.ModuleList(_fusion_conv(config) for _ in range(num_levels - 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        count = len(maps)
        nodes = list(maps)  # top-down; the coarsest level passes its own map on
        for n in range(count - 2, -1, -1):
            above = F.interpolate(nodes[n + 1], size=maps[n].shape[-2:], mode="nearest")
            nodes[n] = self.down[n](F.silu(fuse([maps[n], above], self.down_weights[n])))
        outputs = [nodes[0]]
        for n in range(1, count):
            below = F.adaptive_max_pool2d(outputs[-1], maps[n].shape[-2:])
            if n < count - 1:
                fused = fuse([maps[n], nodes[n], below], self.up_weights[n - 1])
            else:
                fused = fuse([maps[n], below], self.top_weights)
            outputs.append(self.up[n - 1](F.silu(fused)))
        return outputs


def fuse(maps: list[Tensor], weights: Tensor) -> Tensor:
    """Fast normalised fusion (Tan et al. 2020, section 3.3): the mean of maps of one shape by ReLU'd weights."""
    positive = F.relu(weights)
    share = positive / (positive.sum() + 1e-4)
    fused = maps[0] * share[0]
    for n in range(1, len(maps)):
        fused = fused + maps[n] * share[n]
    return fused


def _fusion_conv(config: DetectorConfig) -> nn.Module:
    channels = config.neck_channels
    norm = make_norm(config.neck_norm, channels, config.group_norm_channels if config.neck_norm == "group" else 0)
    if config.neck_separable:
        return nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, kernel_size=1),
            norm,
        )
    return nn.Sequential(nn.Conv2d(channels, channels, kernel_size=3, padding=1), norm)


def _init_like_torchvision(neck: nn.Module) -> None:
    """As torchvision.ops.FeaturePyramidNetwork."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
