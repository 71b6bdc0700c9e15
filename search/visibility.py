"""Whether every node of a cluster sees what its trials will need, asked before the first of them starts."""

from __future__ import annotations

import hashlib
import socket
import uuid
from pathlib import Path
from typing import Any

from results.records import PLAN_NAME
from search.options import StudyError
from search.storage.store import StorageError, is_link, open_store

LONGEST_WAIT_S = 180


def check_nodes(ray: Any, where: str, source: dict[str, Any]) -> None:
    """Looks from every node at the place where the study lives, which it must share with this one, and at the data.

    Raises: StudyError naming host and place where one does not see it, or cannot write there.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    store = open_store(where)
    digest = hashlib.sha256(store.get(PLAN_NAME) or b"").hexdigest()
    link = source.get("link", "")  # of a bucket, or of the street, which every node makes
    paths = [str(path) for split in ("train", "val", "extended") for path in source.get(split) or ()]
    needed = [link] if is_link(link) else [] if link else paths
    look = ray.remote(num_cpus=0, max_retries=0)(look_around)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            where, digest, needed, f".seen-{uuid.uuid4().hex}"
        )
        for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        try:
            host, problem, mark = ray.get(answer, timeout=LONGEST_WAIT_S)
        except ray.exceptions.RayError as error:  # it does not answer in time, or lacks the project
            said = str(error).strip().splitlines()[-1]
            raise StudyError(
                f"node {node['NodeManagerAddress']}: cannot be asked what it sees; it said: {said}"
            ) from None
        place = f"{host} ({node['NodeManagerAddress']})"
        if problem:
            raise StudyError(f"node {place}: {problem}")
        if store.get(mark) is None:
            raise StudyError(f"node {place}: {where} is there, but another folder than here. {REMEDY}")
        store.delete(mark)


REMEDY = (
    "Give --storage, and --data, a folder that every node mounts at the same path, or a link that every node may use"
)


def look_around(where: str, digest: str, needed: list[str], mark: str) -> tuple[str, str, str]:
    """(host, what is wrong seen from it or "", the name of the file that it left in the study)."""
    host, plan = socket.gethostname(), f"{where}/{PLAN_NAME}"
    store = open_store(where)
    try:
        content = store.get(PLAN_NAME)
    except OSError as error:
        return host, f"does not see {plan} ({_reason(error)}). {REMEDY}", mark
    if content is None:
        return host, f"does not see {plan} (there is no such file). {REMEDY}", mark
    if hashlib.sha256(content).hexdigest() != digest:
        return host, f"{plan} is another study than here. {REMEDY}", mark
    for path in needed:
        if not _is_seen(path):
            return host, f"does not see {path}. {REMEDY}", mark
    try:
        store.put(mark, b"")
    except OSError as error:
        return host, f"cannot write into {where} ({_reason(error)}). {REMEDY}", mark
    return host, "", mark


def _is_seen(path: str) -> bool:
    """Whether a file is there, or a link leads to files."""
    try:
        return bool(open_store(path).sizes()) if is_link(path) else Path(path).exists()
    except StorageError:
        return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
