"""Words while many items are worked through, for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Tell = Callable[[str], object]
EVERY_S = 10.0  # what takes less says nothing


def silent(_: str) -> None:
    """Tells nobody."""


def told(items: Iterable[T], total: int, what: str, tell: Tell) -> Iterator[T]:
    """The items as they come; says now and then how many of `total` have been done."""
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= EVERY_S and done < total:
            last = now
            tell(f"{what}: {done} of {total}")
