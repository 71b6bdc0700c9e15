"""A dataset's images made ready for training: how they are kept is settled for all its splits and canvases at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detector.data.cache import CachedSplit, Places, cached_split, telling_no_room
from detector.data.cache_rule import CacheRule, Need, Room, settle
from detector.data.dataset import DataError, DetectionDataset, Split
from detector.data.fingerprint import split_fingerprint
from detector.data.places import SETTLING, cache_home, exclusive_lock, free_disk_bytes, free_memory_bytes
from detector.data.progress_lines import Tell, silent


@dataclass(frozen=True)
class KeptDataset:
    """The splits of a dataset as trials read them, and what they take."""

    caches: dict[str, CachedSplit]  # train, val, perhaps test and extended, on the first canvas
    mode: str  # decoded, encoded or off
    why: str
    disk_bytes: int  # of all canvases


def keep_dataset(
    dataset: DetectionDataset,
    canvases: Sequence[tuple[int, int]],
    rule: CacheRule,
    skip_bad: bool = False,
    extended: Split | None = None,
    tell: Tell = silent,
) -> KeptDataset:
    """Makes or finds all splits on every canvas (height, width). Afterwards `dataset` holds them without their bad images.

    `extended`: the training images with more, on the first canvas alone. `tell` hears how far it is.

    Raises: DataError for images that are bad, or that the disk has no room for.
    """
    splits = {"train": dataset.train, "val": dataset.val, **({"test": dataset.test} if dataset.test else {})}
    more = {"extended": extended} if extended else {}

    def waiting() -> None:
        tell(f"waiting for another process that keeps images in {cache_home()}")

    with telling_no_room(cache_home()), exclusive_lock(cache_home() / SETTLING, waiting):
        for split in (*splits.values(), *more.values()):
            split_fingerprint(split, tell)  # one process reads them all, the others find it in what that leaves
        mode, why = settle_cache(rule, [*splits.values(), *more.values()], canvases)
        disk, caches = 0, {}
        for canvas in reversed(canvases):  # the first one's stay
            here = splits | more if canvas == canvases[0] else splits
            caches = {role: cached_split(split, canvas, skip_bad, mode, tell) for role, split in here.items()}
            taken = sum(cached.kept.disk_bytes for cached in caches.values())
            disk = disk + taken if mode == "decoded" else taken  # packed files serve every canvas
    dataset.train, dataset.val = caches["train"].split, caches["val"].split
    dataset.test = caches["test"].split if "test" in caches else None
    return KeptDataset(caches, mode, why, disk)


def settle_cache(rule: CacheRule, splits: Sequence[Split], canvases: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """(decoded, encoded or off; why in words) for the splits of a dataset on all canvases of a study, on this machine."""
    if rule.mode != "auto":
        return settle(rule, Need(0, 0, 0, 0), Room(0, 0))
    decoded = encoded = new_decoded = new_encoded = 0
    for split in splits:
        files, packed = encoded_bytes(split), False
        for canvas in canvases:
            used = _without_known_bad(split, canvas)
            places, pixels = Places.of(split_fingerprint(used), canvas), decoded_bytes(used, canvas)
            decoded += pixels
            new_decoded += 0 if places.is_whole("decoded") else pixels
            packed = packed or places.encoded.is_dir()
        encoded += files
        new_encoded += 0 if packed else files
    need = Need(decoded, encoded, new_decoded, new_encoded)
    return settle(rule, need, Room(free_disk_bytes(cache_home()), free_memory_bytes()))


def _without_known_bad(split: Split, canvas: tuple[int, int]) -> Split:
    """What --skip-bad will come to, where the images were looked at before."""
    meta = Places.of(split_fingerprint(split), canvas).meta()
    try:
        return split.without_images({n: rule for n, rule, _ in meta["bad"]}) if meta and meta["bad"] else split
    except DataError:  # nothing would be left: cached_split tells what is wrong
        return split


def decoded_bytes(split: Split, canvas: tuple[int, int]) -> int:
    """What a split's pixels take on a canvas."""
    return len(split.images) * canvas[0] * canvas[1] * 3


def encoded_bytes(split: Split) -> int:
    """What a split's image files take."""
    return sum(record.path.stat().st_size for record in split.images)
