"""What a study may use of this machine or a cluster: slots, threads, devices."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from search.ray_session import join_cluster, joins_cluster

CLUSTER_FILE = "~/ray_bootstrap_config.yaml"  # what `ray up` leaves on a head node for its autoscaler
ACCELERATOR = "accelerator_type:"  # the resource by which Ray tells GPUs apart
PARTS = 10_000  # Ray counts resources in ten-thousandths: a third is 0.3333, and three of them fit


@dataclass(frozen=True)
class Resources:
    """How trials share the machine."""

    slots: int  # legs at a time
    cpus_per_trial: float
    gpus_per_trial: float
    threads: int  # of torch per leg
    lone_threads: int  # of a leg that is left alone
    device: str  # cpu or the GPU's name
    accelerator: str = ""  # the GPU that a node must have; "" for any

    @property
    def per_trial(self) -> dict[str, float]:
        """What a trial asks of a node, as Ray names it."""
        kind = {f"{ACCELERATOR}{self.accelerator}": 0.001} if self.accelerator else {}
        return {"CPU": self.cpus_per_trial, "GPU": self.gpus_per_trial, **kind}

    @property
    def torch_device(self) -> str | None:
        """What a trainer is told: cpu where trials get no GPU, though there may be one; None for its own choice."""
        return None if self.gpus_per_trial else "cpu"

    @property
    def cores(self) -> int:
        """Whole cores of all slots."""
        return math.ceil(self.slots * _parts(self.cpus_per_trial) / PARTS)

    def gpus_here(self) -> int:
        """This machine's GPUs, where trials want some; asks the driver."""
        return count_gpus()[0] if self.gpus_per_trial else 0

    def describe(self) -> str:
        each = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        gpu = f" and {self.gpus_per_trial:g} GPU" if self.gpus_per_trial else ""
        return f"{self.slots} trials at a time, {each}{gpu} each, on {self.device}"


def count_gpus() -> tuple[int, str]:
    """(number of NVIDIA GPUs, name of the first), asked of the driver without importing torch."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0, ""
    names = [line.split(":", 1)[1].split("(")[0].strip() for line in listed.splitlines() if line.startswith("GPU ")]
    return len(names), names[0] if names else ""


@dataclass(frozen=True)
class Node:
    """What one machine has for trials."""

    cores: int
    gpus: int
    accelerator: str = ""  # its GPU's kind, as Ray names it


@dataclass(frozen=True)
class Hardware:
    """The machines that trials may run on: this one, or the nodes of a cluster."""

    nodes: tuple[Node, ...]
    gpu_name: str = ""
    is_cluster: bool = False  # more nodes may come, and a plan may ask for them

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def where(self) -> str:
        """For messages."""
        return f"any of the cluster's {len(self.nodes)} nodes" if self.is_cluster else "this machine"

    def of_kind(self, accelerator: str | None) -> Hardware:
        """The nodes with a kind of GPU.

        Raises: ValueError where there is none.
        """
        if not accelerator:
            return self
        if not self.is_cluster:
            raise ValueError("--accelerator-type chooses among a cluster's nodes; leave it out on one machine")
        kept = tuple(node for node in self.nodes if node.accelerator == accelerator)
        if not kept:
            there = ", ".join(sorted({node.accelerator for node in self.nodes if node.accelerator})) or "none"
            raise ValueError(f"--accelerator-type {accelerator}: no node of the cluster has it; its GPUs are: {there}")
        return Hardware(kept, accelerator, True)


def hardware() -> Hardware:
    """This machine, or the cluster that RAY_ADDRESS names, which is joined for it."""
    if not joins_cluster():
        gpus, name = count_gpus()
        return Hardware((Node(len(os.sched_getaffinity(0)), gpus),), name)
    ray = join_cluster()
    alive = [_node(found["Resources"]) for found in ray.nodes() if found["Alive"]]
    more = nodes_to_come(Path(CLUSTER_FILE).expanduser(), len(alive) - 1)
    names = sorted({node.accelerator for node in (*alive, *more) if node.accelerator})
    return Hardware((*alive, *more), " or ".join(names), True)


def _node(resources: Mapping[str, float]) -> Node:
    kinds = [name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)]
    return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), kinds[0] if kinds else "")


def nodes_to_come(file: Path, workers: int) -> list[Node]:
    """The nodes that a cluster's autoscaler may start beyond its `workers`, by the file that `ray up` leaves on its head.

    None where there is no such file, or its node types do not say what they have. Those with GPUs are counted on first.
    """
    try:
        asked = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError):
        return []
    kinds = asked.get("available_node_types") or {}
    room = int(asked.get("max_workers") or 0) - workers
    found: list[Node] = []
    for name, kind in sorted(kinds.items(), key=lambda item: not (item[1].get("resources") or {}).get("GPU")):
        if name != asked.get("head_node_type") and kind.get("resources"):
            count = min(int(kind.get("max_workers", asked.get("max_workers") or 0)), room - len(found))
            found += [_node(kind["resources"])] * max(0, count)
    return found


def plan_resources(
    cpus_per_trial: float | None,
    gpus_per_trial: float | None,
    concurrent: int | None,
    trials: int,
    use_gpu: bool,
    accelerator: str | None = None,
) -> Resources:
    """Slots for a machine or a cluster. On CPU a trial gets one core (two single threads beat one trial on two by a third
    here: benchmarks/NOTES.md); on GPUs one GPU each. A cluster may be asked for more than it has now: it may grow.

    Raises: ValueError where a trial asks for more than there is.
    """
    found = hardware().of_kind(accelerator)
    nodes = found.nodes if use_gpu else tuple(Node(node.cores, 0) for node in found.nodes)
    cores, gpus = max((node.cores for node in nodes), default=0), max((node.gpus for node in nodes), default=0)
    per_gpu = (gpus_per_trial if gpus_per_trial is not None else 1.0) if gpus else (gpus_per_trial or 0.0)
    if per_gpu > gpus and not found.is_cluster:
        raise ValueError(f"--gpus-per-trial {per_gpu:g} asks for more GPUs than the {gpus} of {found.where}")
    if 0 < per_gpu < 1 / PARTS:
        raise ValueError(f"--gpus-per-trial must be 0 or at least {1 / PARTS:g}, got {per_gpu:g}")
    with_gpus = [node.cores * per_gpu // node.gpus for node in nodes if node.gpus]
    per_cpu = cpus_per_trial if cpus_per_trial is not None else max(1.0, min(with_gpus, default=1.0))
    if not per_cpu >= 1 / PARTS or (per_cpu > cores and not found.is_cluster):
        raise ValueError(f"--cpus-per-trial must lie in [{1 / PARTS:g}, {cores}] on {found.where}, got {per_cpu:g}")
    fit = sum(_fit(node, per_cpu, per_gpu) for node in nodes)
    if concurrent is not None and concurrent > fit and not found.is_cluster:
        raise ValueError(
            f"--concurrent {concurrent} does not fit: {cores} cores and {gpus} GPUs hold {fit} such trials"
        )
    slots = max(1, min(concurrent or fit, trials))
    threads = max(1, int(per_cpu))
    alone = min((node.cores for node in nodes if node.cores), default=threads) if found.is_cluster else threads * slots
    return Resources(
        slots,
        per_cpu,
        per_gpu,
        threads,
        max(threads, alone),
        (found.gpu_name if per_gpu else "") or "CPU",
        accelerator or "",
    )


def _parts(amount: float) -> int:
    """An amount of a resource as Ray counts it."""
    return round(amount * PARTS)


def _fit(node: Node, per_cpu: float, per_gpu: float) -> int:
    """Trials that run on a node at a time."""
    by_cores = node.cores * PARTS // _parts(per_cpu)
    if not per_gpu:
        return by_cores
    # A fraction of a GPU packs whole trials onto each; several GPUs per trial share the total.
    by_gpus = node.gpus * (PARTS // _parts(per_gpu)) if per_gpu < 1 else node.gpus * PARTS // _parts(per_gpu)
    return min(by_cores, by_gpus)
