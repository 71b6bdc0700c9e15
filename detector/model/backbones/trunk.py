"""What every trunk offers: maps by level, and stages that can be frozen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

STEM_CHANNELS = 64


class Trunk(nn.Module):
    """Images (B, 3, H, W) -> feature maps of the chosen levels, finest first; level l is (B, C_l, H/2^l, W/2^l)."""

    levels: tuple[int, ...]
    out_channels: list[int]  # C_l of each level

    def __init__(self) -> None:
        super().__init__()
        self._num_frozen = 0

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of each stage: the stem, then what leads to level 2, 3, .."""
        raise NotImplementedError

    def freeze(self, count: int) -> None:
        """Fixes the weights and statistics of the first `count` stages.

        Images need no gradient and frozen weights neither, so autograd records nothing there and no backward pass reaches
        them: a frozen stage costs its forward pass alone.
        """
        self._num_frozen = count
        for module in self._frozen():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Trunk:
        """Frozen stages stay in evaluation mode, so that their batch statistics stay fixed too."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        return [module for stage in self.stages()[: self._num_frozen] for module in stage]


def scaled_channels(channels: int, width: float) -> int:
    """`channels` x width, rounded to a multiple of 8 (what vector units like), at least 16.

    With 8 channels, oneDNN's backward pass of the 1x1 stride-2 shortcut ends the process with a segmentation fault
    (torch 2.14.1, AVX-512): a machine's crash must not hang on a width.
    """
    return max(16, int(channels * width / 8 + 0.5) * 8)


def init_like_torchvision(trunk: nn.Module) -> None:
    """Kaiming's normal start by fan-out, as torchvision.models.resnet.ResNet."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def maps_of(trunk: Trunk, x: Tensor) -> list[Tensor]:
    """The maps of the chosen levels of a trunk whose stages are sequences of modules."""
    outputs = []
    for level, stage in enumerate(trunk.stages(), start=1):
        for module in stage:
            x = module(x)
        if level in trunk.levels:
            outputs.append(x)
    return outputs
