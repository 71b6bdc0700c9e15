"""What a study writes as it goes: the journal, on disk before the decision that a line records, and small files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.records import JournalError, read_journal
from search.storage.lease import Lease, held_elsewhere
from search.storage.segments import Segments, newest_segments, read_segments
from search.storage.store import FolderStore, Store


class Journal:
    """Appends records to a file that one driver at a time may hold; with a lease, in that driver's generation.

    Raises: JournalError where another driver of this machine holds it.
    """

    def __init__(self, path: Path, lock_counts: bool = True) -> None:
        self.path = path
        self.failure: OSError | JournalError | None = None  # once it could not be written, nothing more is
        self.writing = False
        self.lease: Lease | None = None
        self._segments: Segments | None = None
        self._group: list[bytes] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)  # what could not be written must not be written later
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # whoever has it may be writing a line: nothing is cut before the lease is ours
            if lock_counts:
                self._file.close()
                raise JournalError(
                    f"{path.parent}: another search is running in this folder; wait for it or stop it"
                ) from None
        except OSError:
            pass  # a network's folder without locks: the lease tells drivers apart
        else:
            self._drop_torn_line()

    @classmethod
    def hold(cls, path: Path, store: Store | None = None) -> Journal:
        """Opens a study's journal as its one driver anywhere: takes the lease, and marks where its generation begins.

        `store`: the object store that the study lives in; its journal is the true one, the file at `path` follows it.

        Raises: JournalError while another driver holds the study; OSError where it cannot be written.
        """
        place = store or FolderStore(path.parent)
        # A lock that another machine's driver holds tells nothing of whether it still lives: the lease does.
        journal = cls(path, lock_counts=not held_elsewhere(place))
        try:
            journal.lease = Lease.take(place, _newest_generation(path, store))
            journal._drop_torn_line()
            if store is not None:
                history = read_segments(store)
                journal.replace(history)
                journal._segments = Segments(store, journal.lease.generation, history)
            # What an older driver writes from here on is stale: only then is the journal read.
            journal.append("lease_taken", host=socket.gethostname())
        except BaseException:
            journal.close()
            raise
        return journal

    def replace(self, content: bytes) -> None:
        """Makes the file a copy of another journal."""
        self._file.truncate(0)
        self._write(content)

    def _drop_torn_line(self) -> None:
        """Cuts what a killed writer left behind the last newline, so that the next line starts clean."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            warnings.warn(
                f"{self.path}: the last line was half-written and is cut: {content[whole:][:60]!r}", stacklevel=3
            )
            self._file.truncate(whole)

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        """Writes one record and returns it as it will be read back; safe when this returns, or when its group ends.

        Raises: LeaseLostError once another driver has taken over; OSError where it cannot be written.
        """
        told = {"event": event, "time": round(time.time(), 3), **values}
        if self.lease is not None:
            told["generation"] = self.lease.generation
        line = json.dumps(_finite(told), allow_nan=False)
        if self._group is None:
            self._put_down(line.encode() + b"\n")
        else:
            self._group.append(line.encode() + b"\n")
        record = json.loads(line)
        assert isinstance(record, dict)
        return record

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """Inside, records are gathered and written together at its end: nothing may be acted on before."""
        self._group = []
        try:
            yield
        finally:
            lines, self._group = self._group, None
            if lines:
                self._put_down(b"".join(lines))

    def _put_down(self, lines: bytes) -> None:
        """Writes whole lines: into the store first, where there is one, then into the file."""
        if self.failure is not None:
            raise self.failure
        self.writing = True
        try:
            if self.lease is not None:
                self.lease.check()
            if self._segments is not None:
                self._segments.append(lines)
            self._write(lines)
            os.fsync(self._file.fileno())
        except (OSError, JournalError) as error:
            self.failure = error  # Ray Tune wraps what its callbacks raise; the study asks here
            raise
        finally:
            self.writing = False

    def _write(self, lines: bytes) -> None:
        """All of it or, on a full disk, nothing."""
        before = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            while written < len(lines):
                written += self._file.write(lines[written:])
        except OSError:
            if written:
                self._file.truncate(before)
            raise

    def close(self) -> None:
        """Releases the lease and the file."""
        if self.lease is not None:
            self.lease.release()
        self._file.close()


def _newest_generation(path: Path, store: Store | None) -> int:
    """The last generation that a journal holds; claims may have been lost, or left behind when it was copied."""
    if store is not None:
        return newest_segments(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a half-written last line is told of when it is cut
        return max((record.get("generation", 0) for record in read_journal(path)), default=0)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that a crash leaves the old one or the new one, never half."""
    FolderStore(path.parent).put(path.name, content)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
