"""From a cached split to batches on the device: order, augmentation and padding, all drawn from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.config import ConfigError, DetectorConfig
from detector.data.augment import Augmentation
from detector.data.cache import CachedSplit, cached_split
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset
from detector.model.detector import Targets

# torchvision's constants for its ImageNet weights.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class TrainingData:
    """What a trainer trains and evaluates on: a dataset decoded onto one canvas."""

    dataset: DetectionDataset
    train: CachedSplit
    val: CachedSplit
    test: CachedSplit | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies training and validation images and boxes (not the canvas)."""
        return f"{self.train.fingerprint[:8]}{self.val.fingerprint[:8]}"


def load_training_data(
    source: DataSource | str | Path, canvas: tuple[int, int], skip_bad: bool = False
) -> TrainingData:
    """Reads, checks and decodes (or finds decoded) a dataset on `canvas` (height, width).

    Raises: DataError for every way in which a dataset can be wrong.
    """
    if not isinstance(source, DataSource):
        source = DataSource.from_folder(source)
    dataset = load_dataset(source, skip_bad)
    train = cached_split(dataset.train, canvas, skip_bad)
    val = cached_split(dataset.val, canvas, skip_bad)
    test = cached_split(dataset.test, canvas, skip_bad) if dataset.test else None
    dataset.train, dataset.val, dataset.test = train.split, val.split, test.split if test else None
    return TrainingData(dataset, train, val, test)


def channel_statistics(config: DetectorConfig, train: CachedSplit) -> tuple[Tensor, Tensor]:
    """(mean, std) of the channels, each (3,) in 0..1, by `config.normalization`."""
    if config.normalization == "imagenet":
        return torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return torch.tensor(train.channel_mean), torch.tensor(train.channel_std)


class TrainingBatches:
    """The augmented batches of an epoch, always full and always the same for the same (seed, epoch)."""

    def __init__(self, config: DetectorConfig, data: TrainingData, seed: int, device: torch.device) -> None:
        if config.roll_probability > 0 and not data.dataset.full_turn:
            raise ConfigError(
                f"roll_probability={config.roll_probability:g} needs a dataset whose images are a full turn; "
                f'{data.dataset.name} does not say so. Set it to 0, or put "detector_search": {{"full_turn": true}} '
                'into the "info" of train.json'
            )
        self.split, self.seed, self.device = data.train, seed, device
        self.batch_size = min(config.batch_size, len(self.split))
        self.steps = config.steps_per_epoch or max(1, len(self.split) // self.batch_size)
        self.augmentation = Augmentation(config)
        mean, std = channel_statistics(config, data.train)
        self.mean, self.std = mean.to(device), std.to(device)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Targets]]:
        """(images (B, 3, H, W) normalised, targets) of each step of epoch `number`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = self._order(generator)
        for step in range(self.steps):
            index = np.sort(order[step * self.batch_size : (step + 1) * self.batch_size])
            images, targets, content_hw = load_batch(self.split, index, self.device)
            yield self.augmentation(images, content_hw, targets, self.mean, self.std, generator)

    def _order(self, generator: torch.Generator) -> np.ndarray:
        """Positions of all the epoch's images: as many passes, each a fresh permutation, as the steps need."""
        needed = self.steps * self.batch_size
        passes = -(-needed // len(self.split))
        draws = [torch.randperm(len(self.split), generator=generator) for _ in range(passes)]
        return torch.cat(draws)[:needed].numpy()


def load_batch(split: CachedSplit, index: np.ndarray, device: torch.device) -> tuple[Tensor, Targets, Tensor]:
    """(images (B, H, W, 3) uint8, targets padded to the fullest of them, content (B, 2)) at these positions."""
    labels = split.labels[index]
    most = int((labels >= 0).sum(axis=1).max())
    images = torch.from_numpy(split.images[index])
    boxes = torch.from_numpy(split.boxes_xyxy[index][:, :most])
    targets = Targets(
        boxes.to(device, non_blocking=True), torch.from_numpy(labels[:, :most]).to(device, non_blocking=True)
    )
    content = torch.from_numpy(split.content_hw[index]).to(device, non_blocking=True)
    return images.to(device, non_blocking=True), targets, content
