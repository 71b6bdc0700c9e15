"""One TensorBoard event file, written in this thread: a disk that is full is then its caller's error, not a stray thread's."""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

_NUMBERS = itertools.count()  # two files of one process and second must not share a name


class EventFile:
    """Appends events to a new file of a run's folder."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}{suffix}"
        self._file = (folder / name).open("ab", buffering=0)
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, event: Any) -> None:
        """Writes an event whole, or nothing of it: readers stop at a torn one."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        framed = io.BytesIO()
        RecordWriter(framed).write(event.SerializeToString())
        before, content, written = self._file.tell(), framed.getvalue(), 0
        try:
            while written < len(content):
                written += self._file.write(content[written:])
        except OSError:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
