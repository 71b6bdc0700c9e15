"""Lines about a long pass: now and then, never about its end, and what is not begun is given up when nobody listens."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detector.data import progress_lines
from detector.data.progress_lines import told


def test_what_is_short_says_nothing() -> None:
    heard: list[str] = []
    assert list(told(range(5), 5, "counting", heard.append)) == [0, 1, 2, 3, 4]
    assert heard == []


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 14.0, 21.0, 31.0])  # the start, then after each of five items
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: next(times))
    heard: list[str] = []
    list(told("abcde", 5, "counting", heard.append))
    assert heard == ["counting: 2 of 5", "counting: 4 of 5"]


def test_a_pool_gives_up_what_it_has_not_begun_when_telling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "EVERY_S", 0.0)
    begun, failed = [], threading.Event()

    def work(n: int) -> int:
        begun.append(n)
        if n:
            failed.wait(60)
            time.sleep(0.1)  # or it could do a hundred before the failure is known
        return n

    def closed(_: str) -> None:
        failed.set()
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError), ThreadPoolExecutor(1) as pool:
        list(told(pool.map(work, range(1000)), 1000, "working", closed))
    assert len(begun) < 100
