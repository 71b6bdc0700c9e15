"""What a config costs: the seconds of an epoch from a few batches, the latency of a detection, the parameters."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

PROBED_BATCHES = 5
LATENCY_RUNS = 9


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


def measure_costs(model: Any, device: Any) -> dict[str, float]:
    """{"latency_ms": median of one image through detection, "parameters": trainable ones} of a detector."""
    import torch

    height, width = model.canvas
    image = torch.rand(1, 3, height, width, device=device)
    was_training = model.training
    model.eval()
    times = []
    for _ in range(LATENCY_RUNS + 2):
        start = time.perf_counter()
        model.detect(image)
        if image.is_cuda:
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    model.train(was_training)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"latency_ms": float(statistics.median(times[2:])), "parameters": float(parameters)}
