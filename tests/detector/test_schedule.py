"""The learning rate at its boundaries, by literal values."""

from __future__ import annotations

import math

import pytest

from detector.config import DetectorConfig
from detector.schedule import LearningRate


def schedule(steps_per_epoch: int = 10, **values: object) -> LearningRate:
    return LearningRate(
        DetectorConfig(**{"lr": 2.0, "schedule_epochs": 10, "warmup_epochs": 0.0, **values}), steps_per_epoch
    )


def test_warm_up_starts_at_a_tenth_and_reaches_the_rate_on_its_last_steps_successor() -> None:
    rate = schedule(warmup_epochs=0.5, schedule="constant", final_decay_epochs=0)  # 5 steps
    # 2 * (0.1 + 0.9 * n / 5)
    assert [rate.at(n) for n in range(7)] == pytest.approx([0.2, 0.56, 0.92, 1.28, 1.64, 2.0, 2.0])


def test_no_warm_up_starts_at_the_rate() -> None:
    assert schedule(schedule="constant").at(0) == 2.0
    assert schedule(schedule="cosine").at(0) == 2.0


def test_a_warm_up_of_less_than_a_step_is_none() -> None:
    assert schedule(steps_per_epoch=1, warmup_epochs=0.5, schedule="constant").at(0) == 2.0


def test_a_warm_up_longer_than_the_schedule_ends_with_it() -> None:
    rate = schedule(warmup_epochs=20.0, schedule="cosine")  # 100 of 200 steps
    assert rate.at(0) == pytest.approx(0.2)
    assert rate.at(99) == pytest.approx(2.0 * (0.1 + 0.9 * 0.99))


def test_cosine_is_half_way_down_in_the_middle_of_what_follows_the_warm_up() -> None:
    rate = schedule(warmup_epochs=2.0, schedule="cosine")  # steps 20 .. 100
    assert rate.at(20) == 2.0
    assert rate.at(60) == pytest.approx(1.0)
    assert rate.at(40) == pytest.approx(1 + math.cos(math.pi / 4))  # a quarter of the way: 2 * (1 + cos 45 deg) / 2
    assert rate.at(99) > 0
    assert rate.at(100) == pytest.approx(0.0, abs=1e-12)
    assert rate.at(10_000) == pytest.approx(0.0, abs=1e-12)


def test_cosine_never_rises_after_the_warm_up() -> None:
    rate = schedule(warmup_epochs=1.0, schedule="cosine")
    values = [rate.at(n) for n in range(10, 120)]
    assert values == sorted(values, reverse=True)


def test_a_milestone_acts_on_its_own_step_and_not_before() -> None:
    rate = schedule(schedule="multistep", lr_milestones=(0.6, 0.9), lr_decay=0.5)  # steps 60 and 90 of 100
    assert [rate.at(n) for n in (0, 59, 60, 61, 89, 90, 99, 100, 500)] == [2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def test_a_milestone_between_two_steps_is_rounded() -> None:
    rate = schedule(steps_per_epoch=1, schedule="multistep", lr_milestones=(0.67,), lr_decay=0.1)  # 6.7 of 10 -> 7
    assert rate.at(6) == 2.0
    assert rate.at(7) == pytest.approx(0.2)


def test_the_final_decay_covers_exactly_the_last_epochs() -> None:
    rate = schedule(schedule="constant", final_decay_epochs=2, lr_decay=0.1)  # from step 80 of 100
    assert rate.at(79) == 2.0
    assert rate.at(80) == pytest.approx(0.2)
    assert rate.at(99) == pytest.approx(0.2)
    assert rate.at(200) == pytest.approx(0.2)


def test_no_final_decay_keeps_the_rate_to_the_last_step() -> None:
    assert schedule(schedule="constant", final_decay_epochs=0, lr_decay=0.1).at(99) == 2.0


def test_a_final_decay_over_all_epochs_starts_decayed() -> None:
    assert schedule(schedule="constant", final_decay_epochs=10, lr_decay=0.1).at(0) == pytest.approx(0.2)


def test_the_schedule_is_laid_over_its_epochs_whatever_the_number_of_steps() -> None:
    coarse = schedule(steps_per_epoch=10, schedule="cosine")
    fine = schedule(steps_per_epoch=100, schedule="cosine")
    assert coarse.at(30) == pytest.approx(fine.at(300))
