"""How the images of a dataset are kept for training, by the room that there is. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = ("auto", "decoded", "encoded", "off")
# Of what is free: the rest is the trials', and another dataset's. Decoded images are read from the page cache, so that they
# must fit into memory too; an image of an encoded file is read once an epoch.
DISK_SHARE = MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class CacheRule:
    """decoded: one memory map of pixels that all trials share; encoded: one of the image files' bytes, decoded as they are
    needed; off: the files themselves; auto: the first of these that fits."""

    mode: str = "auto"
    limit_gb: float | None = None  # that kept images may take of disk and memory; None: a share of what is free

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"--cache must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.limit_gb is not None and not self.limit_gb >= 0:
            raise ValueError(f"--cache-limit must be a number of GB, 0 or more, got {self.limit_gb!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for study.json and workers."""
        return {"mode": self.mode, "limit_gb": self.limit_gb}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any] | None) -> CacheRule:
        """The inverse of `to_dict`; None, as in studies that are older than the rule, is the default."""
        return cls(**plain) if plain else cls()


@dataclass(frozen=True)
class Room:
    """What a machine has, and what there is already of a split, in bytes."""

    disk: int
    memory: int
    has_decoded: bool = False
    has_encoded: bool = False


def settle(rule: CacheRule, decoded: int, encoded: int, room: Room) -> tuple[str, str]:
    """(decoded, encoded or off; why in words) for images that take so many bytes in either form.

    What is there already takes no more disk.
    """
    if rule.mode != "auto":
        return rule.mode, "as asked"
    if rule.limit_gb is not None:
        disk = memory = round(rule.limit_gb * 1e9)
        whose = "--cache-limit"
    else:
        disk, memory, whose = int(room.disk * DISK_SHARE), int(room.memory * MEMORY_SHARE), "half of what is free"
    allowed = f"{gigabytes(disk)} of disk and {gigabytes(memory)} of memory are allowed ({whose})"
    if decoded <= memory and (decoded <= disk or room.has_decoded):
        return "decoded", f"{gigabytes(decoded)} fit: {allowed}"
    if encoded <= disk or room.has_encoded:
        return "encoded", f"decoded they would take {gigabytes(decoded)}: {allowed}"
    return "off", f"decoded they would take {gigabytes(decoded)}, encoded {gigabytes(encoded)}: {allowed}"


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.3g} GB"
