"""A study's data: the user's or the simulated street, decoded once, and the facts that a space fits itself to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from detector.data.cache import CachedSplit, cache_home, cached_split
from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, DetectionDataset, Split
from detector.data.lidar import make_dataset_once
from search.options import Options
from spaces.distributions import Choice, SpaceError
from spaces.fitting import DatasetFacts
from spaces.space import ResolvedSpace, Space, StreetData

IMAGES_SHOWN = 4
MAX_CANVASES = 3  # each is a decoded copy of the dataset on disk
STREET_SEED = 0


def open_dataset(options: Options, space: Space, profile: str, say: Any) -> tuple[DataSource, DetectionDataset]:
    """The user's dataset, checked; the simulated street, made once per machine, where none is named."""
    source = DataSource.from_options(
        options.data, options.train_annotations, options.train_images, options.val_annotations, options.val_images
    ) or make_street(space.profiles[profile].street, say)
    return source, load_dataset(source, options.skip_bad)


def names_data(options: Options) -> bool:
    """Whether the user names a dataset; else it is the street."""
    return any(
        (options.data, options.train_annotations, options.train_images, options.val_annotations, options.val_images)
    )


def make_street(street: StreetData, say: Any) -> DataSource:
    """The simulated street of a profile, from the cache where this machine has made it before."""
    counts = {"train": street.train, "val": street.val, "test": street.test}
    code = hashlib.sha256()
    for name in ("lidar.py", "lidar_scene.py"):  # another generator makes other data
        code.update((Path(__file__).parents[1] / "detector" / "data" / name).read_bytes())
    label = f"street-{street.train}-{street.val}-{street.test}-{street.degrees}-{code.hexdigest()[:8]}"
    out = cache_home() / "made" / label
    if not out.is_dir():
        say(f"making the simulated street ({sum(counts.values())} images) in {out}")
    make_dataset_once(out, counts, STREET_SEED, street.degrees)
    source = DataSource.from_folder(out)
    source.name = "simulated LiDAR street"
    return source


def dataset_facts(dataset: DetectionDataset) -> DatasetFacts:
    """What a space may fit itself to."""
    train = dataset.train
    boxes = [
        (n, box)
        for n, rows in enumerate(train.boxes_xyxy)
        for box, crowd in zip(rows.tolist(), train.crowd[n], strict=True)
        if not crowd
    ]
    if not boxes:
        raise DataError(f"{train.annotations}: the training split must have a box that is not a crowd's; it has none")
    return DatasetFacts(
        tuple((record.height, record.width) for record in train.images),
        tuple((box[3] - box[1], box[2] - box[0]) for _, box in boxes),
        tuple(n for n, _ in boxes),
        dataset.full_turn,
    )


def decode_canvases(
    dataset: DetectionDataset, space: ResolvedSpace, skip_bad: bool, say: Any
) -> dict[str, CachedSplit]:
    """All splits decoded onto every canvas of the space, so that no trial has to; returns those of the base's canvas."""
    entry = space.fields.get("image_size_px")
    others = [tuple(option) for option in entry.options] if isinstance(entry, Choice) else []
    canvases = list(dict.fromkeys([space.base.image_size_px, *others]))
    if len(canvases) > MAX_CANVASES:
        raise SpaceError(
            f"a space may offer at most {MAX_CANVASES} canvases (image_size_px), this one has {len(canvases)}"
        )
    say(f"reading {sum(len(split.images) for split in dataset.splits)} images")
    caches: dict[str, CachedSplit] = {}
    for canvas in reversed(canvases):
        caches = {split.name: cached_split(split, (canvas[0], canvas[1]), skip_bad) for split in dataset.splits}
    dataset.train, dataset.val = caches["train"].split, caches["val"].split
    dataset.test = caches["test"].split if "test" in caches else None
    return caches


def images_to_show(val: Split) -> list[dict[str, Any]]:
    """The first validation images with boxes, for pictures of detections: position, file and boxes xyxy in its pixels."""
    with_boxes = [n for n, boxes in enumerate(val.boxes_xyxy) if len(boxes)][:IMAGES_SHOWN]
    return [{"position": n, "path": str(val.images[n].path), "boxes": val.boxes_xyxy[n].tolist()} for n in with_boxes]


def describe_dataset(dataset: DetectionDataset, caches: dict[str, CachedSplit]) -> dict[str, Any]:
    """The dataset's entry of study.json and summary.json."""
    return {
        "name": dataset.name,
        "fingerprint": f"{caches['train'].fingerprint[:8]}{caches['val'].fingerprint[:8]}",
        "train_images": len(dataset.train.images),
        "val_images": len(dataset.val.images),
        "test_images": len(dataset.test.images) if dataset.test else 0,
        "train_boxes": dataset.train.num_boxes,
        "val_boxes": dataset.val.num_boxes,
        "classes": dataset.class_names,
        "full_turn": dataset.full_turn,
        "area_ranges_px": list(dataset.area_ranges_px),
    }
