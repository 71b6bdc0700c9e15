"""A study's data: the user's or the simulated street, decoded once, and the facts that a space fits itself to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detector.config import DetectorConfig, check_class_weights
from detector.data.cache import CachedSplit, cached_split, settle_cache
from detector.data.cache_rule import CacheRule, gigabytes
from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, DetectionDataset, Split
from detector.data.letterbox import canvas_boxes
from detector.data.places import SETTLING, cache_home, exclusive_lock
from detector.model.cells import check_anchors
from search.options import AUTO, Options
from search.storage.data import fetched_source
from search.storage.store import is_link
from search.street import make_street
from spaces.distributions import Choice, SpaceError
from spaces.space import Profile, ResolvedSpace

IMAGES_SHOWN = 4
MAX_CANVASES = 3  # each is a decoded copy of the dataset on disk
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


@dataclass(frozen=True)
class KeptImages:
    """A dataset's splits as trials will read them, on the base's canvas, and what that costs in words."""

    caches: dict[str, CachedSplit]  # train, val, perhaps test and extended
    mode: str
    words: str

    def on_this_machine(self, source: dict[str, Any], asked: str | None, limit_gb: float | None) -> dict[str, Any]:
        """A study's source for its workers: on this machine as settled for all canvases, elsewhere as a node's own room says
        (a limit says the same everywhere)."""
        rule = CacheRule(self.mode if limit_gb is not None else asked or AUTO, limit_gb).to_dict()
        return {**source, "cache": rule, "settled": {"host": socket.gethostname(), "mode": self.mode}}


def keep_images(
    dataset: DetectionDataset, extended: Split | None, space: ResolvedSpace, rule: CacheRule, skip_bad: bool, say: Any
) -> KeptImages:
    """Makes or finds what trials read, all splits on every canvas of the space, so that no trial has to.

    `extended`: the training images with more, where a step trains on them too; on the base's canvas.
    """
    entry = space.fields.get("image_size_px")
    others = [tuple(option) for option in entry.options] if isinstance(entry, Choice) else []
    canvases = [(rows, columns) for rows, columns in dict.fromkeys([space.base.image_size_px, *others])]
    if len(canvases) > MAX_CANVASES:
        raise SpaceError(
            f"a space may offer at most {MAX_CANVASES} canvases (image_size_px), this one has {len(canvases)}"
        )
    every = [*dataset.splits, *([extended] if extended else [])]
    say(f"reading {sum(len(split.images) for split in every)} images")
    with exclusive_lock(cache_home() / SETTLING):
        mode, why = settle_cache(rule, every, canvases)
        disk, caches = 0, {}
        for canvas in reversed(canvases):
            splits = {"train": dataset.train, "val": dataset.val, **({"test": dataset.test} if dataset.test else {})}
            caches = {role: cached_split(split, canvas, skip_bad, mode) for role, split in splits.items()}
            here = sum(cached.kept.disk_bytes for cached in caches.values())
            disk = disk + here if mode == "decoded" else here  # packed files serve every canvas
        if extended:
            caches["extended"] = cached_split(extended, canvases[0], skip_bad, mode)
            disk += caches["extended"].kept.disk_bytes
    dataset.train, dataset.val = caches["train"].split, caches["val"].split
    dataset.test = caches["test"].split if "test" in caches else None
    return KeptImages(caches, mode, _in_words(mode, why, disk, caches["train"].kept.decode_ms))


def _in_words(mode: str, why: str, disk: int, decode_ms: float) -> str:
    if mode == "decoded":
        return f"decoded: a memory map of {gigabytes(disk)} in {cache_home()}, one for all trials of a machine; {why}"
    place = f"one file of {gigabytes(disk)} in {cache_home()}" if mode == "encoded" else "the image files themselves"
    cost = f", about {decode_ms:.1f} ms of a core each" if decode_ms else ""
    return f"{mode}: {place}; every epoch decodes its images{cost}, in as many processes as a trial has threads; {why}"


def images_to_show(val: Split) -> list[dict[str, Any]]:
    """The first validation images with boxes, for pictures of detections: position, file and boxes xyxy in its pixels."""
    with_boxes = [n for n, boxes in enumerate(val.boxes_xyxy) if len(boxes)][:IMAGES_SHOWN]
    return [{"position": n, "path": str(val.images[n].path), "boxes": val.boxes_xyxy[n].tolist()} for n in with_boxes]


def extended_split(source: DataSource, wanted: bool, skip_bad: bool) -> Split | None:
    """The training images with those of the extended split, where a study wants them."""
    return load_dataset(source, skip_bad, "extended").train if wanted else None


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
