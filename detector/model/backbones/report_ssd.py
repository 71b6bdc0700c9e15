"""The plain convolutions of the report's SSD (its table 1), at any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model.backbones.trunk import Trunk, init_like_torchvision, maps_of, scaled_channels

# (channels, stride) of the convolutions of each level 2..7, each with a ReLU; a 2x2 max pooling follows the first. The
# last convolution has a 2x2 kernel without padding, all others 3x3 with it.
REPORT_SSD = (
    ((32, 1), (64, 1), (64, 1), (128, 2)),
    ((128, 1), (256, 2)),
    ((256, 1), (128, 2)),
    ((128, 1), (128, 2)),
    ((128, 1), (64, 2)),
    ((128, 1), (64, 2)),
)
STEM_MODULES = 3  # of level 2: the first convolution, its ReLU and the pooling


class ReportTrunk(Trunk):
    """The report's baseline up to the deepest of the chosen levels."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.levels = config.neck_levels
        self.out_channels: list[int] = []
        channels = 3
        for level, convs in zip(range(2, self.levels[-1] + 1), REPORT_SSD, strict=False):
            layers: list[nn.Module] = []
            for position, (planes, stride) in enumerate(convs):
                width = scaled_channels(planes, config.trunk_width)
                last = level == 7 and stride == 2
                layers += [
                    nn.Conv2d(channels, width, 2 if last else 3, stride, padding=0 if last else 1),
                    nn.ReLU(inplace=True),
                ]
                if level == 2 and position == 0:
                    layers.append(nn.MaxPool2d(2, 2))
                channels = width
            self.add_module(f"level{level}", nn.Sequential(*layers))
            if level in self.levels:
                self.out_channels.append(channels)
        init_like_torchvision(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        return maps_of(self, images)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        first = list(cast(nn.Module, self.level2).children())
        deeper = [[getattr(self, f"level{level}")] for level in range(3, self.levels[-1] + 1)]
        return [first[:STEM_MODULES], first[STEM_MODULES:], *deeper]
