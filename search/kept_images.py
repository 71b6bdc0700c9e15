"""A study's images, made ready before its first trial, and what keeping them costs in words."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from detector.data.cache import CachedSplit
from detector.data.cache_rule import CacheRule, gigabytes
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource, DetectionDataset
from detector.data.keeping import KeptDataset, keep_dataset
from detector.data.places import cache_home
from search.ablation_plan import wants_extended
from search.options import cache_rule
from spaces.distributions import Choice, SpaceError
from spaces.space import ResolvedSpace

MAX_CANVASES = 3  # each is a decoded copy of the dataset on disk


@dataclass(frozen=True)
class KeptImages:
    """A dataset's splits as trials will read them, on the base's canvas."""

    caches: dict[str, CachedSplit]  # train, val, perhaps test and extended
    source: dict[str, Any]  # for workers: how they keep what they read
    words: str


def keep_images(
    plan: dict[str, Any], source: dict[str, Any], dataset: DetectionDataset, space: ResolvedSpace, say: Any
) -> KeptImages:
    """Makes or finds what a plan's trials read, all splits on every canvas of the space, so that no trial has to.

    The dataset is left without its bad images, where the plan skips them.

    Raises: StudyError, SpaceError, DataError for what cannot be kept.
    """
    rule, skip_bad = cache_rule(plan.get("cache"), plan.get("cache_limit")), plan["skip_bad"]
    canvases = canvases_of(space)
    extended = None
    if wants_extended(plan):
        extended = load_dataset(DataSource.from_dict(source), skip_bad, "extended").train
    images = sum(len(split.images) for split in [*dataset.splits, *([extended] if extended else [])])
    say(f"reading {images} images")
    kept = keep_dataset(dataset, canvases, rule, skip_bad, extended, say)
    return KeptImages(kept.caches, _for_workers(source, rule, kept.mode), _in_words(kept))


def canvases_of(space: ResolvedSpace) -> list[tuple[int, int]]:
    """Every canvas (height, width) of a space, the base's first.

    Raises: SpaceError where they are too many.
    """
    entry = space.fields.get("image_size_px")
    others = entry.options if isinstance(entry, Choice) else []
    canvases = [(rows, columns) for rows, columns in dict.fromkeys([space.base.image_size_px, *map(tuple, others)])]
    if len(canvases) > MAX_CANVASES:
        raise SpaceError(
            f"a space may offer at most {MAX_CANVASES} canvases (image_size_px), this one has {len(canvases)}"
        )
    return canvases


def _for_workers(source: dict[str, Any], rule: CacheRule, mode: str) -> dict[str, Any]:
    """The source as settled for all canvases on this machine; elsewhere a node's own room says (a limit says the same
    everywhere)."""
    elsewhere = CacheRule(rule.mode if rule.limit_gb is None else mode, rule.limit_gb)
    return {**source, "cache": elsewhere.to_dict(), "settled": {"host": socket.gethostname(), "mode": mode}}


def _in_words(kept: KeptDataset) -> str:
    mode, disk, decode_ms = kept.mode, gigabytes(kept.disk_bytes), kept.caches["train"].kept.decode_ms
    if mode == "decoded":
        return f"decoded: a memory map of {disk} in {cache_home()}, one for all trials of a machine; {kept.why}"
    place = f"one file of {disk} in {cache_home()}" if mode == "encoded" else "the image files themselves"
    cost = f", about {decode_ms:.1f} ms of a core each" if decode_ms else ""
    return f"{mode}: {place}; every epoch decodes its images{cost}, in as many processes as a trial has threads; {kept.why}"
