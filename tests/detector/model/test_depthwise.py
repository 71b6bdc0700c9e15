"""Depthwise convolutions: torch's outputs and gradients, in every case that has a way of its own, and where they are used."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.model import depthwise
from detector.model.depthwise import DepthwiseConv2d, speed_up_depthwise


def layer(k: int, stride: int, padding: int, channels: int = 16) -> nn.Conv2d:
    torch.manual_seed(k + stride)
    return nn.Conv2d(channels, channels, k, stride, padding, groups=channels, bias=False)


def images(channels: int = 16, size: tuple[int, int] = (14, 18)) -> Tensor:
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last)


def gradients(convolve: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(output, gradient of the input, gradient of the weights) in bfloat16 under autocast, for one given output gradient."""
    x = x.clone().requires_grad_()
    convolve.weight.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = convolve(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype))
    assert x.grad is not None
    return out, x.grad, convolve.weight.grad


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padded", [True, False])
def test_bf16_gradients_are_torchs(k: int, stride: int, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = layer(k, stride, k // 2 if padded else 0)
    ours = DepthwiseConv2d.of(conv, same=False)
    used = []
    own = depthwise._DepthwiseConvolution.apply
    monkeypatch.setattr(depthwise._DepthwiseConvolution, "apply", lambda *given: used.append(1) or own(*given))
    out, of_input, of_weight = gradients(ours, images())
    assert used == [1], "the fast way must be the one that is tested"
    theirs, input_wanted, weight_wanted = gradients(conv, images())
    assert torch.equal(out, theirs)
    # bfloat16 keeps eight bits: 1/128 of the largest value.
    torch.testing.assert_close(of_input, input_wanted, rtol=0, atol=float(input_wanted.abs().max()) / 128)
    torch.testing.assert_close(of_weight, weight_wanted, rtol=0, atol=float(weight_wanted.abs().max()) / 128)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_5x5_gradient_is_put_together_from_3x3_ones(stride: int) -> None:
    """In fp64 nothing is rounded away: a swapped row or column, or a shift by one, shows."""
    conv = layer(5, stride, 2).double()
    x = images().double()
    out = conv(x)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (wanted,) = torch.autograd.grad(out, [conv.weight], grad)
    found = depthwise._weight_gradient_5x5(grad, x, conv.weight.detach(), stride, 2)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [(14, 18), (15, 17)])
@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_same_padding_is_timms(size: tuple[int, int], k: int, stride: int) -> None:
    theirs = timm.layers.create_conv2d(16, 16, k, stride=stride, padding="same", depthwise=True)
    ours = DepthwiseConv2d.of(theirs, same=True)
    torch.testing.assert_close(ours(images(size=size)), theirs(images(size=size)))


def test_in_fp32_it_is_torchs_own_to_the_bit() -> None:
    conv = layer(5, 2, 2)
    assert torch.equal(
        DepthwiseConv2d.of(conv, same=False)(images()), F.conv2d(images(), conv.weight, None, 2, 2, 1, 16)
    )


def test_only_what_it_can_stand_for_is_replaced_and_weights_stay_the_same_objects() -> None:
    network = nn.Sequential(
        layer(3, 1, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 7, groups=16, bias=False)
    )  # fmt: skip
    before = dict(network.named_parameters())
    speed_up_depthwise(network)
    assert [type(module) is DepthwiseConv2d for module in network] == [True, False, False, False]
    assert {name: id(p) for name, p in network.named_parameters()} == {name: id(p) for name, p in before.items()}
