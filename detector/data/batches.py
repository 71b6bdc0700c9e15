"""From a cached split to batches on the device: order, augmentation and padding, all drawn from (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.data.augment import Augmentation
from detector.data.cache import CachedSplit
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset, check_roll
from detector.data.images import stream
from detector.data.keeping import keep_dataset
from detector.data.progress_lines import Tell, silent
from detector.model.detector import Targets
from detector.weights import IMAGENET_MEAN, IMAGENET_STD, Statistics


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
    source: DataSource | str | Path,
    canvas: tuple[int, int],
    skip_bad: bool = False,
    train_split: str = "train",
    tell: Tell = silent,
) -> TrainingData:
    """Reads, checks and decodes (or finds decoded) a dataset on `canvas` (height, width).

    `train_split` extended adds the source's extended images to the training images. `tell` hears how far it is.

    Raises: DataError for every way in which a dataset can be wrong.
    """
    if not isinstance(source, DataSource):
        source = DataSource.from_folder(source)
    dataset = load_dataset(source, skip_bad, train_split)
    kept = keep_dataset(dataset, [canvas], source.cache, skip_bad, tell=tell)
    return TrainingData(dataset, **kept.caches)


def channel_statistics(
    config: DetectorConfig, train: CachedSplit, of_weights: Statistics | None = None
) -> tuple[Tensor, Tensor]:
    """(mean, std) of the channels, each (3,) in 0..1: those of the weights that training starts from, where they have any."""
    if of_weights is None and config.pretrained == "none" and config.normalization == "imagenet":
        of_weights = IMAGENET_MEAN, IMAGENET_STD
    mean, std = of_weights or (train.channel_mean, train.channel_std)
    return torch.tensor(mean), torch.tensor(std)


class TrainingBatches:
    """The augmented batches of an epoch, always full and always the same for the same (seed, epoch)."""

    def __init__(
        self,
        config: DetectorConfig,
        data: TrainingData,
        seed: int,
        device: torch.device,
        statistics: Statistics | None = None,
    ) -> None:
        """`statistics`: of the weights that training starts from; None: by the config."""
        check_roll(config, data.dataset)
        self.split, self.seed, self.device = data.train, seed, device
        self.batch_size = min(config.batch_size, len(self.split))
        self.steps = config.steps_per_epoch or max(len(self.split) // self.batch_size, config.min_steps_per_epoch, 1)
        self.repeats = repeat_factors(self.split.labels, config.repeat_threshold)
        self.augmentation = Augmentation(config)
        mean, std = channel_statistics(config, data.train, statistics)
        self.mean, self.std = mean.to(device), std.to(device)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Targets]]:
        """(images (B, 3, H, W) normalised, targets) of each step of epoch `number`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = self._order(generator).reshape(self.steps, self.batch_size)
        for images, targets, content_hw in load_batches(self.split, list(np.sort(order, axis=1)), self.device):
            yield self.augmentation(images, content_hw, targets, self.mean, self.std, generator)

    def _order(self, generator: torch.Generator) -> np.ndarray:
        """Positions of all the epoch's images: as many passes, each a fresh permutation, as the steps need.

        An image of repeat factor r stands in a pass floor(r) times, and once more with the chance of the rest.
        """
        needed = self.steps * self.batch_size
        passes: list[Tensor] = []
        while sum(map(len, passes)) < needed:
            if self.repeats is None:
                passes.append(torch.randperm(len(self.split), generator=generator))
            else:
                whole = self.repeats.floor()
                times = whole + (torch.rand(len(whole), generator=generator) < self.repeats - whole)
                positions = torch.arange(len(whole)).repeat_interleave(times.long())
                passes.append(positions[torch.randperm(len(positions), generator=generator)])
        return torch.cat(passes)[:needed].numpy()


def repeat_factors(labels: np.ndarray, threshold: float) -> Tensor | None:
    """How often each image (N,) is drawn in a pass: repeat-factor sampling (Gupta et al. 2019, LVIS, appendix A).

    A class that stands in a share f of the images has the factor max(1, sqrt(threshold / f)), an image the highest of
    its classes'. labels: (N, M) class indices, -1 in padding. None where the threshold is 0: every image once.
    """
    if threshold <= 0:
        return None
    classes = np.arange(max(0, int(labels.max(initial=-1))) + 1)
    present = (labels[:, :, None] == classes).any(axis=1)  # (N, K)
    share = np.maximum(present.mean(axis=0), 1e-9)
    factors = np.maximum(1.0, np.sqrt(threshold / share))
    return torch.from_numpy(np.where(present, factors, 1.0).max(axis=1))


def load_batches(
    split: CachedSplit, indices: Sequence[np.ndarray], device: torch.device
) -> Iterator[tuple[Tensor, Targets, Tensor]]:
    """(images (B, H, W, 3) uint8, targets padded to the fullest of them, content (B, 2)) at each of these positions.

    Images that are not decoded yet are decoded ahead, by as many processes as torch has threads here.
    """
    for index, pixels in zip(indices, stream(split.images, indices, torch.get_num_threads()), strict=True):
        labels = split.labels[index]
        most = int((labels >= 0).sum(axis=1).max())
        boxes = torch.from_numpy(split.boxes_xyxy[index][:, :most])
        targets = Targets(
            boxes.to(device, non_blocking=True), torch.from_numpy(labels[:, :most]).to(device, non_blocking=True)
        )
        content = torch.from_numpy(split.content_hw[index]).to(device, non_blocking=True)
        yield torch.from_numpy(pixels).to(device, non_blocking=True), targets, content
