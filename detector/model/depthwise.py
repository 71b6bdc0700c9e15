"""Depthwise convolutions whose gradients take a tenth of the time in bfloat16 on a CPU.

oneDNN (torch 2.14.1, AVX-512 with bf16) has no fast kernel for two of their gradients: of 5x5 weights, and of the input at
stride 2. Measured with one thread, 4 images: 31 and 24 ms where the forward pass takes 0.3 ms. Here the 5x5 weights' gradient
is put together from four of 3x3, which are fast, and the input's at stride 2 is worked out in fp32. In fp32 and on other
devices everything is torch's own.

Shapes: B images, C channels, H W of the input, h w of the output, k the kernel's side (3 or 5).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with a channel a group, without bias; `same` pads as TensorFlow does, by the size of the input."""

    same: bool
    fast = True  # False: torch's own gradients, to compare with

    @classmethod
    def of(cls, conv: nn.Conv2d, same: bool) -> DepthwiseConv2d:
        """The layer in the place of a torch one, with the very same weights."""
        made = cls(
            conv.in_channels, conv.out_channels, cast(Any, conv.kernel_size), cast(Any, conv.stride),
            cast(Any, conv.padding), groups=conv.groups, bias=False,
        )  # fmt: skip
        made.weight, made.same = conv.weight, same
        return made

    def forward(self, x: Tensor) -> Tensor:
        k, stride, padding = self.kernel_size[0], self.stride[0], cast(int, self.padding[0])
        if self.same:
            x, padding = F.pad(x, (*_same(x.shape[3], k, stride), *_same(x.shape[2], k, stride))), 0
        weight = self.weight
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        if self.fast and x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_grad_enabled():
            out: Tensor = _DepthwiseConvolution.apply(x, weight, stride, padding)
            return out
        return F.conv2d(x, weight, None, stride, padding, 1, self.groups)


def speed_up_depthwise(module: nn.Module) -> None:
    """Puts `DepthwiseConv2d` in the place of every depthwise convolution below `module` that it can stand for."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and _can_stand_for(child):
            setattr(module, name, DepthwiseConv2d.of(child, same=type(child).__name__ == "Conv2dSame"))
        else:
            speed_up_depthwise(child)


def _can_stand_for(conv: nn.Conv2d) -> bool:
    alike = type(conv) is nn.Conv2d or type(conv).__name__ == "Conv2dSame"  # timm's
    square = len(set(conv.kernel_size)) == len(set(conv.stride)) == 1 and conv.kernel_size[0] in (3, 5)
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    padded = conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and len(set(conv.padding)) == 1
    return alike and square and depthwise and padded and conv.bias is None and set(conv.dilation) == {1}


def _same(size: int, k: int, stride: int) -> tuple[int, int]:
    """Padding before and after a side of `size` so that ceil(size / stride) outputs come of it, the odd one after."""
    total = max(0, (-(-size // stride) - 1) * stride + k - size)
    return total // 2, total - total // 2


class _DepthwiseConvolution(torch.autograd.Function):
    """x (B, C, H, W) and weights (C, 1, k, k), both bfloat16 -> (B, C, h, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            if stride == 1:
                of_input = _gradient(grad, x, weight, stride, padding, of_input=True)
            else:
                of_input = _gradient(grad.float(), x.float(), weight.float(), stride, padding, of_input=True).to(
                    x.dtype
                )
        if ctx.needs_input_grad[1]:
            if weight.shape[2] == 5:
                of_weight = _weight_gradient_5x5(grad, x, weight, stride, padding)
            else:
                of_weight = _gradient(grad, x, weight, stride, padding, of_input=False)
        return of_input, of_weight, None, None


def _weight_gradient_5x5(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """(C, 1, 5, 5) from four overlapping 3x3 gradients: the kernel's corner (i, j) reads the input shifted by (i, j)."""
    x = F.pad(x, (padding,) * 4)
    rows, columns = ((side - 1) * stride + 3 for side in grad.shape[2:])  # that a 3x3 kernel reads of the input
    made, corner = torch.empty_like(weight), weight[:, :, :3, :3].contiguous()
    for i in (0, 2):
        for j in (0, 2):
            read = x[:, :, i : i + rows, j : j + columns].contiguous(memory_format=torch.channels_last)
            made[:, :, i : i + 3, j : j + 3] = _gradient(grad, read, corner, stride, 0, of_input=False)
    return made


def _gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, of_input: bool) -> Tensor:
    """torch's own gradient of a depthwise convolution, of its input or of its weights."""
    found: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1], [of_input, not of_input, False]
    )[0 if of_input else 1]  # fmt: skip
    return found
