"""A small COCO folder that a test bends before it is read; caches stay under the test's own folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset

WIDTH, HEIGHT = 40, 30  # of every image of the folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class CocoFolder:
    """train: a.png, b.png, c.png; val: d.png; classes cell (id 1), platelet (id 2); one box [4, 6, 10, 8] an image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.images.mkdir(parents=True)
        self.splits: dict[str, dict[str, Any]] = {}
        for split, names in (("train", ["a", "b", "c"]), ("val", ["d"])):
            self.splits[split] = {
                "images": [self.image_row(n, f"{name}.png") for n, name in enumerate(names, 1)],
                "annotations": [self.box_row(n, n, [4, 6, 10, 8], 1 + n % 2) for n in range(1, len(names) + 1)],
                "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}],
            }
        for number, name in enumerate("abcd"):
            self.paint(f"{name}.png", seed=number)

    @staticmethod
    def image_row(image_id: Any, file_name: str) -> dict[str, Any]:
        return {"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT}

    @staticmethod
    def box_row(annotation_id: Any, image_id: Any, bbox: Any, category_id: Any = 1, **more: Any) -> dict[str, Any]:
        return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}

    @property
    def train(self) -> dict[str, Any]:
        return self.splits["train"]

    def paint(self, file_name: str, seed: int) -> np.ndarray:
        """Writes a random RGB image and returns its pixels."""
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        path = self.images / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    def write(self) -> DataSource:
        for split, content in self.splits.items():
            (self.root / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        return DataSource.from_folder(self.root)

    def load(self, skip_bad: bool = False) -> DetectionDataset:
        return load_dataset(self.write(), skip_bad)


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "set")
