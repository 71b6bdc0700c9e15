"""Freed memory that stays with its process, without what was freed before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from detector.memory import give_back_freed_memory, keep_freed_memory

MEGABYTE = 2**20
# Page faults of taking and giving back maps that glibc would map apart by itself, as a step does; the last of many times.
FAULTS = """
import resource, sys, torch
from detector.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.empty(int(sys.argv[2]), dtype=torch.uint8).fill_(1) for _ in range(4)]
    del maps
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# Blocks of 100 kB, too small to be mapped apart, and one on top of them that stays: megabytes that are not given back.
LEFT = """
import ctypes, resource, sys
from pathlib import Path
from detector import memory
def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 10**6
if sys.argv[1] == "give_back_freed_memory":
    assert memory.keep_freed_memory()
before = resident_mb()
blocks = [ctypes.create_string_buffer(b"x" * 100_000, 100_000) for _ in range(2000)]
last = blocks[-1]
del blocks
freed = resident_mb() - before
assert freed > 150, freed
assert getattr(memory, sys.argv[1])()
print(resident_mb() - before)
"""
IS_GLIBC = platform.libc_ver()[0] == "glibc"


def printed(script: str, *arguments: object) -> int:
    """The number that a script prints, in a process of its own: what it sets must not reach other tests."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def faults_by_default(size: int) -> int:
    faults = printed(FAULTS, "give back", size)
    if faults < 100:
        pytest.skip(f"{faults} page faults by default: this machine would show no difference")
    return faults


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc gives and takes this setting")
def test_freed_memory_is_taken_again_without_a_page_fault() -> None:
    size = 30 * MEGABYTE
    assert printed(FAULTS, "keep", size) < faults_by_default(size) / 20


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc gives and takes this setting")
def test_larger_blocks_go_back_at_once() -> None:
    size = 100 * MEGABYTE
    assert printed(FAULTS, "keep", size) >= faults_by_default(size) / 2


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc gives and takes this setting")
@pytest.mark.parametrize("call", ["keep_freed_memory", "give_back_freed_memory"])
def test_what_was_freed_before_is_given_back(call: str) -> None:
    assert printed(LEFT, call) < 20, "megabytes left of 200"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.memory.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is give_back_freed_memory() is False
