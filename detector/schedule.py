"""The learning rate over a trial's life: linear warm-up, then cosine, multistep or constant with a final decay."""

from __future__ import annotations

import math

from detector.config import DetectorConfig

WARMUP_START = 0.1  # first step's share of the rate; the report's warm-up starts there too


class LearningRate:
    """lr of step `n` (from 0), laid over schedule_epochs whatever number of epochs is trained."""

    def __init__(self, config: DetectorConfig, steps_per_epoch: int) -> None:
        self.base, self.kind = config.lr, config.schedule
        self.total = config.schedule_epochs * steps_per_epoch
        warmup = max(int(config.warmup_epochs * steps_per_epoch), config.min_warmup_steps)
        self.warmup = min(warmup, self.total)
        decays = self.kind in ("multistep", "constant")
        self.decay = config.lr_decay if decays else 1.0
        if self.kind == "multistep":
            self.milestones = [round(share * self.total) for share in config.lr_milestones]
        elif self.kind == "constant":
            self.milestones = [self.total - config.final_decay_epochs * steps_per_epoch]
        else:
            self.milestones = []

    def at(self, step: int) -> float:
        """The rate of one step; beyond the schedule a cosine is 0, the others stay at their last value."""
        if step < self.warmup:
            return self.base * (WARMUP_START + (1 - WARMUP_START) * step / self.warmup)
        if self.kind == "cosine":
            done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
            return self.base * 0.5 * (1 + math.cos(math.pi * done))
        return self.base * self.decay ** sum(step >= milestone for milestone in self.milestones)
