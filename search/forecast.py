"""How long a study will take: one-batch probes of some configs, then the scheduler run in simulated time."""

from __future__ import annotations

import heapq
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.options import StudyError
from search.rungs import Rung, Scheduler
from search.storage.data import source_here
from search.worker import answer

SECONDS_PER_LEG = 0.6  # between two legs on a slot: Tune's turn-around, model built, checkpoint read
SECONDS_TO_START = 10.0  # imports, Ray up, torch imported by every worker; measured, with the data decoded already
SECONDS_TO_REPORT = 6.0  # tables, curves, TensorBoard
# How far proposals rise from a study's first to its last, against how far luck spreads them. Later and better trials
# climb past those that were promoted before: without this the default study was expected to train 40 epochs, not 55.
LEARNING = 0.5
LONE_SPEEDUP = 1.4  # of a leg that may use a second core (measured 1.46 on convolutions of this size)
BASE = "0"  # the first trial of a simulated study
PROBED_CONFIGS = 4  # beside the base


@dataclass(frozen=True)
class Forecast:
    """What a study is expected to train and take."""

    epochs: float
    seconds: float
    trials_by_rung: list[int]


def simulate(
    scheduler: Scheduler,
    trials: int,
    slots: int,
    epoch_seconds: Sequence[float],
    finalists: int = 0,
    repeats: int = 9,
    seed: int = 0,
) -> Forecast:
    """Medians over `repeats` studies of trials with random, slowly rising scores; epoch_seconds are taken in turn.

    `finalists`: as many as are trained to the top at least beside the first, the base; 0: nobody is.
    """
    runs = [
        _simulate_once(scheduler, trials, slots, epoch_seconds, finalists, random.Random(seed + n))
        for n in range(repeats)
    ]
    by_rung = [round(statistics.median(run[2][k] for run in runs)) for k in range(len(scheduler.levels))]
    return Forecast(statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs), by_rung)


def _simulate_once(
    scheduler: Scheduler, trials: int, slots: int, epoch_seconds: Sequence[float], finalists: int, rng: random.Random
) -> tuple[float, float, list[int]]:
    levels = scheduler.levels
    rungs = [Rung() for _ in levels]
    quality = {str(n): rng.random() + LEARNING * n / trials for n in range(trials)}
    cost = {str(n): epoch_seconds[n % len(epoch_seconds)] for n in range(trials)}
    created, now, epochs = 0, 0.0, 0
    running: list[tuple[float, str, int]] = []  # (end, trial, rung to reach)
    forced: set[str] = set()
    while True:
        while len(running) < slots:
            promotion = scheduler.next_promotion(rungs)
            if promotion is not None:
                trial, below = promotion
                rungs[below].promote(trial)
                rung = below + 1
            elif created < trials:
                trial, rung, created = str(created), 0, created + 1
            elif finalists and (waiting := _finalist(rungs, [t for _, t, _ in running], forced, finalists)):
                trial, below = waiting
                forced.add(trial)
                rungs[below].promote(trial)
                rung = below + 1
            else:
                break
            length = levels[rung] - (levels[rung - 1] if rung else 0)
            epochs += length
            seconds = length * cost[trial] + SECONDS_PER_LEG
            if not running and created == trials and slots > 1:
                seconds /= LONE_SPEEDUP
            heapq.heappush(running, (now + seconds, trial, rung))
        if not running:
            return epochs, now, [len(rung) for rung in rungs]
        now, trial, rung = heapq.heappop(running)
        rungs[rung].arrive(trial, quality[trial])


def _finalist(rungs: Sequence[Rung], running: Sequence[str], forced: set[str], number: int) -> tuple[str, int] | None:
    """(a trial that goes on although no rung promotes it, the rung that it leaves), as search/afterwards.py chooses it."""
    paused = {t: n for n, rung in enumerate(rungs[:-1]) for t in rung.scores if t not in rung.promoted}
    if BASE in paused:
        return BASE, paused[BASE]
    if not set(running) <= forced:
        return None
    there = (set(rungs[-1].scores) | forced) - {BASE}
    ranked = sorted(paused, key=lambda t: (-paused[t], rungs[paused[t]].place(t)))
    going_on = [t for t in ranked if t in forced] or (ranked if len(there) < number else [])
    return (going_on[0], paused[going_on[0]]) if going_on else None


def probe_epoch_seconds(
    configs: list[dict[str, Any]],
    source: dict[str, Any],
    skip_bad: bool,
    slots: int,
    threads: int,
    device: str | None = "cpu",
) -> list[float]:
    """Seconds per epoch of each config, as many probed side by side as trials will run, in processes of their own."""
    import json

    shared = {"source": source, "skip_bad": skip_bad, "threads": threads, "device": device}
    jobs = [json.dumps({"configs": configs[n::slots], **shared}) for n in range(slots)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "search.forecast", job],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for job in jobs
        if json.loads(job)["configs"]
    ]
    seconds: list[float] = []
    for worker in workers:
        out, err = worker.communicate()
        if worker.returncode:
            raise StudyError(
                f"--dry-run: the probe failed: {err.strip().splitlines()[-1] if err.strip() else worker.returncode}"
            )
        seconds += json.loads(out)
    return seconds


def _probe(job: dict[str, Any]) -> list[float]:
    import torch

    from detector.config import DetectorConfig
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource
    from detector.memory import keep_freed_memory
    from detector.trainer import Trainer
    from search.probe import probe_seconds

    torch.set_num_threads(job["threads"])
    seconds = []
    for values in job["configs"]:
        config = DetectorConfig.from_dict(values)
        source = DataSource.from_dict(source_here(job["source"]))
        data = load_training_data(source, config.image_size_px, job["skip_bad"], config.train_split)
        keep_freed_memory()
        trainer = Trainer(config, data, 0, job["device"])
        seconds.append(probe_seconds(trainer))
    return seconds


if __name__ == "__main__":
    answer(_probe)
