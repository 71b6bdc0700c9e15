"""The normalisation layers that trunk, neck and heads may use, by name."""

from __future__ import annotations

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def make_norm(kind: str, channels: int, group_channels: int = 8) -> nn.Module:
    """A layer for `channels` feature maps: batch / group (of `group_channels`) / frozen / none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(num_groups_for(channels, group_channels), channels)
    if kind == "frozen":
        frozen: nn.Module = FrozenBatchNorm2d(channels)
        return frozen
    assert kind == "none", kind
    return nn.Identity()


def num_groups_for(channels: int, group_channels: int) -> int:
    """The number of groups nearest below channels / group_channels that divides `channels`."""
    groups = max(1, channels // group_channels)
    while channels % groups:
        groups -= 1
    return groups
