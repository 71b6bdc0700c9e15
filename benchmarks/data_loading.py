"""Images a second, ready for the model: ours from the decoded cache, and PIL + Dataset + DataLoader as detection references do.

Both sides read the same simulated street at 128 x 1024 and give normalised float batches of 32 with the boxes where they
now are. Theirs draws torchvision's own transforms; of our augmentations it has all but roll, mosaic and copy-paste, for
which torchvision has none. Each side loads in a process of its own, ours keeping freed memory as where it trains.
The student report's loader gave 26.69 images/s, 25.36 with its flip. `python -m benchmarks.data_loading`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.sides import APART, OF_ITS_PROCESS, Claim, in_turn_apart, print_table, scratch_folder, seconds_of
from detector.config import DetectorConfig
from detector.data.batches import TrainingBatches, TrainingData, load_training_data
from detector.data.dataset import Split
from detector.data.lidar import make_dataset
from detector.memory import keep_freed_memory

IMAGES, BATCH, WORKERS, CANVAS = 256, 32, 2, (128, 1024)
FLIP = {"flip_probability": 0.3}
EVERYTHING = {
    "flip_probability": 0.5, "crop_probability": 0.5, "zoom_max": 0.2, "translate_max": 0.1, "jitter_strength": 0.2,
    "roll_probability": 0.5, "mosaic_probability": 0.5, "copy_paste_probability": 0.5, "repeat_threshold": 0.3,
}  # fmt: skip


class PlainDataset(Dataset[tuple[torch.Tensor, dict[str, torch.Tensor]]]):
    """What torchvision's detection references do an image: open, augment, normalise."""

    def __init__(self, split: Split, augment: list[Any], mean: list[float], std: list[float]) -> None:
        self.split = split
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                *augment,
                v2.ToDtype(torch.float32, scale=True),
                v2.SanitizeBoundingBoxes(),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        record = self.split.images[index]
        with Image.open(record.path) as image:
            pixels = image.convert("RGB")
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(self.split.boxes_xyxy[index]), format="XYXY", canvas_size=(record.height, record.width)
        )
        return self.transform(pixels, {"boxes": boxes, "labels": torch.from_numpy(self.split.labels[index])})  # type: ignore[no-any-return]


def every_transform() -> list[Any]:
    """torchvision's counterparts of ours, with our probabilities and ranges."""
    # Of windows half to twice as wide as high, its default, none fits a canvas of 1 : 8, and it would look for ever.
    crop = v2.Compose([v2.RandomIoUCrop(min_aspect_ratio=4.0, max_aspect_ratio=16.0), v2.Resize(CANVAS)])
    return [
        v2.RandomHorizontalFlip(EVERYTHING["flip_probability"]),
        v2.ColorJitter(brightness=0.1, contrast=0.2, saturation=0.2),
        v2.RandomApply([crop], EVERYTHING["crop_probability"]),
        v2.RandomAffine(0, translate=(0.1, 0.1), scale=(1 / 1.2, 1.2), interpolation=v2.InterpolationMode.BILINEAR),
    ]


def collate(rows: list[Any]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    return torch.stack([row[0] for row in rows]), [row[1] for row in rows]


def plain_loader(data: TrainingData, augment: list[Any]) -> DataLoader[Any]:
    """The loader, its workers started once and kept."""
    dataset = PlainDataset(data.dataset.train, augment, data.train.channel_mean, data.train.channel_std)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, collate_fn=collate, persistent_workers=True)


def their_side(folder: Path, augment: list[Any]) -> Callable[[], float]:
    """Images a second of one pass of theirs."""
    loader = plain_loader(load_training_data(folder, CANVAS), augment)
    return lambda: IMAGES / seconds_of(lambda: sum(len(images) for images, _ in loader))


def our_side(folder: Path, values: dict[str, Any]) -> Callable[[], float]:
    """Images a second of four passes of ours over the cache, memory-mapped and warm."""
    values = {"image_size_px": CANVAS, "batch_size": BATCH, "steps_per_epoch": 4 * IMAGES // BATCH, **values}
    data = load_training_data(folder, CANVAS)
    keep_freed_memory()
    batches = TrainingBatches(DetectorConfig(**values), data, seed=0, device=torch.device("cpu"))
    return lambda: 4 * IMAGES / seconds_of(lambda: sum(len(images) for images, _ in batches.epoch(1)))


def main() -> None:
    with scratch_folder() as scratch:
        folder = scratch / "street"
        make_dataset(folder, {"train": IMAGES, "val": 8}, seed=0)
        load_training_data(folder, CANVAS)  # decodes
        sides = {
            "flip, theirs": partial(their_side, folder, [v2.RandomHorizontalFlip(0.3)]),
            "flip, ours": partial(our_side, folder, FLIP),
            "all, theirs": partial(their_side, folder, every_transform()),
            "all, ours": partial(our_side, folder, EVERYTHING),
        }
        found = in_turn_apart(sides)
        row = partial(Claim, unit="images/s", more_is_better=True)
        claims = [
            row("the report's flip", bar=10, theirs=found["flip, theirs"], ours=found["flip, ours"]),
            row("all augmentations", bar=3, theirs=found["all, theirs"], ours=found["all, ours"]),
            row("ours with all, theirs with the flip alone", theirs=found["flip, theirs"], ours=found["all, ours"]),
        ]
        about = f"Data: batches of {BATCH}, 128 x 1024, ready for the model; theirs: PIL + Dataset + DataLoader with {WORKERS} workers."
        print_table(claims, about, "numpy", "pillow", how=APART, memory=OF_ITS_PROCESS)


if __name__ == "__main__":
    main()
