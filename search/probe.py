"""How long an epoch of a trainer takes, from a few batches."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

PROBED_BATCHES = 5


def probe_seconds(trainer: Any) -> float:
    """A warm batch's time times the steps of an epoch, plus the evaluation's share of a few batches."""
    batches = trainer.batches.epoch(1)
    times = []
    for _ in range(min(PROBED_BATCHES, trainer.batches.steps)):
        start = time.perf_counter()
        images, targets = next(batches)
        trainer.train_batch(images, targets, trainer.config.lr)
        times.append(time.perf_counter() - start)
    few = copy.copy(trainer.data.val)
    few.images = few.images[: 2 * trainer.eval_batch_size]
    start = time.perf_counter()
    trainer.detect(few)
    evaluation = (time.perf_counter() - start) * len(trainer.data.val) / len(few)
    return float(statistics.median(times[1:] or times) * trainer.batches.steps + evaluation)
