"""The rival of `benchmarks.turnaround`: our trainer as a plain Ray Tune function trainable, with default settings.

Run by the benchmark: `python -m benchmarks.tune_function DATA TRIALS FOLDER`; prints {"trials": .., "training_seconds": ..}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ray import tune

from detector.data.dataset import DataSource
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import resolve


def train(config: dict[str, Any]) -> None:
    """One trial: what a user's function does, an epoch and a report."""
    import torch

    from detector.config import DetectorConfig
    from detector.data.batches import load_training_data
    from detector.trainer import Trainer

    torch.set_num_threads(1)
    base = DetectorConfig.from_dict({**config["base"], "lr": config["lr"], "focal_alpha": config["focal_alpha"]})
    trainer = Trainer(base, load_training_data(config["data"], base.image_size_px), seed=0, device="cpu")
    result = trainer.step()
    tune.report({"mAP": result.metrics["mAP"], "seconds": result.seconds})


def base_config(data: str) -> dict[str, Any]:
    """The smoke space's base on this data, an epoch long."""
    from detector.data.coco import load_dataset

    facts = DatasetFacts(**load_dataset(DataSource.from_folder(data)).facts())
    return resolve(load_space("smoke"), "cpu", facts).base.with_values({"schedule_epochs": 1}).to_dict()


def main() -> None:
    data, trials = sys.argv[1], int(sys.argv[2])
    tuner = tune.Tuner(
        train,
        param_space={
            "lr": tune.loguniform(1e-3, 1e-2),
            "focal_alpha": tune.uniform(0.25, 0.6),
            "base": base_config(data),
            "data": data,
        },
        tune_config=tune.TuneConfig(num_samples=trials, metric="mAP", mode="max"),
        run_config=tune.RunConfig(storage_path=sys.argv[3]),
    )
    results = tuner.fit()
    metrics = [result.metrics for result in results]  # type: ignore[attr-defined] # by index
    seconds = [row["seconds"] for row in metrics if row and "seconds" in row]
    print(json.dumps({"trials": len(seconds), "training_seconds": sum(seconds)}))


if __name__ == "__main__":
    main()
