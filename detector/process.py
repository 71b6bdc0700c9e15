"""What a process that trains sets for itself before it begins: threads, and memory that stays with it."""

from __future__ import annotations

import ctypes

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER_TRIM = 2**31 - 1
LARGEST_KEPT = 2**30  # bytes; what is larger still goes back to the kernel at once
LARGEST_OF_OLD_GLIBC = 32 * 2**20  # before 2.35 it takes no higher threshold


def prepare_process(threads: int | None = None) -> None:
    """Sets torch's threads (None leaves them) and keeps freed memory: both hold for the whole process."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Has freed memory stay with this process; whether the C library can (glibc's can).

    A training step asks for the same tens of megabytes again and again. glibc gives them back to the kernel in between,
    which then clears every page anew: a twentieth of the time of a ResNet-50's step, most of a large batch's making.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    trims = mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
    maps = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLD_GLIBC)
    return bool(trims and maps)
