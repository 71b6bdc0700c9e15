"""ResNets made of torchvision's blocks, at any width.

Differs from torchvision.models.resnet.ResNet: every stage's channels scale with `trunk_width` (torchvision's
`width_per_group` scales only the inside of bottlenecks), stages that the neck does not read are not built, and
there is no classifier. At width 1.0 the parameter names and values are torchvision's own, so its files load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from detector.config import DetectorConfig
from detector.model.backbones.trunk import STEM_CHANNELS, Trunk, init_like_torchvision, maps_of, scaled_channels
from detector.model.norms import make_norm

# torchvision.models.resnet: the block and the blocks of layer1..layer4.
ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
FRESH_BLOCKS = (
    "layer5.",
    "layer6.",
)  # how the names of the report's blocks behind a ResNet begin: nobody has weights for them


class ResNetTrunk(Trunk):
    """torchvision's ResNet up to the deepest of the chosen levels, and the report's blocks beyond level 5."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        block, depths = ARCHITECTURES[config.trunk]
        self.levels = config.neck_levels
        norm_kind, group_channels = config.norm, config.group_norm_channels if config.norm == "group" else 0

        def norm(channels: int) -> nn.Module:
            return make_norm(norm_kind, channels, group_channels)

        width = scaled_channels(STEM_CHANNELS, config.trunk_width)
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels, self.out_channels = width, []
        extra = [scaled_channels(channels, config.trunk_width) for channels in config.trunk_extra_channels]
        for stage, depth in enumerate(depths[: self.levels[-1] - 1]):
            planes = width * 2**stage
            layer = _stage(block, in_channels, planes, depth, stride=1 if stage == 0 else 2, norm=norm)
            in_channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", layer)
            if stage + 2 in self.levels:
                self.out_channels.append(in_channels)
        for level, planes in zip(range(6, self.levels[-1] + 1), extra, strict=False):
            self.add_module(f"layer{level - 1}", _stage(BasicBlock, in_channels, planes, 1, stride=2, norm=norm))
            in_channels = planes
            self.out_channels.append(in_channels)
        init_like_torchvision(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        return maps_of(self, images)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        stem = [self.conv1, self.bn1, self.relu, self.maxpool]
        return [stem, *([getattr(self, f"layer{level - 1}")] for level in range(2, self.levels[-1] + 1))]


def _stage(block: Any, in_channels: int, planes: int, depth: int, stride: int, norm: Any) -> nn.Sequential:
    shortcut = None
    out_channels = planes * block.expansion
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), norm(out_channels)
        )
    blocks = [block(in_channels, planes, stride, shortcut, norm_layer=norm)]
    blocks += [block(out_channels, planes, norm_layer=norm) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
