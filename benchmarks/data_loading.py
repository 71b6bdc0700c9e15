"""Images a second, ready for the model: ours from the decoded cache, and PIL + Dataset + DataLoader as detection references do.

Report's figure: 26.69 images/s, 25.36 with its flip (128 x 1024, batch 32). Both sides here read the same simulated
street at that size and give normalised float batches of 32 with their boxes. `python -m benchmarks.data_loading`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from detector.config import DetectorConfig
from detector.data.batches import TrainingBatches, TrainingData, load_training_data
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, Split
from detector.data.lidar import make_dataset

IMAGES, BATCH, ROUNDS = 256, 32, 5
REPORT = 26.69
BASE: dict[str, Any] = {"image_size_px": (128, 1024), "batch_size": BATCH, "flip_probability": 0.0}
EVERYTHING = {
    "flip_probability": 0.5, "crop_probability": 0.5, "zoom_max": 0.2, "translate_max": 0.1, "jitter_strength": 0.2,
    "roll_probability": 0.5, "mosaic_probability": 0.5, "copy_paste_probability": 0.5, "repeat_threshold": 0.3,
}  # fmt: skip


class PlainDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What torchvision's detection references do an image: open, transform, normalise."""

    def __init__(self, split: Split, flip: float, mean: list[float], std: list[float]) -> None:
        self.split = split
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(flip),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from torchvision import tv_tensors

        record = self.split.images[index]
        with Image.open(record.path) as image:
            pixels = image.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
            torch.from_numpy(self.split.boxes_xyxy[index]), format="XYXY", canvas_size=(record.height, record.width)
        )
        return self.transform(pixels, boxes)  # type: ignore[no-any-return]


def collate(rows: list[Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.stack([row[0] for row in rows]), [row[1] for row in rows]


def plain_pass(data: TrainingData, flip: float, workers: int) -> float:
    """Images a second of one pass with PIL and a DataLoader, the start of its workers not counted."""
    dataset = PlainDataset(data.dataset.train, flip, data.train.channel_mean, data.train.channel_std)
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )
    for _ in loader:  # the first pass starts the workers
        pass
    start = time.perf_counter()
    count = sum(len(images) for images, _ in loader)
    return count / (time.perf_counter() - start)


def our_pass(data: TrainingData, values: dict[str, Any], number: int) -> float:
    """Images a second of one pass of ours over the cache, memory-mapped and warm."""
    config = DetectorConfig(**{**BASE, **values, "steps_per_epoch": IMAGES // BATCH * 4})
    batches = TrainingBatches(config, data, seed=0, device=torch.device("cpu"))
    start = time.perf_counter()
    count = sum(len(images) for images, _ in batches.epoch(number))
    return count / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        folder = Path(scratch) / "street"
        make_dataset(folder, {"train": IMAGES, "val": 8}, seed=0)
        start = time.perf_counter()
        data = load_training_data(folder, (128, 1024))
        cold = time.perf_counter() - start
        assert load_dataset(DataSource.from_folder(folder)).train.num_boxes == data.dataset.train.num_boxes
        sides: dict[str, Callable[[int], float]] = {
            "PIL + DataLoader, 2 workers, flip 0.3": lambda n: plain_pass(data, 0.3, 2),
            "ours, no augmentation": lambda n: our_pass(data, {}, n),
            "ours, flip 0.3 (the report's)": lambda n: our_pass(data, {"flip_probability": 0.3}, n),
            "ours, every augmentation": lambda n: our_pass(data, EVERYTHING, n),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(1, ROUNDS + 1):  # in turn, so that a slow minute meets all sides
            for name, side in sides.items():
                rates[name].append(side(number))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        print(
            f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}"
        )
        print(f"decoding {IMAGES + 8} images into the cache, once per machine: {cold:.1f} s")
        print("| side | images/s (median of 5) | x the report's 26.69 | x PIL + DataLoader |\n|---|---|---|---|")
        plain = medians["PIL + DataLoader, 2 workers, flip 0.3"]
        for name, rate in medians.items():
            print(f"| {name} | {rate:.0f} | {rate / REPORT:.1f} | {rate / plain:.2f} |")


if __name__ == "__main__":
    main()
