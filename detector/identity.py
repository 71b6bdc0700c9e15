"""What makes two configs the same: a hash that survives new fields, weights by content, and old records read anew.

Standard library only. The hash covers the consumed fields that differ from their defaults, so a new field whose default is
what the program did before changes no hash and orphans no checkpoint. Defaults are therefore part of every identity:
tests/detector/test_identity.py pins them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

HASH_DIGITS = 12  # hex digits of a config's hash and of a trial's id; more where two would share them
WEIGHTS_BY_NAME = ("none", "imagenet", "coco")  # every other value of `pretrained` is a file
DIGEST_MARK = "#sha256="  # between a weight file's path and the digest of its content
DIGEST_DIGITS = 16


def hash_of(consumed: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Twelve hex digits of the consumed fields (JSON-ready values) that differ from their defaults.

    A weight file counts by its content, wherever it lies.

    Raises: OSError where a weight file whose digest is not in its name cannot be read.
    """
    differing = {name: value for name, value in consumed.items() if name not in defaults or value != defaults[name]}
    if differing.get("pretrained", "none") not in WEIGHTS_BY_NAME:
        differing["pretrained"] = DIGEST_MARK + digest_of(differing["pretrained"])
    return _hex(json.dumps(differing, sort_keys=True, separators=(",", ":")))[:HASH_DIGITS]


def distinct_id(words: str, taken: Collection[str]) -> str:
    """Twelve hex digits of the hash of `words`, or as many more as it takes to differ from all ids in `taken`.

    Raises: AssertionError where the whole hash is taken: the same words were given twice.
    """
    digits = _hex(words)
    for count in range(HASH_DIGITS, len(digits) + 1):
        if digits[:count] not in taken:
            return digits[:count]
    raise AssertionError(f"the same identity twice: {words}")


def _hex(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def pin_weights(value: str) -> str:
    """A weight file as absolute path and digest of its content, which then is part of the record; names stay as they are.

    Raises: OSError where the file cannot be read.
    """
    if value in WEIGHTS_BY_NAME or DIGEST_MARK in value:
        return value
    path = str(Path(value).resolve())
    return f"{path}{DIGEST_MARK}{_digest_of_file(path)}"


def weights_path(value: str) -> str:
    """The path of a weight file, without the digest that a record holds behind it."""
    return value.partition(DIGEST_MARK)[0]


def digest_of(value: str) -> str:
    """The digest of a weight file's content: as the record holds it, else read from the file."""
    return value.partition(DIGEST_MARK)[2] or _digest_of_file(value)


def _digest_of_file(path: str) -> str:
    stat = Path(path).stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _digest(path: str, mtime_ns: int, size: int) -> str:
    """Sixteen hex digits of a file's SHA-256, read once per version of the file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]


RENAMED = {  # fields of format 1, for hints to users
    "trunk_weights": "pretrained",
    "detector_weights": "pretrained",
}


def migrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields as today's DetectorConfig has them.

    Format 1 (until 2026-11) named weights in two fields: `detector_weights` (a file) went before `trunk_weights`
    ("imagenet" or a file). Not read: norm frozen or frozen stages on random weights, which are refused now.
    """
    new = {name: value for name, value in values.items() if name not in RENAMED}
    if RENAMED.keys() & values.keys():
        new["pretrained"] = values.get("detector_weights") or values.get("trunk_weights") or "none"
        if new["pretrained"] != "none":
            new.pop("normalization", None)  # weights bring their own; a checkpoint keeps what it was trained with
        if new.get("trunk") == "report_ssd":
            new.pop("frozen_stages", None)  # it had none
        elif new.get("frozen_stages") and new.get("neck_levels"):
            new["frozen_stages"] = min(new["frozen_stages"], max(new["neck_levels"]), 5)  # 5 meant all
    return new
