"""The feature pyramid against torchvision's, its extra levels, and its switches."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detector.config import DetectorConfig
from detector.model.necks import FPN, BiFPN, BiFPNLayer, fuse, make_neck

IN_CHANNELS = [8, 12, 20]


def neck(**values: Any) -> FPN:
    torch.manual_seed(0)
    defaults = {"neck_levels": (3, 4, 5), "neck_channels": 16, "extra_levels": 2}
    return FPN(IN_CHANNELS, DetectorConfig(**{**defaults, **values}))


def features(height: int = 16, width: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, -(-height // 2**n), -(-width // 2**n), generator=generator)
        for n, channels in enumerate(IN_CHANNELS)
    ]


@pytest.mark.parametrize("source", ["neck", "trunk"])
@pytest.mark.parametrize("size", [(16, 24), (10, 6)])  # the second has levels of odd size
def test_equal_to_torchvisions_pyramid_with_p6_and_p7(source: str, size: tuple[int, int]) -> None:
    ours = neck(extra_levels_from=source)
    theirs = FeaturePyramidNetwork(IN_CHANNELS, 16, LastLevelP6P7(16 if source == "neck" else 20, 16))
    for n in range(3):
        theirs.inner_blocks[n][0].load_state_dict(ours.lateral[n].state_dict())
        theirs.layer_blocks[n][0].load_state_dict(ours.output[n].state_dict())
    theirs.extra_blocks.p6.load_state_dict(ours.extra.convs[0].state_dict())
    theirs.extra_blocks.p7.load_state_dict(ours.extra.convs[1].state_dict())
    expected = list(theirs(OrderedDict((str(n), x) for n, x in enumerate(features(*size)))).values())
    found = ours(features(*size))
    assert len(found) == len(expected) == 5
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_extra_levels_halve_the_one_before(extra: int) -> None:
    maps = neck(extra_levels=extra)(features(32, 64))
    assert [tuple(x.shape) for x in maps] == [(2, 16, -(-32 // 2**n), -(-64 // 2**n)) for n in range(3 + extra)]


@pytest.mark.parametrize("top_down", [True, False])
def test_coarse_levels_reach_fine_ones_only_through_the_top_down_path(top_down: bool) -> None:
    made = neck(neck_top_down=top_down, extra_levels=0)
    before = made(features())
    changed = features()
    changed[2] += 1.0
    after = made(changed)
    assert not torch.equal(before[2], after[2])
    assert torch.equal(before[0], after[0]) is not top_down
    assert torch.equal(before[1], after[1]) is not top_down


def test_fine_levels_never_reach_coarse_ones() -> None:
    made = neck()
    changed = features()
    changed[0] += 1.0
    before, after = made(features()), made(changed)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))


@pytest.mark.parametrize(("kind", "layer"), [("none", nn.Identity), ("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_the_norm_follows_every_output_convolution(kind: str, layer: type) -> None:
    made = neck(neck_norm=kind, group_norm_channels=4)
    assert [type(module) for module in made.output_norm] == [layer] * 3
    if kind == "batch":
        means = made.train()(features())[0].mean(dim=(0, 2, 3))
        torch.testing.assert_close(means, torch.zeros(16), rtol=0, atol=1e-5)
    if kind == "group":
        assert made.output_norm[0].num_groups == 4


def test_the_trunks_maps_are_left_as_they_were() -> None:
    given = features()
    neck()(given)
    assert all(torch.equal(a, b) for a, b in zip(given, features(), strict=True))


def test_fusion_by_hand() -> None:
    # Weights 2, 1 and -3: ReLU leaves 2, 1, 0; shares 2 / 3.0001 and 1 / 3.0001.
    maps = [torch.full((1, 1, 1, 1), value) for value in (6.0, 3.0, 100.0)]
    assert fuse(maps, torch.tensor([2.0, 1.0, -3.0])).item() == pytest.approx((6 * 2 + 3) / 3.0001)


def bifpn(**values: Any) -> BiFPN:
    torch.manual_seed(0)
    defaults = {"neck": "bifpn", "neck_levels": (3, 4, 5), "neck_channels": 16, "extra_levels": 1, "neck_repeats": 2}
    return BiFPN(IN_CHANNELS, DetectorConfig(**{**defaults, **values}))


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("size", [(16, 24), (10, 6)])
def test_bifpn_keeps_the_shape_of_every_level(separable: bool, size: tuple[int, int]) -> None:
    maps = bifpn(neck_separable=separable)(features(*size))
    rows, columns = size
    assert [tuple(x.shape) for x in maps] == [(2, 16, -(-rows // 2**n), -(-columns // 2**n)) for n in range(4)]


def test_in_a_bifpn_every_level_reaches_every_other() -> None:
    made = bifpn(neck_repeats=1, extra_levels=0).eval()
    for source in range(3):
        inputs = [x.requires_grad_(n == source) for n, x in enumerate(features())]
        for level, output in enumerate(made(inputs)):
            (gradient,) = torch.autograd.grad(output.sum(), inputs[source], retain_graph=True)
            assert gradient.abs().sum() > 0, (source, level)


def test_a_bifpn_layer_with_one_way_open_passes_it_on_unchanged() -> None:
    """With the other inputs' weights at zero and identity convolutions, a level sees silu of its own map."""
    config = DetectorConfig(neck="bifpn", neck_levels=(3, 4), extra_levels=0, neck_channels=8, neck_separable=False)
    layer = BiFPNLayer(2, config)
    with torch.no_grad():
        layer.down_weights.copy_(torch.tensor([[1.0, 0.0]]))
        layer.top_weights.copy_(torch.tensor([1.0, 0.0]))
        for block in (*layer.down, *layer.up):
            nn.init.dirac_(block[0].weight)
            nn.init.zeros_(block[0].bias)
    maps = [torch.randn(1, 8, 4, 6), torch.randn(1, 8, 2, 3)]
    for own, output in zip(maps, layer(maps), strict=True):
        torch.testing.assert_close(output, nn.functional.silu(own / 1.0001))


def test_no_neck_hands_the_trunks_maps_on() -> None:
    maps = features()
    made = make_neck(IN_CHANNELS, DetectorConfig(neck="none", head_shared=False, neck_levels=(3, 4, 5)))
    assert made.out_channels == IN_CHANNELS
    assert all(a is b for a, b in zip(made(maps), maps, strict=True))
