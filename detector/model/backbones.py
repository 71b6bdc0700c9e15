"""Trunks: ResNets made of torchvision's blocks, at any width, and the plain convolutions of the report's SSD.

Differs from torchvision.models.resnet.ResNet: every stage's channels scale with `trunk_width` (torchvision's
`width_per_group` scales only the inside of bottlenecks), stages that the neck does not read are not built, and
there is no classifier. At width 1.0 the parameter names and values are torchvision's own, so its files load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from detector.config import ConfigError, DetectorConfig
from detector.model.norms import make_norm

# torchvision.models.resnet: the block and the blocks of layer1..layer4.
ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
STEM_CHANNELS = 64


def scaled_channels(channels: int, width: float) -> int:
    """`channels` x width, rounded to a multiple of 8 (what vector units like), at least 16.

    With 8 channels, oneDNN's backward pass of the 1x1 stride-2 shortcut ends the process with a segmentation fault
    (torch 2.14.1, AVX-512): a machine's crash must not hang on a width.
    """
    return max(16, int(channels * width / 8 + 0.5) * 8)


# The report's table 1: (channels, stride) of the convolutions of each level 2..7, each with a ReLU; a 2x2 max pooling
# follows the first. The last convolution has a 2x2 kernel without padding, all others 3x3 with it.
REPORT_SSD = (
    ((32, 1), (64, 1), (64, 1), (128, 2)),
    ((128, 1), (256, 2)),
    ((256, 1), (128, 2)),
    ((128, 1), (128, 2)),
    ((128, 1), (64, 2)),
    ((128, 1), (64, 2)),
)


def make_trunk(config: DetectorConfig) -> ResNetTrunk | ReportTrunk:
    """The trunk of a config: maps of `neck_levels`, and their channels as `out_channels`."""
    return ReportTrunk(config) if config.trunk == "report_ssd" else ResNetTrunk(config)


class ReportTrunk(nn.Module):
    """Images (B, 3, H, W) -> maps of the chosen levels of the report's baseline; level l is (B, C_l, H/2^l, W/2^l)."""

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
        _init_like_torchvision(self)
        _load_trunk_weights(self, config)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, outputs = images, []
        for level in range(2, self.levels[-1] + 1):
            x = getattr(self, f"level{level}")(x)
            if level in self.levels:
                outputs.append(x)
        return outputs


class ResNetTrunk(nn.Module):
    """Images (B, 3, H, W) -> feature maps of the chosen levels, finest first; level l is (B, C_l, H/2^l, W/2^l)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        block, depths = ARCHITECTURES[config.trunk]
        self.levels = config.neck_levels
        self.frozen_stages = config.frozen_stages
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
        _init_like_torchvision(self)
        _load_trunk_weights(self, config)
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = []
        for level in range(2, self.levels[-1] + 1):
            x = getattr(self, f"layer{level - 1}")(x)
            if level in self.levels:
                outputs.append(x)
        return outputs

    def train(self, mode: bool = True) -> ResNetTrunk:
        """Frozen stages stay in evaluation mode, so that their batch statistics stay fixed too."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        stages = [getattr(self, f"layer{n}") for n in range(1, self.levels[-1])]
        parts: list[nn.Module] = [self.conv1, self.bn1] if self.frozen_stages else []
        return parts + stages[: max(0, self.frozen_stages - 1)]


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


def _init_like_torchvision(trunk: nn.Module) -> None:
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _load_trunk_weights(trunk: nn.Module, config: DetectorConfig) -> None:
    if config.detector_weights or not config.trunk_weights:
        return
    name, source = config.trunk, config.trunk_weights
    state = _imagenet_state(name) if source == "imagenet" else read_state_dict(source, "trunk_weights")
    # torchvision has no weights for what the report put behind its ResNet: those blocks start fresh.
    wanted = {k: v for k, v in trunk.state_dict().items() if not k.startswith(("layer5.", "layer6."))}
    missing = [key for key in wanted if key not in state and "num_batches_tracked" not in key]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or wrong:
        raise ConfigError(
            f"trunk_weights={source!r} must hold the weights of {name} at trunk_width {config.trunk_width:g}; "
            f"{len(missing)} tensors are missing {missing[:3]}, {len(wrong)} have another shape {wrong[:3]}"
        )
    trunk.load_state_dict({key: state.get(key, wanted[key]) for key in wanted}, strict=False)


def _imagenet_state(name: str) -> dict[str, Tensor]:
    weights = get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f'trunk_weights="imagenet" needs {weights.url}, which could not be fetched ({error}). Download that file '
            f'where there is a network and set trunk_weights to its path, or train from random weights (trunk_weights="").'
        ) from None
    return state


def read_state_dict(path: str, field: str) -> dict[str, Tensor]:
    """The tensors of a file saved by torch, read without unpickling code.

    Raises: ConfigError naming `field` where the file cannot be read or holds no tensors.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{field}={path!r} must be a file; there is none of this name")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for one cause: not a weights file
        raise ConfigError(
            f"{field}={path!r} must be a file of tensors saved by torch.save; reading it said: {error}"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{field}={path!r} must hold a state_dict (names and tensors)")
    return state
