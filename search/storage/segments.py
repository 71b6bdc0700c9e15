"""A journal where nothing can be appended to: numbered segments that never change.

`journal/<generation>-<number>.jsonl` holds what a driver wrote at a time. `journal/<generation>-<number>.all.jsonl` holds
everything up to and with that number: each driver begins its generation with one, so that whatever an earlier driver still writes
is beside the line of succession, and writes another now and then, so that few segments have to be read.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from results.records import JournalError
from search.storage.store import THREADS, Store

PREFIX = "journal/"
NAME = re.compile(r"journal/(\d{8})-(\d{8})(\.all)?\.jsonl")
SNAPSHOT_EVERY = 500  # segments


class Segments:
    """Writes one generation's segments, each on the store before `append` returns."""

    def __init__(self, store: Store, generation: int, history: bytes) -> None:
        self.store, self.generation, self.number = store, generation, 0
        self._content = bytearray(history)
        self._snapshot()

    def append(self, lines: bytes) -> None:
        """Writes whole lines as the next segment.

        Raises: StorageError where the store does not take them.
        """
        self.store.put(f"{PREFIX}{self.generation:08d}-{self.number + 1:08d}.jsonl", lines)
        self.number += 1
        self._content += lines
        if self.number % SNAPSHOT_EVERY == 0:
            self._snapshot()

    def _snapshot(self) -> None:
        self.store.put(f"{PREFIX}{self.generation:08d}-{self.number:08d}.all.jsonl", bytes(self._content))


def newest_segments(store: Store) -> int:
    """The newest generation that has segments; 0 where there are none."""
    found = (NAME.fullmatch(name) for name in store.sizes(PREFIX))
    return max((int(match[1]) for match in found if match), default=0)


def read_segments(store: Store) -> bytes:
    """The journal's lines: the newest generation's latest snapshot and every segment after it.

    Raises: JournalError where a segment is missing.
    """
    found = [match for name in store.sizes(PREFIX) if (match := NAME.fullmatch(name))]
    snapshots = [(int(match[1]), int(match[2])) for match in found if match[3]]
    if not snapshots:
        return b""
    generation, start = max(snapshots)
    numbers = sorted(int(m[2]) for m in found if not m[3] and int(m[1]) == generation and int(m[2]) > start)
    if numbers != list(range(start + 1, start + 1 + len(numbers))):
        missing = next(n for n, number in enumerate(numbers, start + 1) if n != number)
        raise JournalError(
            f"{store.where}: segment {missing} of generation {generation} of its journal is missing; restore "
            f"{PREFIX}{generation:08d}-{missing:08d}.jsonl from a copy (or from the bucket's versions)"
        )
    names = [f"{PREFIX}{generation:08d}-{number:08d}.jsonl" for number in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(store.get, [f"{PREFIX}{generation:08d}-{start:08d}.all.jsonl", *names]))
    if any(part is None for part in parts):
        raise JournalError(f"{store.where}: its journal changes while it is read; read it again")
    return b"".join(part for part in parts if part is not None)
