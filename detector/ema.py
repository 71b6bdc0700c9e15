"""An exponential moving average of a detector's weights and statistics, with a warm-up."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class AveragedWeights:
    """Follows a model: after each step, average = decay * average + (1 - decay) * model.

    Differs from torch's AveragedModel and timm's ModelEmaV3: counters (num_batches_tracked) are copied, not averaged, and the
    number of steps is known on the host, so that no step waits for the device.
    """

    def __init__(self, model: nn.Module, decay: float, warmup_steps: int = 0) -> None:
        """The average begins as the model is; over about `warmup_steps` its decay rises from 0 to `decay`."""
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.warmup_steps = decay, warmup_steps

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the model after optimizer step `step` (from 0)."""
        averaged, current = [], []
        for mine, theirs in zip(_tensors(self.module), _tensors(model), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, 1.0 - self.decay_at(step))

    def decay_at(self, step: int) -> float:
        """The decay of one step: decay * (1 - exp(-(step + 1) / warmup_steps)), as RT-DETR ramps it."""
        ramp = 1.0 - math.exp(-(step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.decay * ramp


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
