"""Distributions: ranges, grids, membership, and the way to JSON and back."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.distributions import (
    Choice,
    Fitted,
    Float,
    Integer,
    SpaceError,
    When,
    as_tuple,
    entry_from_dict,
    entry_to_dict,
)


class TestFloat:
    def test_at_is_linear_or_logarithmic(self) -> None:
        assert Float(1.0, 3.0).at(0.25) == pytest.approx(1.5)
        assert Float(1e-4, 1e-2, log=True).at(0.5) == pytest.approx(1e-3)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.floats(1e-6, 1e3), st.floats(0, 1e3), st.floats(0, 1), st.booleans())
    def test_at_stays_inside(self, low: float, more: float, share: float, log: bool) -> None:
        entry = Float(low, low + more, log)
        assert entry.contains(entry.at(share))

    def test_grid_is_even_and_reaches_both_ends(self) -> None:
        assert Float(0.0, 0.4).grid(3) == pytest.approx([0.0, 0.2, 0.4])
        assert Float(1e-4, 1e-2, log=True).grid(3) == pytest.approx([1e-4, 1e-3, 1e-2])
        assert Float(0.0, 0.4).grid(1) == pytest.approx([0.2])
        assert Float(0.3, 0.3).grid(3) == pytest.approx([0.3])

    def test_contains(self) -> None:
        entry = Float(0.1, 0.2)
        assert entry.contains(0.1)
        assert entry.contains(0.2)
        assert not entry.contains(0.09)
        assert not entry.contains(0.21)
        assert not entry.contains("0.15")
        assert not entry.contains(math.nan)

    @pytest.mark.parametrize(
        ("low", "high", "log"), [(2.0, 1.0, False), (math.nan, 1.0, False), (0.0, 1.0, True), (-1.0, 1.0, True)]
    )
    def test_an_impossible_range_is_refused_with_its_values(self, low: float, high: float, log: bool) -> None:
        with pytest.raises(SpaceError, match=rf"range must .*got {low} \.\. {high}"):
            Float(low, high, log)


class TestInteger:
    def test_grid_is_every_value_or_some_spread_evenly(self) -> None:
        assert Integer(2, 4).grid(3) == [2, 3, 4]
        assert Integer(0, 10).grid(3) == [0, 5, 10]

    def test_contains_whole_numbers_only(self) -> None:
        assert Integer(0, 2).contains(2)
        assert not Integer(0, 2).contains(3)
        assert not Integer(0, 2).contains(1.0)

    def test_an_impossible_range_is_refused(self) -> None:
        with pytest.raises(SpaceError, match="low <= high"):
            Integer(3, 1)


class TestChoice:
    def test_grid_is_all_options_in_order(self) -> None:
        assert Choice("b", "a", (1.0,)).grid(1) == ["b", "a", (1.0,)]

    def test_an_empty_choice_is_refused(self) -> None:
        with pytest.raises(SpaceError, match="at least one option"):
            Choice()


def test_fitted_is_a_logarithmic_range_around_the_number() -> None:
    assert Fitted(0.5, 2.0).around(16.0) == Float(8.0, 32.0, log=True)


@pytest.mark.parametrize(
    "entry",
    [
        Float(1e-3, 1.0, log=True),
        Float(0.0, 0.4),
        Integer(0, 3),
        Choice(True, False),
        Choice((1.0,), (1.0, 1.5), ((16.0, 20.0), (32.0, 40.0))),
        When("optimizer", {"adamw": Float(1e-4, 1e-3, log=True), "sgd": Choice(0.1, 0.2)}),
        When("head_shared", {True: Integer(0, 1), False: Integer(1, 2)}),
        When("anchor_scales", {(1.0,): Float(0.0, 1.0)}),
    ],
    ids=repr,
)
def test_an_entry_survives_json(entry: Any) -> None:
    assert entry_from_dict(json.loads(json.dumps(entry_to_dict(entry)))) == entry


@pytest.mark.parametrize(
    "entry", [Float(0.1, 0.9), Float(1e-4, 1e-1, log=True), Integer(0, 10), Choice("a", "b")], ids=repr
)
def test_grids_lie_inside_and_descriptions_are_words(entry: Any) -> None:
    for points in (1, 2, 3, 5):
        values = entry.grid(points)
        assert all(entry.contains(value) for value in values)
        assert len(set(values)) == len(values)
    assert entry.describe()
    assert "(log)" in entry.describe() or not getattr(entry, "log", False)


def test_as_tuple_at_any_depth() -> None:
    assert as_tuple([1, [2, [3]], "ab"]) == (1, (2, (3,)), "ab")
    rng = random.Random(0)
    assert as_tuple(rng) is rng


@pytest.mark.parametrize(
    "entry", [Float(1e-3, 1e-2, log=True), Float(5e-4, 5e-3, log=True), Float(1e-5, 1e-3, log=True), Float(0.1, 0.7)]
)
def test_the_ends_of_a_range_are_its_own_and_what_lies_outside_is_the_nearer_end(entry: Float) -> None:
    assert (entry.at(0.0), entry.at(1.0)) == (pytest.approx(entry.low), pytest.approx(entry.high))
    assert entry.low <= entry.at(0.0) < entry.at(1.0) <= entry.high, "rounding does not leave the range"
    assert entry.share(0.0) == 0.0
    assert entry.share(1e9) == 1.0


def test_quantised_values_are_the_same_numbers_however_they_are_drawn() -> None:
    entry = Float(0.0, 0.45, step=0.1)
    assert [entry.at(n / 9) for n in (0, 3, 6, 9)] == [0.0, 0.1, 0.3, 0.4]
    assert entry.quantised(0.30000000000000004) == 0.3
    assert entry.quantised(entry.high) == 0.4
    assert entry.contains(0.3)
    assert not entry.contains(0.35)
    assert entry.grid(10) == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("arguments", [(0.1, 0.2, True, 0.1), (0.1, 0.2, False, 0.0)])
def test_a_step_needs_a_plain_range(arguments: tuple[float, float, bool, float]) -> None:
    with pytest.raises(SpaceError, match="step must be positive"):
        Float(*arguments)
