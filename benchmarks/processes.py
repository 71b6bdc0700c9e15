"""A command run to its end, with its wall time and the peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import psutil

EVERY_S = 0.5


def run_measured(command: list[str], **environment: str) -> tuple[float, float, str]:
    """(wall seconds, peak GiB, standard output); memory is the proportional set size of the command and all it started.

    Proportional: what processes share is counted once between them (Linux). Raises: RuntimeError where the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    peak, ended = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peak, ended), daemon=True)
    watch.start()
    printed, complaints = process.communicate()
    wall = time.perf_counter() - start
    ended.set()
    watch.join()
    if process.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {process.returncode}:\n{printed[-2000:]}\n{complaints[-3000:]}"
        )
    return wall, peak[0], printed


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    known: dict[int, psutil.Process] = {}  # Ray's daemons leave the tree when their parent ends
    while not ended.wait(EVERY_S):
        try:
            found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            continue
        known.update({process.pid: process for process in found})
        peak[0] = max(peak[0], sum(map(_share, known)) / 2**30)


def _share(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)
