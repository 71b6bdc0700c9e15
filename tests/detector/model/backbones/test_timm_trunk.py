"""timm models as trunks: maps by level at their strides, frozen parts, frozen norms, and refusals that name what would do."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from detector.config import ConfigError, DetectorConfig
from detector.model.backbones import make_trunk
from detector.model.backbones.timm_trunk import TimmTrunk, features_by_level, freeze_norms, near_names
from detector.model.depthwise import DepthwiseConv2d
from detector.model.norms import FrozenNorm

LITE = "tf_efficientnet_lite0"


def trunk(**values: Any) -> TimmTrunk:
    torch.manual_seed(0)
    made = make_trunk(DetectorConfig(**{"trunk": LITE, "image_size_px": (64, 96), "neck_levels": (3, 4, 5), **values}))
    assert isinstance(made, TimmTrunk)
    return made


def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


# One model of each way in which timm wraps a network for its maps.
@pytest.mark.parametrize(
    "name",
    [LITE, "mobilenetv3_small_050", "regnety_002", "convnext_atto", "repvgg_a0", "hrnet_w18_small", "efficientvit_b0"],
)
def test_levels_come_finest_first_at_their_strides(name: str) -> None:
    made = trunk(trunk=name, neck_levels=(3, 4, 5)).eval()
    with torch.no_grad():
        maps = made(images())
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, 64 // 2**level, 96 // 2**level)
        for level, channels in zip((3, 4, 5), made.out_channels, strict=True)
    ]


def test_maps_are_timms_own() -> None:
    made = trunk().eval()
    reference = timm.create_model(LITE, features_only=True, out_indices=(2, 3, 4))
    reference.load_state_dict(made.net.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(made(images()), reference.eval()(images()), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_no_block_is_built_behind_the_deepest_level() -> None:
    assert len(trunk(neck_levels=(3, 4)).net.blocks) == 5  # blocks.4 ends at stride 16
    assert len(trunk(neck_levels=(3, 4, 5)).net.blocks) == 7


def test_depthwise_convolutions_are_the_fast_ones() -> None:
    kinds = [type(m) for m in trunk().modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert kinds
    assert set(kinds) == {DepthwiseConv2d}


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [
        (0, ()),
        (1, ("conv_stem", "bn1", "blocks.0")),  # all up to stride 2
        (2, ("conv_stem", "bn1", "blocks.0", "blocks.1")),
        (3, ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")),
        (5, ("conv_stem", "bn1", "blocks")),
    ],
)
def test_frozen_stages_learn_nothing_and_keep_their_statistics(stages: int, frozen: tuple[str, ...]) -> None:
    made = trunk(pretrained="imagenet", frozen_stages=stages).train()
    prefixes = tuple(f"net.{name}." for name in frozen)
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad is not (bool(prefixes) and name.startswith(prefixes)), name
    before = {name: value.clone() for name, value in made.named_buffers() if "running" in name}
    made(images())
    for name, value in made.named_buffers():
        if "running" in name:
            assert torch.equal(before[name], value) is (bool(prefixes) and name.startswith(prefixes)), name


def test_nothing_is_recorded_for_frozen_stages() -> None:
    """Their maps need no gradient, so that no backward pass goes there."""
    made = trunk(pretrained="imagenet", frozen_stages=3).train()
    assert [x.requires_grad for x in made(images())] == [False, True, True]


def test_stages_of_a_model_that_timm_flattens_are_found_too() -> None:
    made = trunk(trunk="convnext_atto", pretrained="imagenet", frozen_stages=3).train()
    assert [x.requires_grad for x in made(images())] == [False, True, True]


def test_frozen_norms_are_the_models_norms_and_keep_its_activations() -> None:
    reference = trunk()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    frozen = trunk(norm="frozen", pretrained="imagenet")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    frozen.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(
            frozen.double().train()(images().double()), reference.double().eval()(images().double()), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # scale and shift were folded in fp32


def test_freezing_norms_twice_changes_nothing_more() -> None:
    made = trunk(norm="frozen", pretrained="imagenet")
    count = sum(isinstance(module, FrozenNorm) for module in made.modules())
    freeze_norms(made)
    assert sum(isinstance(module, FrozenNorm) for module in made.modules()) == count > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tf_efficientnet_lite00", "timm knows no model of this name"),
        ("vit_tiny_patch16_224", "timm says"),  # of a fixed size
        ("test_vit", "it has no map of stride 8, 32, only of 16"),
    ],
)
def test_a_trunk_without_such_maps_is_refused_with_three_that_have_them(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trunk(trunk=name)
    message = str(caught.value)
    assert f"trunk={name!r} must be" in message
    assert said in message
    near = message.rpartition("Near names that have them: ")[2].split(", ")
    assert len(near) == 3
    for other in near:
        assert features_by_level(other, (64, 96), (3, 4, 5))


def test_levels_that_a_model_lacks_are_named_by_stride() -> None:
    with pytest.raises(ConfigError, match=r"it has no map of stride 4, only of 8, 16, 32"):
        features_by_level("visformer_tiny", (224, 224), (2, 3))


def test_near_names_are_near() -> None:
    assert any("efficientnet_lite" in name for name in near_names("efficientnet_light0", (64, 96), (3, 4)))
