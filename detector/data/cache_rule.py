"""How the images of a dataset are kept for training, by the room that there is. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = ("auto", "decoded", "encoded", "off")
# Of what is free: the rest is the trials', and another dataset's. Decoded images are read from the page cache, so that they
# must fit into memory too; an image of an encoded file is read once an epoch.
SHARE, SHARE_IN_WORDS = 0.5, "half of what is free"


@dataclass(frozen=True)
class CacheRule:
    """decoded: one memory map of pixels that all trials share; encoded: one of the image files' bytes, decoded as they are
    needed; off: the files themselves; auto: the first of these that fits."""

    mode: str = "auto"
    limit_gb: float | None = None  # that kept images may take of disk and memory; None: a share of what is free

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"--cache must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.limit_gb is not None and not 0 <= self.limit_gb < 1e9:
            raise ValueError(f"--cache-limit must be a number of GB, 0 or more, got {self.limit_gb!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for study.json and workers."""
        return {"mode": self.mode, "limit_gb": self.limit_gb}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any] | None) -> CacheRule:
        """The inverse of `to_dict`; None, as in studies that are older than the rule, is the default."""
        return cls(**plain) if plain else cls()


@dataclass(frozen=True)
class Need:
    """What a dataset's images take, in bytes: all of them, and those that this machine does not keep yet."""

    decoded: int
    encoded: int
    new_decoded: int
    new_encoded: int


@dataclass(frozen=True)
class Room:
    """What a machine has free, in bytes."""

    disk: int
    memory: int


def settle(rule: CacheRule, need: Need, room: Room) -> tuple[str, str]:
    """(decoded, encoded or off; why in words) for images that take so much, on a machine with so much room.

    What is there already was judged when it was made: it takes no more disk, and how little memory running trials leave
    just now does not count against it. A limit of the user's holds even so.
    """
    if rule.mode != "auto":
        return rule.mode, "as asked"
    if rule.limit_gb is not None:
        limit = round(rule.limit_gb * 1e9)
        allowed = f"{gigabytes(limit)} are allowed (--cache-limit)"
        fits = {"decoded": need.decoded <= limit, "encoded": need.encoded <= limit}
    else:
        disk, memory = int(room.disk * SHARE), int(room.memory * SHARE)
        allowed = f"{gigabytes(disk)} of disk and {gigabytes(memory)} of memory are allowed ({SHARE_IN_WORDS})"
        new = need.new_decoded
        fits = {"decoded": not new or (new <= disk and need.decoded <= memory), "encoded": need.new_encoded <= disk}
        if not new:
            allowed = "they are there already"
    if fits["decoded"]:
        return "decoded", f"{gigabytes(need.decoded)} fit: {allowed}"
    if fits["encoded"]:
        return "encoded", f"decoded they would take {gigabytes(need.decoded)}: {allowed}"
    return "off", f"decoded they would take {gigabytes(need.decoded)}, encoded {gigabytes(need.encoded)}: {allowed}"


def gigabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.3g} GB"
