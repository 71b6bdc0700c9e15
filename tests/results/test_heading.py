"""A study in a line, and its rungs in words."""

from __future__ import annotations

from results.heading import amount, headline, in_budget


def test_one_of_something_is_not_told_as_several() -> None:
    assert [amount(n) for n in (0, 1, 4)] == ["0 epochs", "1 epoch", "4 epochs"]
    assert [amount(n, "seconds") for n in (1, 20)] == ["1 second", "20 seconds"]


def test_rungs_have_the_unit_of_the_budget() -> None:
    assert in_budget({}, 1) == "1 epoch"
    assert in_budget({"budget_unit": "epochs"}, 1, 3, 9) == "1, 3, 9 epochs"
    assert in_budget({"budget_unit": "seconds"}, 20) == "20 seconds"


def test_the_headline_tells_the_best_and_how_long_the_base_was_trained() -> None:
    best = {"number": 7, "trial": "abc", "epoch": 9, "mAP": 0.3, "AP50": 0.5}
    told = {"metric": "mAP", "best": best, "base": {"epochs": 1, "mAP": 0.1, "AP50": 0.25}}
    assert (
        headline(told)
        == "best: mAP 0.300, AP50 0.500 (trial 7, abc, epoch 9); base: mAP 0.100, AP50 0.250 after 1 epoch"
    )
    assert headline({**told, "best": None, "base": None}) == "no trial has scored yet"
