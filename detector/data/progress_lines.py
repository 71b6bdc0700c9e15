"""Lines that say how far a long pass over many items is, for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Tell = Callable[[str], object]
EVERY_S = 10.0  # what takes less says nothing


def silent(_: str) -> None:
    """Tells nobody."""


def told(items: Iterable[T], total: int, what: str, tell: Tell) -> Iterator[T]:
    """The items as they come; says now and then how many of `total` have been done."""
    last, iterator = time.monotonic(), iter(items)
    try:
        for done, item in enumerate(iterator, start=1):
            yield item
            now = time.monotonic()
            if now - last >= EVERY_S and done < total:
                last = now
                tell(f"{what}: {done} of {total}")
    finally:  # a pool's iterator gives up what it has not begun
        if isinstance(iterator, Generator):
            iterator.close()
