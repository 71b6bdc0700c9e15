"""Any timm model that offers feature maps as a trunk: levels, channels and strides come from its feature_info."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from detector.config import ConfigError, DetectorConfig, first_line
from detector.model.backbones.trunk import Trunk
from detector.model.depthwise import speed_up_depthwise
from detector.model.norms import FrozenNorm

NAMES_OFFERED = 3
NAMES_TRIED = 12  # of the nearest ones, until so many offer the maps
ALWAYS_GOOD = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_tiny")  # where no near name does


@dataclass(frozen=True)
class Feature:
    """A map that a timm model offers."""

    index: int  # among its maps, finest first
    module: str  # the last module before it
    channels: int
    stride: int  # pixels per cell


class TimmTrunk(Trunk):
    """A timm model at its own width up to the deepest of the chosen levels."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.levels = config.neck_levels
        canvas = (config.image_size_px[0], config.image_size_px[1])
        features = features_by_level(config.trunk, canvas, self.levels)
        chosen = [features[level] for level in self.levels]
        self.out_channels = [feature.channels for feature in chosen]
        self.net: Any = timm.create_model(
            config.trunk, pretrained=False, features_only=True, out_indices=[feature.index for feature in chosen]
        )
        self._channels_last = is_channels_last(self.net)
        drop_deeper(self.net, chosen[-1].module)
        if config.norm == "frozen":
            freeze_norms(self.net)
        speed_up_depthwise(self.net)
        self._ends = [features[level].module if level in features else "" for level in range(1, self.levels[-1] + 1)]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else list(maps)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        units = list(units_of(self.net))
        names = [name for name, _ in units]
        found: list[list[nn.Module]] = []
        start = 0
        for end in self._ends:  # a level without a map of its own ends where the one before it did
            place = _place_of(_flat(end), names, start)
            found.append([module for _, module in units[start : place + 1]])
            start = max(start, place + 1)
        return found


def features_by_level(name: str, canvas: tuple[int, int], levels: Sequence[int]) -> dict[int, Feature]:
    """The maps of a timm model by level (stride 2^level); of several at one stride the deepest.

    Raises: ConfigError where there is no such model, or it has no maps of `levels` on this canvas; with names that have.
    """
    features, problem = _offered(name, canvas)
    if not problem:
        lacking = [level for level in levels if level not in features]
        if not lacking:
            return features
        strides = ", ".join(str(feature.stride) for feature in features.values())
        problem = (
            f"it has no map of stride {', '.join(str(2**level) for level in lacking)}, only of {strides or 'none'}"
        )
    near = ", ".join(near_names(name, canvas, levels))
    raise ConfigError(
        f"trunk={name!r} must be resnet18, resnet34, resnet50, resnet101, report_ssd or a timm model with feature maps of "
        f"neck_levels {tuple(levels)}; {problem}. Near names that have them: {near}"
    )


def near_names(name: str, canvas: tuple[int, int], levels: Sequence[int]) -> list[str]:
    """Three timm models of like names that have maps of these levels."""
    close = difflib.get_close_matches(name, timm.list_models(), n=NAMES_TRIED, cutoff=0.0)
    names = dict.fromkeys([*close, *ALWAYS_GOOD])
    fits = (near for near in names if near != name and set(levels) <= set(_offered(near, canvas)[0]))
    return [near for near, _ in zip(fits, range(NAMES_OFFERED), strict=False)]


@functools.lru_cache(maxsize=256)
def _offered(name: str, canvas: tuple[int, int]) -> tuple[dict[int, Feature], str]:
    """(the maps by level that a model gives on a canvas, why there are none); built without memory for weights."""
    if not timm.is_model(name):
        return {}, "timm knows no model of this name"
    try:
        with torch.device("meta"), torch.no_grad():
            net: Any = timm.create_model(name, pretrained=False, features_only=True).eval()
            maps = net(torch.empty(1, 3, *canvas))
    except Exception as error:  # every family of models says in its own way that it cannot
        return {}, f"timm says: {first_line(error)}"
    features = {}
    for index, x in zip(net.feature_info.out_indices, maps, strict=True):
        info = net.feature_info.info[index]
        size = tuple(x.shape[1:3] if is_channels_last(net) else x.shape[2:4])
        level = int(info["reduction"]).bit_length() - 1
        if size == (canvas[0] // 2**level, canvas[1] // 2**level):
            features[level] = Feature(index, info["module"], info["num_chs"], 2**level)
    return features, ""


def is_channels_last(net: nn.Module) -> bool:
    """Whether a timm model's maps are (B, H, W, C)."""
    return str(getattr(net, "output_fmt", "")).upper().endswith("NHWC")


def units_of(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a timm model in the order of its forward pass, lists of blocks taken apart; names with _ for dots."""
    for name, child in getattr(net, "model", net).named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from ((f"{_flat(name)}_{inner}", block) for inner, block in child.named_children())
        yield _flat(name), child


def drop_deeper(net: Any, last: str) -> None:
    """Leaves out the blocks behind the deepest map that is read, where timm keeps them."""
    blocks = getattr(net, "blocks", None)
    if isinstance(blocks, nn.Sequential) and last.startswith("blocks."):
        net.blocks = blocks[: int(last.split(".")[1]) + 1]


def freeze_norms(module: nn.Module) -> None:
    """Puts a FrozenNorm in the place of every batch norm below `module`; it keeps the activation that timm packs into one."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, FrozenNorm(child.num_features, child.eps, getattr(child, "act", None)))
        else:
            freeze_norms(child)


def _place_of(end: str, names: Sequence[str], start: int) -> int:
    """The last unit before a map: that of its name, or the one that holds it; where there is no map, the one before `start`."""
    if end in names:
        return names.index(end)
    holding = [n for n, name in enumerate(names) if end.startswith(f"{name}_")]
    return max(holding, key=lambda n: len(names[n]), default=start - 1)


def _flat(name: str) -> str:
    return name.replace(".", "_")
