"""Where made and kept data lies on a machine, how much room there is, and the lock under which one process makes it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# In the cache folder, held while one process settles how images are kept and makes what that needs: what another is still
# writing takes room already and is not there yet to be found.
SETTLING = "settling.lock"
CONTROL_GROUP = Path("/sys/fs/cgroup")  # a container sees its own group as the root; nested groups are not looked for


def cache_home() -> Path:
    """Where made and decoded data lies: $XDG_CACHE_HOME/detector-search, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detector-search"


@contextmanager
def exclusive_lock(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Holds an advisory lock that the kernel drops when this process dies; `waiting` is called where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_disk_bytes(path: Path) -> int:
    """What is free where `path` lies or will lie."""
    there = next(part for part in (path, *path.parents) if part.exists())
    return shutil.disk_usage(there).free


def free_memory_bytes() -> int:
    """What programs may still take, the page cache given up (Linux); in a container, within its control group."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # no such group, or "max": no limit
        free = min(free, _free_in_group(CONTROL_GROUP))
    return max(0, free)


def _free_in_group(group: Path) -> int:
    told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    files = int(told["inactive_file"]) + int(told["active_file"])  # the page cache counts as taken there
    return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + files
