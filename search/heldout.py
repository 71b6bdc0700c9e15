"""Scores trials' best epochs on the held-out split, in a process of its own: prints the COCO numbers of each as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.leg import BEST
from search.storage.data import source_here
from search.worker import answer


def score(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The 12 COCO numbers, and each class's AP as class:NAME, on the test split; by trial, of those whose weights are there."""
    found = {trial: score_trial(job, places) for trial, places in job["trials"]}
    return {trial: metrics for trial, metrics in found.items() if metrics is not None}


def score_trial(job: dict[str, Any], places: list[str]) -> dict[str, float] | None:
    """One trial's numbers from the first of the folders that holds its weights, None where none does."""
    from detector.checkpoint import load_checkpoint
    from detector.config import DetectorConfig
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource
    from detector.trainer import Trainer

    found = (load_checkpoint(Path(job["folder"], place, BEST)) for place in places)
    state = next((state for state in found if state is not None), None)
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
