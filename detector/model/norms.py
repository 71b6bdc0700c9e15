"""The normalisation layers that trunk, neck and heads may use, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-5  # torch's, of batch norms and frozen ones


def make_norm(kind: str, channels: int, group_channels: int = 8) -> nn.Module:
    """A layer for `channels` feature maps: batch / group (of `group_channels`) / frozen / none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(num_groups_for(channels, group_channels), channels)
    if kind == "frozen":
        return FrozenNorm(channels)
    assert kind == "none", kind
    return nn.Identity()


class FrozenNorm(nn.Module):
    """A batch norm whose statistics and weights are fixed: (B, C, H, W) -> x * scale + shift, in the dtype of x.

    Holds the four tensors of torchvision's FrozenBatchNorm2d by their names, so that weights of either load. Differs from it:
    scale and shift are worked out once, when weights are loaded, and a map in bfloat16 stays one.
    """

    weight: Tensor  # (C,), as the three below
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor  # (1, C, 1, 1), as shift
    shift: Tensor

    def __init__(self, channels: int, eps: float = EPS, activation: nn.Module | None = None) -> None:
        """`activation` follows the norm, where a network keeps both in one module."""
        super().__init__()
        self.eps = eps
        self.activation = activation or nn.Identity()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        for name in ("scale", "shift"):
            self.register_buffer(name, torch.empty(1, channels, 1, 1), persistent=False)
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Works scale and shift out of the statistics and weights."""
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        self.scale.copy_(scale.view(1, -1, 1, 1))
        self.shift.copy_((self.bias - self.running_mean * scale).view(1, -1, 1, 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # of the batch norm that the weights were trained with
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.fold()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype)))
        return out


def num_groups_for(channels: int, group_channels: int) -> int:
    """The number of groups nearest below channels / group_channels that divides `channels`."""
    groups = max(1, channels // group_channels)
    while channels % groups:
        groups -= 1
    return groups
