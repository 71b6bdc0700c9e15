"""The trunks: torchvision's own network at width 1, any width else, frozen stages, and weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._api import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from detector.config import ConfigError, DetectorConfig
from detector.model.backbones import ResNetTrunk, read_state_dict, scaled_channels

NARROW = {"trunk_width": 0.25, "image_size_px": (64, 96)}


def trunk(**values: Any) -> ResNetTrunk:
    torch.manual_seed(0)
    return ResNetTrunk(DetectorConfig(**{**NARROW, **values}))


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
def test_at_width_1_with_the_same_weights_the_maps_are_torchvisions(tmp_path: Path, norm: str) -> None:
    reference = torchvision_resnet18()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pt")
    ours = trunk(trunk_width=1.0, norm=norm, trunk_weights=str(tmp_path / "resnet18.pt")).eval().double()
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
    ("kind", "layer"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("frozen", FrozenBatchNorm2d)]
)
def test_the_norm_is_the_one_asked_for(kind: str, layer: type) -> None:
    made = trunk(norm=kind, group_norm_channels=4)
    norms = [
        module for module in made.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm2d))
    ]
    assert norms
    assert all(type(module) is layer for module in norms)
    if kind == "group":
        assert made.bn1.num_groups == 16 // 4


@pytest.mark.parametrize("stages", range(6))
def test_frozen_stages_learn_nothing_and_keep_their_statistics(stages: int) -> None:
    made = trunk(frozen_stages=stages).train()
    frozen = [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]][:stages]
    prefixes = tuple(name + "." for names in frozen for name in names)
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad is not (bool(prefixes) and name.startswith(prefixes))
    before = {name: value.clone() for name, value in made.named_buffers() if "running" in name}
    made(images())
    for name, value in made.named_buffers():
        if "running" in name:
            assert torch.equal(before[name], value) is (bool(prefixes) and name.startswith(prefixes)), name


def test_frozen_stages_beyond_the_levels_that_are_built_are_no_error() -> None:
    made = trunk(frozen_stages=5, neck_levels=(3,)).train()
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_narrow_weights_load_from_a_file_and_from_a_detectors_checkpoint_form(tmp_path: Path) -> None:
    source = trunk()
    with torch.no_grad():
        source.conv1.weight.fill_(0.125)
    for content in (source.state_dict(), {"model": source.state_dict()}):
        torch.save(content, tmp_path / "trunk.pt")
        loaded = trunk(trunk_weights=str(tmp_path / "trunk.pt"))
        assert all(
            torch.equal(a, b) for a, b in zip(source.state_dict().values(), loaded.state_dict().values(), strict=True)
        )


def test_weights_of_another_width_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(trunk(trunk_width=0.5).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(
        ConfigError, match=r"of resnet18 at trunk_width 0\.25; 0 tensors are missing .* another shape \['conv1"
    ):
        trunk(trunk_weights=str(tmp_path / "wide.pt"))


def test_weights_of_a_shallower_trunk_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    torch.save(trunk(neck_levels=(2, 3)).state_dict(), tmp_path / "short.pt")
    with pytest.raises(ConfigError, match=r"tensors are missing \['layer3"):
        trunk(trunk_weights=str(tmp_path / "short.pt"))


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"trunk_weights='nowhere/r18.pt' must be a file"):
        trunk(trunk_weights="nowhere/r18.pt")


@pytest.mark.parametrize("content", [b"no weights at all", b""])
def test_a_file_that_is_no_weights_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"detector_weights=.*broken.pt' must be a file of tensors"):
        read_state_dict(str(tmp_path / "broken.pt"), "detector_weights")


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"model": {"a": "text"}}])
def test_a_file_without_a_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"must hold a state_dict"):
        read_state_dict(str(tmp_path / "other.pt"), "trunk_weights")


def test_imagenet_weights_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = torchvision_resnet18()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **options: reference.state_dict())
    made = trunk(trunk_weights="imagenet", trunk_width=1.0, neck_levels=(2, 3))
    assert torch.equal(made.layer2[1].conv2.weight, reference.layer2[1].conv2.weight)
    assert torch.equal(made.bn1.running_var, reference.bn1.running_var)


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), OSError("disk full"), RuntimeError("invalid hash value")]
)
def test_imagenet_without_a_network_says_what_to_fetch_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(ConfigError) as caught:
        trunk(trunk_weights="imagenet", trunk_width=1.0)
    message = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18" in message
    assert str(error) in message
    assert "set trunk_weights to its path" in message
