"""Scores one trial's best epoch on the held-out split, in a process of its own: prints the COCO numbers as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.leg import BEST
from search.storage.data import source_here
from search.worker import answer


def score(job: dict[str, Any]) -> dict[str, float]:
    """The 12 COCO numbers on the test split."""
    from detector.checkpoint import load_checkpoint
    from detector.config import DetectorConfig
    from detector.data.batches import load_training_data
    from detector.data.dataset import DataSource
    from detector.trainer import Trainer

    folder = Path(job["folder"])
    state = load_checkpoint(folder / "trials" / job["trial"] / BEST)
    if state is None and job.get("or_from"):  # its best epoch was trained by the trial that it goes on from
        state = load_checkpoint(folder / job["or_from"] / BEST)
    if state is None:
        raise SystemExit(f"trial {job['trial']} has no {BEST}")
    config = DetectorConfig.from_record(state["config"])
    source = DataSource.from_dict(source_here(job["source"]))
    data = load_training_data(source, config.image_size_px, job["skip_bad"], config.train_split)
    trainer = Trainer(config, data, state["seed"], job["device"], job["official_eval"])
    trainer.load_evaluated(state)
    return trainer.evaluate("test")[0].values


if __name__ == "__main__":
    answer(score)
