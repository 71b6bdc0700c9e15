"""What fits: decoded, else encoded, else the files themselves."""

from __future__ import annotations

import pytest

from detector.data.cache_rule import CacheRule, Room, settle

GB = 10**9


@pytest.mark.parametrize(
    ("disk", "memory", "expected"),
    [
        (20, 20, "decoded"),  # half of each is 10: just enough
        (19, 20, "encoded"),
        (20, 19, "encoded"),  # on disk, but memory could not hold it
        (2, 0, "encoded"),  # half of 2 is the 1 that the files take
        (1, 100, "off"),
    ],
)
def test_half_of_what_is_free_decides(disk: int, memory: int, expected: str) -> None:
    mode, why = settle(CacheRule(), decoded=10 * GB, encoded=1 * GB, room=Room(disk * GB, memory * GB))
    assert mode == expected
    assert f"{disk / 2:g} GB of disk and {memory / 2:g} GB of memory are allowed (half of what is free)" in why


@pytest.mark.parametrize(("limit", "expected"), [(10, "decoded"), (9.9, "encoded"), (1, "encoded"), (0.9, "off"), (0, "off")])  # fmt: skip
def test_a_limit_stands_in_for_what_is_free(limit: float, expected: str) -> None:
    mode, why = settle(CacheRule("auto", limit), 10 * GB, 1 * GB, Room(1000 * GB, 1000 * GB))
    assert mode == expected
    assert "(--cache-limit)" in why


def test_what_is_there_takes_no_more_disk_but_needs_its_memory_still() -> None:
    there = {"has_decoded": True, "has_encoded": True}
    assert settle(CacheRule(), 10 * GB, 1 * GB, Room(0, 20 * GB, **there))[0] == "decoded"
    assert settle(CacheRule(), 10 * GB, 1 * GB, Room(0, 19 * GB, **there))[0] == "encoded"


@pytest.mark.parametrize("mode", ["decoded", "encoded", "off"])
def test_what_is_asked_for_is_done(mode: str) -> None:
    assert settle(CacheRule(mode, 0.0), 10 * GB, GB, Room(0, 0)) == (mode, "as asked")


def test_a_rule_survives_its_plan_and_older_plans_have_the_default() -> None:
    rule = CacheRule("encoded", 2.5)
    assert CacheRule.from_dict(rule.to_dict()) == rule
    assert CacheRule.from_dict(None) == CacheRule("auto", None)


@pytest.mark.parametrize(("mode", "limit", "words"), [("all", None, "--cache must be one of auto, decoded, encoded, off, got 'all'"), ("auto", -1.0, "--cache-limit .* got -1.0"), ("auto", float("nan"), "--cache-limit")])  # fmt: skip
def test_a_rule_that_cannot_be_is_refused(mode: str, limit: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CacheRule(mode, limit)
