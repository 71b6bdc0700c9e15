"""Freed memory that stays with a process that trains, ready for its next step."""

from __future__ import annotations

import ctypes

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER_TRIM = -1
# Bytes; what is larger goes back to the kernel at once, as by default. Freed blocks do not always join again in glibc: of
# a few sizes that come again nothing is lost, of mixed ones as much stays as was held at once, in the worst case measured 3.4
# times that. So what is large in a step must have one of a few sizes (detector/model/sparse_convolution.py).
LARGEST_KEPT = 64 * 2**20
LARGEST_OF_OLD_GLIBC = 32 * 2**20  # before 2.35 it takes no higher threshold; without a setting it grows up to here


def keep_freed_memory() -> bool:
    """From here on, blocks of up to 64 MiB that this process frees stay with it; whether its C library can do that (glibc can).

    A training step asks for the same feature maps again and again. glibc gives them back to the kernel in between, which
    then clears every page anew: 6 to 9 % of a ResNet-50's step on two cores (benchmarks/NOTES.md). What was freed before,
    such as the reading of a large dataset, is given back first.
    """
    if not give_back_freed_memory():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trims = mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
    maps = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLD_GLIBC)
    return bool(trims and maps)


def give_back_freed_memory() -> bool:
    """Gives the kernel what this process has freed and kept; whether its C library can (glibc can)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return False
    trim(0)
    return True
