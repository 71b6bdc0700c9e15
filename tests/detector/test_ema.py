"""The averaged weights: worked by hand, with and without a warm-up; counters are copied."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detector.ema import AveragedWeights


def model(value: float) -> nn.Module:
    made = nn.BatchNorm2d(2)
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
            tensor.fill_(value)
    return made


def test_each_step_moves_the_average_towards_the_model() -> None:
    average = AveragedWeights(model(0.0), decay=0.75)
    average.update(model(1.0), step=0)  # 0.75 * 0 + 0.25 * 1
    assert average.module.weight.tolist() == [0.25, 0.25]
    average.update(model(1.0), step=1)  # 0.75 * 0.25 + 0.25
    assert average.module.running_mean.tolist() == [0.4375, 0.4375]


def test_counters_are_copied() -> None:
    source = model(1.0)
    source.num_batches_tracked.fill_(7)
    average = AveragedWeights(model(0.0), decay=0.9)
    average.update(source, step=0)
    assert int(average.module.num_batches_tracked) == 7


@pytest.mark.parametrize("step", [0, 9, 99])
def test_with_a_warm_up_the_decay_rises(step: int) -> None:
    average = AveragedWeights(model(0.0), decay=0.9, warmup_steps=10)
    assert average.decay_at(step) == pytest.approx(0.9 * (1 - math.exp(-(step + 1) / 10)))


def test_the_average_learns_nothing_itself() -> None:
    assert not any(p.requires_grad for p in AveragedWeights(model(0.0), 0.9).module.parameters())
