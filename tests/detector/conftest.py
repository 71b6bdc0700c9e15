"""A tiny simulated street and a tiny config, shared by the tests of the detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detector.config import DetectorConfig
from detector.data.batches import TrainingData, load_training_data
from detector.data.lidar import make_dataset

TINY = {
    "image_size_px": (64, 256),
    "trunk_width": 0.25,
    "neck_levels": (3, 4),
    "neck_channels": 16,
    "extra_levels": 1,
    "head_channels": 16,
    "head_depth": 1,
    "anchor_sizes": 12.0,
    "batch_size": 4,
    "steps_per_epoch": 3,
    "schedule_epochs": 3,
    "precision": "fp32",
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-for-bit claims on CPU hold for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def own_cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded images go below a temporary XDG_CACHE_HOME, never into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache_home")
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a simulated half-turn street: 12 training, 6 validation and 3 extended images of 128 x 512."""
    folder = tmp_path_factory.mktemp("street") / "data"
    make_dataset(folder, {"train": 12, "val": 6, "extended": 3}, seed=5, degrees=180, processes=1)
    return folder


@pytest.fixture(scope="session")
def tiny_data(street: Path, own_cache_home: Path) -> TrainingData:
    """The street decoded onto the tiny config's canvas."""
    return load_training_data(street, TINY["image_size_px"])


@pytest.fixture(scope="session")
def tiny_config() -> DetectorConfig:
    """A detector that trains an epoch of the tiny street in about a second."""
    return DetectorConfig(**TINY)
