"""The trunks: torchvision's own network at width 1, any width else, frozen stages, and weights from files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from detector.config import DetectorConfig
from detector.model.backbones import ResNetTrunk, make_trunk
from detector.model.backbones.trunk import scaled_channels
from detector.model.norms import FrozenNorm

NARROW = {"trunk_width": 0.25, "image_size_px": (64, 96)}


def trunk(**values: Any) -> ResNetTrunk:
    torch.manual_seed(0)
    made = make_trunk(DetectorConfig(**{**NARROW, **values}))
    assert isinstance(made, ResNetTrunk)
    return made


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def torchvision_resnet18() -> nn.Module:
    """torchvision's network with batch statistics that are not the trivial 0 and 1."""
    torch.manual_seed(3)
    model = get_model("resnet18", weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


def torchvision_levels(model: Any, x: Tensor) -> list[Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    outputs = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_at_width_1_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in get_model(name, weights=None).state_dict().items()}
        ours = {
            key: value.shape
            for key, value in ResNetTrunk(DetectorConfig(trunk=name, trunk_width=1.0)).state_dict().items()
        }
    assert ours == {key: shape for key, shape in theirs.items() if not key.startswith("fc.")}


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_at_width_1_with_the_same_weights_the_maps_are_torchvisions(norm: str) -> None:
    reference = torchvision_resnet18()
    ours = trunk(trunk_width=1.0, norm=norm, pretrained="imagenet").double()
    assert ours.load_state_dict(reference.double().state_dict(), strict=False).unexpected_keys == [
        "fc.weight",
        "fc.bias",
    ]
    ours.eval()
    reference = (
        reference.double()
    )  # in fp32 a frozen norm rounds otherwise than a batch norm, by the processor's kernels
    with torch.no_grad():
        for mine, theirs in zip(ours(images().double()), torchvision_levels(reference, images().double()), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("levels", [(2,), (3, 4), (2, 3, 4, 5), (5,)])
def test_levels_come_finest_first_at_their_strides_and_no_deeper_stage_is_built(levels: tuple[int, ...]) -> None:
    made = trunk(neck_levels=levels).eval()
    maps = made(images())
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, 64 // 2**level, 96 // 2**level) for level, channels in zip(levels, made.out_channels, strict=True)
    ]
    # Width 0.25: 16 channels in the stem and layer1, doubling.
    assert made.out_channels == [16 * 2 ** (level - 2) for level in levels]
    assert hasattr(made, f"layer{levels[-1] - 1}")
    assert not hasattr(made, f"layer{levels[-1]}")


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (64, 0.05, 16), (64, 0.3, 16), (64, 0.32, 24), (64, 0.5, 32), (64, 1.9, 120)],
)
def test_channels_are_a_multiple_of_8_and_at_least_16(channels: int, width: float, expected: int) -> None:
    assert scaled_channels(channels, width) == expected  # 64 * 0.3 / 8 = 2.4 -> 2; 64 * 0.32 / 8 = 2.56 -> 3


@pytest.mark.parametrize(
    ("kind", "layer"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("frozen", FrozenNorm)]
)
def test_the_norm_is_the_one_asked_for(kind: str, layer: type) -> None:
    made = trunk(norm=kind, group_norm_channels=4, pretrained="weights.pt")
    norms = [module for module in made.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, FrozenNorm))]
    assert norms
    assert all(type(module) is layer for module in norms)
    if kind == "group":
        assert made.bn1.num_groups == 16 // 4


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_learn_nothing_and_keep_their_statistics(stages: int) -> None:
    made = trunk(frozen_stages=stages, pretrained="weights.pt").train()
    frozen = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]][:stages]
    prefixes = tuple(name + "." for names in frozen for name in names)
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad is not (bool(prefixes) and name.startswith(prefixes))
    before = {name: value.clone() for name, value in made.named_buffers() if "running" in name}
    made(images())
    for name, value in made.named_buffers():
        if "running" in name:
            assert torch.equal(before[name], value) is (bool(prefixes) and name.startswith(prefixes)), name
