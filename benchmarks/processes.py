"""A command run to its end, with its wall time and the peak memory of its processes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.5
TRIAL = "ray::"  # how Ray names the processes that trials run in


@dataclass
class Ran:
    """A command's wall seconds, output and peak memory: the proportional set size, which counts what processes share once."""

    wall: float = 0.0
    printed: str = ""
    peak_gib: float = 0.0  # of it and all that it started
    trial_gib: float = 0.0  # of the largest process of a Ray actor or task


def run_measured(command: list[str], **environment: str) -> Ran:
    """Runs a command to its end (Linux).

    Raises: RuntimeError where it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    ran, ended = Ran(), threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, ran, ended), daemon=True)
    watch.start()
    ran.printed, complaints = process.communicate()
    ran.wall = time.perf_counter() - start
    ended.set()
    watch.join()
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{ran.printed[-2000:]}\n{complaints[-3000:]}"
        )
    return ran


def _watch(pid: int, ran: Ran, ended: threading.Event) -> None:
    known: dict[int, psutil.Process] = {}  # Ray's daemons leave the tree when their parent ends
    while not ended.wait(EVERY_S):
        try:
            found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            continue
        known.update({process.pid: process for process in found})
        shares = {process: _share(process) / 2**30 for process in known}
        ran.peak_gib = max(ran.peak_gib, sum(shares.values()))
        ran.trial_gib = max(
            ran.trial_gib, *(share if _is_trial(process) else 0.0 for process, share in shares.items()), 0.0
        )


def _is_trial(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().startswith(TRIAL)
    except OSError:
        return False


def _share(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
