"""A study's data: the user's or the simulated street, what can be trained on it, and what the plan notes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detector.config import DetectorConfig, check_class_weights
from detector.data.cache import CachedSplit
from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, DetectionDataset, Split
from detector.data.letterbox import canvas_boxes
from detector.model.cells import check_anchors
from search.options import Options
from search.storage.data import fetched_source
from search.storage.store import is_link
from search.street import make_street
from spaces.space import Profile

IMAGES_SHOWN = 4
BOXES_CHECKED = 3000  # of the training split, evenly spread: enough to tell anchors that reach nothing


def open_dataset(options: Options, profile: Profile, train_split: str, say: Any) -> tuple[DataSource, DetectionDataset]:
    """The user's dataset, checked; the simulated street, made once per machine, where none is named."""
    source = user_source(options) or make_street(profile.street, say)
    return source, load_dataset(source, options.skip_bad, train_split)


def user_source(options: Options) -> DataSource | None:
    """The dataset that the user names, fetched where it is a link; None where it is to be the street."""
    if options.data and is_link(options.data):
        if options.train_annotations or options.val_annotations:
            raise DataError("give either --data or the four --train-/--val- options, not both")
        if options.extended_annotations:
            raise DataError(
                "--extended-annotations goes with a folder; a link has its own, extended.json beside train.json"
            )
        return fetched_source(options.data)
    return DataSource.from_options(
        options.data,
        options.train_annotations,
        options.train_images,
        options.val_annotations,
        options.val_images,
        options.extended_annotations,
    )


def config_check(dataset: DetectionDataset) -> Callable[[DetectorConfig], None]:
    """A check that raises ConfigError for a config that cannot be trained on this dataset.

    Its weights per class are not as many as the scores, or its anchors reach hardly any training box.
    """
    by_canvas: dict[tuple[int, int], Any] = {}

    def check(config: DetectorConfig) -> None:
        check_class_weights(config, len(dataset.class_names))
        canvas = config.image_size_px
        if canvas not in by_canvas:
            boxes = canvas_boxes(dataset.train, canvas)[0]
            by_canvas[canvas] = boxes[:: max(1, len(boxes) // BOXES_CHECKED)]
        check_anchors(config, by_canvas[canvas])

    return check


def images_to_show(val: Split) -> list[dict[str, Any]]:
    """The first validation images with boxes, for pictures of detections: position, file and boxes xyxy in its pixels."""
    with_boxes = [n for n, boxes in enumerate(val.boxes_xyxy) if len(boxes)][:IMAGES_SHOWN]
    return [{"position": n, "path": str(val.images[n].path), "boxes": val.boxes_xyxy[n].tolist()} for n in with_boxes]


def describe_dataset(dataset: DetectionDataset, caches: dict[str, CachedSplit]) -> dict[str, Any]:
    """The dataset's entry of study.json and summary.json; with an extended split, the fingerprint covers that too."""
    told = _describe_training(dataset, caches)
    if "extended" in caches:
        cached = caches["extended"]
        told["fingerprint"] += cached.fingerprint[:8]
        told["extended_images"], told["extended_boxes"] = len(cached), cached.split.num_boxes
        dataset.train.dropped += [note for note in cached.split.dropped if note not in dataset.train.dropped]
    return told


def _describe_training(dataset: DetectionDataset, caches: dict[str, CachedSplit]) -> dict[str, Any]:
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
