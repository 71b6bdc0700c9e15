"""What a training process sets for itself: threads, and freed memory that is not asked for anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from detector.process import keep_freed_memory

MEGABYTE = 2**20
# Page faults of taking and giving back a tensor that glibc maps apart by itself, the third time.
FAULTS = """
import resource, sys, torch
from detector.process import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
size = int(sys.argv[2])
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(size, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
THREADS = """
import torch
from detector.process import prepare_process
before = torch.get_num_threads()
prepare_process()
assert torch.get_num_threads() == before
prepare_process(before + 1)
print(torch.get_num_threads() - before)
"""
IS_GLIBC = platform.libc_ver()[0] == "glibc"


def printed(script: str, *arguments: object) -> int:
    """The number that a script prints, in a process of its own: what it sets must not reach other tests."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc gives and takes this setting")
def test_freed_memory_is_taken_again_without_a_page_fault() -> None:
    size = 100 * MEGABYTE
    given_back = printed(FAULTS, "give back", size)
    assert given_back > 40, "or this machine would show no difference"
    assert printed(FAULTS, "keep", size) < given_back / 20


def test_threads_are_set_or_left() -> None:
    assert printed(THREADS) == 1


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.process.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
