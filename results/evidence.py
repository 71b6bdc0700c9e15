"""What a trial's numbers rest on: its detections of the ranked epoch against the study's ground truth, matched once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.matching import Matches, match
from results.records import GROUND_TRUTH_NAME, JournalError

DETECTIONS_NAME = "detections.json"


def read_ground_truth(folder: Path) -> dict[str, Any] | None:
    """The validation split of a study folder as a COCO object; None in a study from before it was kept there."""
    path = folder / GROUND_TRUTH_NAME
    if not path.is_file():
        return None
    content = json.loads(path.read_bytes())
    assert isinstance(content, dict)
    return content


def matches_of(folder: Path, ground_truth: dict[str, Any], trial: str) -> Matches | None:
    """A trial's matches: as stored, or made and stored where its detections are newer; None where it has none."""
    try:
        content = (folder / "trials" / trial / DETECTIONS_NAME).read_bytes()
        detections = json.loads(content)
    except (OSError, ValueError):
        return None
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    stored = folder / "trials" / trial / f"matches-{digest}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        return Matches.from_bytes(stored.read_bytes())
    found = match(ground_truth, detections)
    with contextlib.suppress(OSError):  # of a folder that may only be read
        for old in stored.parent.glob("matches-*.npz"):
            old.unlink()
        unfinished = stored.with_suffix(".unfinished")
        unfinished.write_bytes(found.to_bytes())
        os.replace(unfinished, stored)
    return found


def groups_of(ground_truth: dict[str, Any], key: str | None) -> Sequence[Any] | None:
    """The group of each image by a key of the images' COCO records; None where images stand for themselves.

    Raises: JournalError where images lack the key.
    """
    if key is None:
        return None
    images = sorted(ground_truth["images"], key=lambda row: row["id"])
    lacking = [row["file_name"] for row in images if key not in row]
    if lacking:
        raise JournalError(
            f"--group-by {key}: every image of the validation annotations must have {key!r}; {len(lacking)} of {len(images)} have "
            f"not, {lacking[0]} for one. Its records have {', '.join(sorted(images[0]))}"
        )
    return [row[key] for row in images]
