"""A study folder's records: the plan and the journal's lines, as they stand on disk (results/state.py replays them)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from detector.config import ConfigError, config_hash
from detector.identity import RENAMED, migrated

JOURNAL_NAME = "journal.jsonl"
PLAN_NAME = "study.json"
GROUND_TRUTH_NAME = "ground_truth.json"  # of the validation split, as COCO


class JournalError(ValueError):
    """A study folder that cannot be read as one; the message names file and line."""


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's records, as today's version writes them. A half-written last line is left out with a warning.

    Every driver writes in a generation of its own. What one wrote after a later one had taken over does not count.

    Raises: JournalError for a bad line elsewhere, with its number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(f"{path}: must be a study's journal; it cannot be read ({error.strerror})") from None
    torn = lines.pop()  # what stands behind the last newline: empty unless a write was cut short
    records = []
    newest = 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "event" not in record:
            raise JournalError(
                f"{path}, line {number}: must be a JSON object with an event, it is {line[:60]!r}. The journal is only "
                "appended to; restore the line from a copy, or cut the file before it to lose what came after"
            )
        generation = record.get("generation", newest)
        if generation >= newest:
            newest = generation
            records.append(_upgraded(record))
    if torn:
        warnings.warn(f"{path}: the last line was half-written and is left out: {torn[:60]!r}", stacklevel=2)
    return records


def read_plan(folder: Path) -> dict[str, Any]:
    """study.json of a study folder, as today's version writes it.

    Raises: JournalError where there is none.
    """
    if str(folder).startswith("s3:"):
        raise JournalError(f"{folder}: must be a folder; bring the study home first, by python -m search.fetch")
    path = folder / PLAN_NAME
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} must be a study folder; reading {path.name} said: {error}") from None
    lacking = [name for name in ("levels", "metric") if not isinstance(plan, dict) or name not in plan]
    if lacking:
        raise JournalError(
            f"{path}: must be a study's plan, an object with {', '.join(lacking)}; restore it from a copy"
        )
    assert isinstance(plan, dict)
    return _upgraded_plan(plan)


HASH_DIGITS_BEFORE = 10  # of format 1, which hashed every consumed field


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as of format 2: a new trial's fields by today's names, and the hash that goes with them."""
    if record["event"] != "trial_created" or len(record.get("config_hash", "")) != HASH_DIGITS_BEFORE:
        return record
    config = migrated(record["config"])
    try:
        identity = config_hash(config)
    except ConfigError:  # its weight file is gone: it is a config like no other
        identity = record["config_hash"]
    return {**record, "config": config, "varied": migrated(record.get("varied", {})), "config_hash": identity}


def _upgraded_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan of format 1 as of format 2: the fields of its base and steps by today's names."""
    if plan.get("format") != 1 or "space" not in plan:
        return plan
    fields = plan["space"].get("fields", {})
    renamed = {RENAMED.get(name, name): entry for name, entry in fields.items()}
    space = {**plan["space"], "base": migrated(plan["space"]["base"]), "fields": renamed}
    steps = [{**s, "changes": migrated(s["changes"]), "values": migrated(s["values"])} for s in plan.get("steps", [])]
    return {**plan, "space": space, **({"steps": steps} if steps else {})}
