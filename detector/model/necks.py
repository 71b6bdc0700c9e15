"""Feature pyramid network (Lin et al. 2017) with extra stride-2 levels (Lin et al. 2018, RetinaNet's P6 and P7)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model.norms import make_norm


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
        self.extra_from_trunk = config.extra_levels > 0 and config.extra_levels_from == "trunk"
        first = in_channels[-1] if self.extra_from_trunk else channels
        self.extra = nn.ModuleList(
            nn.Conv2d(first if n == 0 else channels, channels, kernel_size=3, stride=2, padding=1)
            for n in range(config.extra_levels)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision.ops.FeaturePyramidNetwork
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [conv(x) for conv, x in zip(self.lateral, features, strict=True)]
        if self.top_down:
            for n in range(len(laterals) - 2, -1, -1):
                upsampled = F.interpolate(laterals[n + 1], size=laterals[n].shape[-2:], mode="nearest")
                laterals[n] = laterals[n] + upsampled
        outputs = [norm(conv(x)) for conv, norm, x in zip(self.output, self.output_norm, laterals, strict=True)]
        x = features[-1] if self.extra_from_trunk else outputs[-1]
        for n, conv in enumerate(self.extra):
            x = conv(x if n == 0 else F.relu(x))
            outputs.append(x)
        return outputs
