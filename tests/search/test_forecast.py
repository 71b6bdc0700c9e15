"""The forecast: the scheduler run in simulated time must train what the real one would."""

from __future__ import annotations

import pytest

from search.forecast import LONE_SPEEDUP, SECONDS_PER_LEG, simulate
from search.rungs import SCHEDULERS, make_scheduler, rung_levels


@pytest.mark.parametrize("name", SCHEDULERS)
class TestEveryScheduler:
    def test_all_trials_reach_the_first_rung_and_fewer_each_next(self, name: str) -> None:
        forecast = simulate(make_scheduler(name, rung_levels(1, 27, 3), 3), 30, 2, [1.0])
        assert forecast.trials_by_rung[0] == 30
        assert forecast.trials_by_rung == sorted(forecast.trials_by_rung, reverse=True)

    def test_the_same_seed_gives_the_same_forecast(self, name: str) -> None:
        scheduler = make_scheduler(name, rung_levels(1, 9, 3), 3)
        assert simulate(scheduler, 12, 2, [1.0, 2.0], seed=4) == simulate(scheduler, 12, 2, [1.0, 2.0], seed=4)

    def test_slower_epochs_take_longer(self, name: str) -> None:
        scheduler = make_scheduler(name, rung_levels(1, 9, 3), 3)
        assert simulate(scheduler, 12, 2, [2.0]).seconds > simulate(scheduler, 12, 2, [1.0]).seconds

    def test_more_slots_are_never_slower_for_independent_trials(self, name: str) -> None:
        scheduler = make_scheduler(name, rung_levels(1, 9, 3), 3)
        assert simulate(scheduler, 24, 8, [1.0]).seconds < simulate(scheduler, 24, 1, [1.0]).seconds


def test_without_pruning_every_epoch_is_trained_and_timed() -> None:
    forecast = simulate(make_scheduler("none", [9], 3), 4, 1, [2.0])
    assert forecast.epochs == 4 * 9
    assert forecast.trials_by_rung == [4]
    assert forecast.seconds == pytest.approx(4 * (9 * 2.0 + SECONDS_PER_LEG))


def test_a_lone_leg_runs_on_all_cores_where_nothing_else_can_start() -> None:
    leg = 5.0 + SECONDS_PER_LEG
    assert simulate(make_scheduler("none", [1], 2), 1, 2, [5.0]).seconds == pytest.approx(leg / LONE_SPEEDUP)
    assert simulate(make_scheduler("none", [1], 2), 1, 1, [5.0]).seconds == pytest.approx(leg)
    assert simulate(make_scheduler("none", [1], 2), 2, 2, [5.0]).seconds == pytest.approx(leg), (
        "two side by side share the cores"
    )


def test_one_slot_prunes_as_algorithm_2_does() -> None:
    # 9 trials, eta 3: at least floor(9 / 3) = 3 reach 3 epochs and one reaches 9; asynchrony may send a few more.
    forecast = simulate(make_scheduler("asha", rung_levels(1, 9, 3), 3), 9, 1, [1.0])
    assert forecast.trials_by_rung[0] == 9
    assert 3 <= forecast.trials_by_rung[1] <= 5
    assert 1 <= forecast.trials_by_rung[2] <= 2
    assert 9 + 3 * 2 + 6 <= forecast.epochs <= 9 + 5 * 2 + 2 * 6
