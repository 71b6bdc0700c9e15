"""What a study writes as it goes: the journal, on disk before the decision that a line records, and small files."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

from results.records import JournalError


class Journal:
    """Appends records to a file that one driver at a time may hold.

    Raises: JournalError where another driver holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: OSError | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)  # what could not be written must not be written later
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JournalError(
                f"{path.parent}: another search is running in this folder; wait for it or stop it"
            ) from None
        self._drop_torn_line()

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
        """Writes one record and returns it as it will be read back; on disk when this returns."""
        line = json.dumps(_finite({"event": event, "time": round(time.time(), 3), **values}), allow_nan=False)
        try:
            self._write(line.encode() + b"\n")
            os.fsync(self._file.fileno())
        except OSError as error:
            self.failure = error  # Ray Tune wraps what its callbacks raise; the study asks here
            raise
        record = json.loads(line)
        assert isinstance(record, dict)
        return record

    def _write(self, line: bytes) -> None:
        """The whole line or, on a full disk, nothing of it."""
        before = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            if written:
                self._file.truncate(before)
            raise

    def close(self) -> None:
        """Releases the file."""
        self._file.close()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that a crash leaves the old one or the new one, never half."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk has no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
