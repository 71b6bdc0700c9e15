"""Work for which torch is needed and the driver is not the place: a module of ours run once in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class WorkerError(RuntimeError):
    """A job that failed; the message is the last line of what it said."""


def run_job(module: str, job: dict[str, Any]) -> Any:
    """What `python -m module` prints for a job, both as JSON.

    Raises: WorkerError where it fails.
    """
    run = subprocess.run([sys.executable, "-m", module, json.dumps(job)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise WorkerError(f"{run.stderr.strip().splitlines()[-1:]}")
    return json.loads(run.stdout)


def answer(work: Callable[[dict[str, Any]], Any]) -> None:
    """The other side of `run_job`: does the job of this process's command line and prints the outcome."""
    print(json.dumps(work(json.loads(sys.argv[1]))))
