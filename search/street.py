"""The simulated street of a study that names no data: every machine makes the same one, once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from detector.data.dataset import DataSource
from detector.data.lidar import make_dataset_once
from detector.data.places import cache_home
from spaces.space import StreetData

SEED = 0
SPLITS = ("train", "val", "test", "extended")
LINK = "street:"  # and the numbers of images and of degrees


def make_street(street: StreetData, say: Any) -> DataSource:
    """The simulated street of a profile, from the cache where this machine has made it before."""
    counts = {split: getattr(street, split) for split in SPLITS}
    out = _folder(counts, street.degrees)
    if not out.is_dir():
        say(f"making the simulated street ({sum(counts.values())} images) in {out}")
    return _source(counts, street.degrees)


def street_here(link: str) -> DataSource:
    """The street of a link on this machine, made where it is not there."""
    *numbers, degrees = (int(number) for number in link.removeprefix(LINK).split("-"))
    return _source(dict(zip(SPLITS, numbers, strict=True)), degrees)


def _source(counts: dict[str, int], degrees: int) -> DataSource:
    out = _folder(counts, degrees)
    make_dataset_once(out, counts, SEED, degrees)
    source = DataSource.from_folder(out)
    source.name = "simulated LiDAR street"
    source.link = LINK + "-".join(map(str, (*counts.values(), degrees)))
    return source


def _folder(counts: dict[str, int], degrees: int) -> Path:
    code = hashlib.sha256()
    for name in ("lidar.py", "lidar_scene.py"):  # another generator makes other data
        code.update((Path(__file__).parents[1] / "detector" / "data" / name).read_bytes())
    label = "-".join(map(str, ["street", *counts.values(), degrees, code.hexdigest()[:8]]))
    return cache_home() / "made" / label
