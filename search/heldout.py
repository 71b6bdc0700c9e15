"""Scores trials' best epochs on the held-out split, in a process of its own: prints the COCO numbers of each as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.leg import BEST
from search.storage.data import source_here
from search.worker import answer


def score(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The 12 COCO numbers, and each class's AP as class:NAME, on the test split; by trial, of those whose weights are there."""
    found = {trial: score_trial(job, trial, or_from) for trial, or_from in job["trials"]}
    return {trial: metrics for trial, metrics in found.items() if metrics is not None}


def score_trial(job: dict[str, Any], trial: str, or_from: str) -> dict[str, float] | None:
    """One trial's numbers, None without its weights; `or_from`: folder of the trial that may have trained its best epoch."""
    from detector.checkpoint import load_checkpoint
    from detector.config import DetectorConfig
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource
    from detector.trainer import Trainer

    folder = Path(job["folder"])
    state = load_checkpoint(folder / "trials" / trial / BEST)
    if state is None and or_from:
        state = load_checkpoint(folder / or_from / BEST)
    if state is None:
        return None
    config = DetectorConfig.from_record(state["config"])
    source = DataSource.from_dict(source_here(job["source"]))
    data = load_training_data(source, config.image_size_px, job["skip_bad"], config.train_split)
    trainer = Trainer(config, data, state["seed"], job["device"], job["official_eval"])
    trainer.load_evaluated(state)
    metrics = trainer.evaluate("test")[0]
    return {**metrics.values, **{f"class:{name}": value for name, value in metrics.per_class.items()}}


if __name__ == "__main__":
    answer(score)
