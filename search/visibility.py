"""Whether every node of a cluster sees what its trials will need, asked before the first of them starts."""

from __future__ import annotations

import hashlib
import socket
import uuid
from pathlib import Path
from typing import Any

from results.records import PLAN_NAME
from search.options import StudyError

LONGEST_WAIT_S = 120


def check_nodes(ray: Any, folder: Path, source: dict[str, Any]) -> None:
    """Looks from every node at the study's folder, which it must share with this one, and at the data.

    Raises: StudyError naming host and path where one does not see it, or cannot write there.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    digest = hashlib.sha256((folder / PLAN_NAME).read_bytes()).hexdigest()
    needed = [str(path) for split in ("train", "val", "extended") for path in source.get(split) or ()]
    look = ray.remote(num_cpus=0, max_retries=0)(look_around)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            str(folder), digest, needed, f".seen-{uuid.uuid4().hex}"
        )
        for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        host, problem, mark = ray.get(answer, timeout=LONGEST_WAIT_S)
        place = f"{host} ({node['NodeManagerAddress']})"
        if problem:
            raise StudyError(f"node {place}: {problem}")
        if not (folder / mark).is_file():
            raise StudyError(f"node {place}: {folder} is there, but another folder than here. {REMEDY}")
        (folder / mark).unlink()


REMEDY = "Give --runs-dir, and --data, a folder that every node mounts at the same path"


def look_around(folder: str, digest: str, needed: list[str], mark: str) -> tuple[str, str, str]:
    """(host, what is wrong seen from it or "", the name of the file that it left in the study's folder)."""
    host = socket.gethostname()
    plan = Path(folder) / PLAN_NAME
    try:
        if hashlib.sha256(plan.read_bytes()).hexdigest() != digest:
            return host, f"{plan} is another study than here. {REMEDY}", mark
    except OSError as error:
        return host, f"does not see {plan} ({error.strerror}). {REMEDY}", mark
    try:
        (Path(folder) / mark).touch()
    except OSError as error:
        return host, f"cannot write into {folder} ({error.strerror}). {REMEDY}", mark
    for path in needed:
        if not Path(path).exists():
            (Path(folder) / mark).unlink(missing_ok=True)
            return host, f"does not see {path}. {REMEDY}", mark
    return host, "", mark
