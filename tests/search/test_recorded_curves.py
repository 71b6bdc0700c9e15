"""The recorded curves of benchmarks/curves: whole, of the space they name, and what the search makes of them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest

from search.curves import RecordedCurves, load_curves
from search.replay import replay

STREET = Path(__file__).parents[2] / "benchmarks" / "curves" / "street.json"
SEEDS = 6


@pytest.fixture(scope="module")
def street() -> RecordedCurves:
    curves = load_curves(str(STREET))
    assert isinstance(curves, RecordedCurves)
    return curves


def test_there_are_at_least_120_full_curves_with_their_provenance(street: RecordedCurves) -> None:
    full = [curve for curve in street.curves if not curve.ended]
    assert len(full) >= 120
    assert {len(curve.scores) for curve in full} == {27}
    assert all(0 <= score <= 1 for curve in full for score in curve.scores)
    assert all(second > 0 for curve in full for second in curve.seconds)
    told = street.provenance
    assert (told["dataset"]["train_images"], told["dataset"]["val_images"], told["profile"]) == (200, 60, "cpu")
    assert {"command", "commit", "versions", "seed"} <= told.keys()


def test_every_configuration_is_of_the_space_and_stands_once(street: RecordedCurves) -> None:
    hashes = [street.space.config(curve.values).hash() for curve in street.curves]
    assert len(set(hashes)) == len(hashes)


def test_learning_is_seen_in_them(street: RecordedCurves) -> None:
    """Not a generator's: most get better with training, and not every one at every epoch."""
    full = [curve for curve in street.curves if not curve.ended]
    assert sum(curve.scores[-1] > curve.scores[0] for curve in full) > 0.9 * len(full)
    assert any(
        later < earlier for curve in full for earlier, later in zip(curve.scores, curve.scores[1:], strict=False)
    )


def test_pruning_by_promotion_needs_less_than_half_of_a_full_budget(street: RecordedCurves) -> None:
    """One worker, six study seeds; the 50 of the README say how much less."""
    spent = {
        scheduler: [
            outcome.to_target for outcome in replay(street, scheduler, sampler, 1, SEEDS, len(street.curves), 1, 3)
        ]
        for scheduler, sampler in (("asha", "tpe"), ("none", "random"))
    }
    assert all(math.isfinite(seconds) for seconds in spent["asha"])
    assert statistics.median(spent["asha"]) < statistics.median(spent["none"]) / 2
