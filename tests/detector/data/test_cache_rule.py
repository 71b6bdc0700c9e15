"""What fits: decoded, else encoded, else the files themselves."""

from __future__ import annotations

import pytest

from detector.data.cache_rule import CacheRule, Need, Room, settle

GB = 10**9


ALL_NEW = Need(10 * GB, 1 * GB, 10 * GB, 1 * GB)


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
    mode, why = settle(CacheRule(), ALL_NEW, Room(disk * GB, memory * GB))
    assert mode == expected
    assert f"{disk / 2:g} GB of disk and {memory / 2:g} GB of memory are allowed (half of what is free)" in why


@pytest.mark.parametrize(
    ("limit", "expected"), [(10, "decoded"), (9.9, "encoded"), (1, "encoded"), (0.9, "off"), (0, "off")]
)
@pytest.mark.parametrize("there", [False, True])
def test_a_limit_stands_in_for_what_is_free_and_holds_for_what_is_there_too(
    limit: float, expected: str, there: bool
) -> None:
    need = Need(10 * GB, 1 * GB, 0, 0) if there else ALL_NEW
    mode, why = settle(CacheRule("auto", limit), need, Room(1000 * GB, 1000 * GB))
    assert mode == expected
    assert "(--cache-limit)" in why


def test_what_is_there_takes_no_more_disk_and_was_judged_before() -> None:
    mode, why = settle(CacheRule(), Need(10 * GB, 1 * GB, 0, 1 * GB), Room(0, 0))
    assert (mode, why) == ("decoded", "10 GB fit: they are there already")
    # the training images are there, one more GB is not: 1 of disk, but 10 of memory
    most = Need(10 * GB, 1 * GB, 1 * GB, 1 * GB)
    assert settle(CacheRule(), most, Room(2 * GB, 20 * GB))[0] == "decoded"
    assert settle(CacheRule(), most, Room(2 * GB, 19 * GB))[0] == "encoded"
    assert settle(CacheRule(), Need(10 * GB, 1 * GB, 10 * GB, 0), Room(0, 0))[0] == "encoded"


@pytest.mark.parametrize("mode", ["decoded", "encoded", "off"])
def test_what_is_asked_for_is_done(mode: str) -> None:
    assert settle(CacheRule(mode, 0.0), ALL_NEW, Room(0, 0)) == (mode, "as asked")


def test_a_rule_survives_its_plan_and_older_plans_have_the_default() -> None:
    rule = CacheRule("encoded", 2.5)
    assert CacheRule.from_dict(rule.to_dict()) == rule
    assert CacheRule.from_dict(None) == CacheRule("auto", None)


@pytest.mark.parametrize(("mode", "limit", "words"), [("all", None, "--cache must be one of auto, decoded, encoded, off, got 'all'"), ("auto", -1.0, "--cache-limit .* got -1.0"), ("auto", float("nan"), "--cache-limit"), ("auto", float("inf"), "--cache-limit")])  # fmt: skip
def test_a_rule_that_cannot_be_is_refused(mode: str, limit: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CacheRule(mode, limit)
