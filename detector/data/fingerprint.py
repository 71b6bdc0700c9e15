"""What identifies the images and boxes of a split; files that have not changed are not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detector.data.dataset import DataError, ImageRecord, Split
from detector.data.places import cache_home
from detector.data.progress_lines import Tell, silent, told

DIGEST_BYTES = 16
SETTLED_S = 2.0  # a file younger than this may change once more within its clock's tick (git calls such files racy)


def split_fingerprint(split: Split, tell: Tell = silent) -> str:
    """Sixteen hex digits over what is trained on: the boxes, classes and bytes of every image that is used.

    Taken once of a split that was read. Raises: DataError for a file that cannot be read.
    """
    if split.fingerprint:
        return split.fingerprint
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(split.class_names).encode())
    columns = zip(
        split.images, split.boxes_xyxy, split.labels, split.crowd, split.areas, file_digests(split, tell), strict=True
    )
    for record, boxes, labels, crowd, areas, content in columns:
        digest.update(f"{record.id!r} {record.file_name} {record.width} {record.height}".encode())
        digest.update(boxes.tobytes() + labels.tobytes() + crowd.tobytes() + areas.tobytes())
        digest.update(content)
    split.fingerprint = digest.hexdigest()
    return split.fingerprint


def file_digests(split: Split, tell: Tell = silent) -> list[bytes]:
    """The digest of every image's bytes. A file whose size, times and inode are those of last time is taken for unchanged.

    What is known is kept in the cache folder; without it everything is read again.
    """
    memo = cache_home() / "digests" / f"{hashlib.blake2b(str(split.annotations.resolve()).encode(), digest_size=8).hexdigest()}.json"  # fmt: skip
    known = _read(memo)
    now = time.time_ns()

    def digest_of(record: ImageRecord) -> tuple[str, list[int], str, bool]:
        path = str(record.path)
        try:
            now_there = os.stat(path)
            state = [now_there.st_size, now_there.st_mtime_ns, now_there.st_ctime_ns, now_there.st_ino]
            before = known.get(path)
            if before and before[0] == state:
                return path, state, before[1], False
            content = hashlib.blake2b(Path(path).read_bytes(), digest_size=DIGEST_BYTES).hexdigest()
        except OSError as error:
            raise DataError(f"{path}: must be a readable file ({error.strerror})") from None
        return path, state, content, True

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and hashing leave the interpreter's lock
        read = pool.map(digest_of, split.images)
        rows = list(told(read, len(split.images), f"reading the images of {split.annotations.name}", tell))
    if any(is_new for *_, is_new in rows):
        settled = {
            path: [state, content]
            for path, state, content, _ in rows
            if now - max(state[1], state[2]) > SETTLED_S * 1e9
        }  # fmt: skip
        _write(memo, {**known, **settled})
    return [bytes.fromhex(content) for _, _, content, _ in rows]


def _read(memo: Path) -> dict[str, list]:  # type: ignore[type-arg]
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(memo: Path, known: dict[str, list]) -> None:  # type: ignore[type-arg]
    """Whole or not at all; a full or read-only disk costs only the reading next time."""
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        unfinished = memo.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(known))
        unfinished.replace(memo)
    except OSError:
        return
