"""What of a long study a sampler is shown: compared with a sort of everything, while the study goes on."""

from __future__ import annotations

import random

import pytest

from results.state import StudyState, Trial
from results.tables import ranking_key
from search import shown
from search.shown import BEST_SHOWN, NEWEST_SHOWN, Shown
from tests.search.builders import epoch_result


def create(state: StudyState, role: str = "search") -> str:
    name = f"t{len(state.trials) + 1}"
    state.apply({
        "event": "trial_created", "trial": name, "role": role, "config_hash": name, "config": {}, "varied": {}, "seed": 0,
        "proposal": len(state.trials),
    })  # fmt: skip
    return name


def train(state: StudyState, trial: str, to_epoch: int, score: float) -> None:
    """A leg to a rung, whose epochs score alike."""
    state.apply({"event": "leg_started", "trial": trial, "to_epoch": to_epoch})
    for epoch in range(state.trials[trial].last_epoch + 1, to_epoch + 1):
        state.apply({"event": "epoch", "trial": trial, **epoch_result(epoch, score)})
    state.apply({"event": "leg_ended", "trial": trial, "outcome": "reached"})


def sorted_whole(state: StudyState, newest: int, best: int) -> list[Trial]:
    """The same by definition."""
    searched = state.with_role("search")
    older = sorted(searched[:-newest], key=lambda trial: ranking_key(trial, state.metric))
    return sorted(older[:best], key=lambda trial: trial.number) + searched[-newest:]


def test_a_small_study_is_shown_whole_and_a_large_one_by_its_newest_1000_and_best_100() -> None:
    state, view = StudyState("mAP", [1, 3, 9]), Shown()
    assert view.of(state) == []
    assert (NEWEST_SHOWN, BEST_SHOWN) == (1000, 100)
    for number in range(1, 1401):
        # Scores fall and rise, so that the best are neither the first nor the last.
        train(state, create(state), 1, ((number * 7919) % 1000) / 1000)
        if number == 1100:
            assert view.of(state) == list(state.trials.values())
    best = sorted(range(1, 401), key=lambda n: (-((n * 7919) % 1000), n))[:100]
    assert [trial.number for trial in view.of(state)] == sorted(best) + list(range(401, 1401))


@pytest.mark.parametrize("seed", range(20))
def test_kept_up_it_is_what_a_sort_of_everything_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old trials are promoted and overtake others, some score nothing, ties stand in order of creation."""
    monkeypatch.setattr(shown, "NEWEST_SHOWN", 5)
    monkeypatch.setattr(shown, "BEST_SHOWN", 3)
    rng, state, view = random.Random(seed), StudyState("mAP", [1, 3, 9]), Shown()
    levels = {-1: 1, 0: 3, 1: 9}
    for _ in range(120):
        open_trials = [trial for trial in state.trials.values() if trial.rung < 2]
        if open_trials and rng.random() < 0.6:
            trial = rng.choice(open_trials)
            train(state, trial.id, levels[trial.rung], rng.choice([-1.0, 0.1, 0.2, 0.3, 0.4]))
        else:
            create(state, rng.choice(["search", "search", "search", "final"]))
        if rng.random() < 0.7:  # not before each: a proposal may come after many records
            assert view.of(state) == sorted_whole(state, 5, 3)
    assert len(state.with_role("search")) > 10


def test_another_study_is_begun_anew() -> None:
    first, second, view = StudyState("mAP", [1]), StudyState("mAP", [1]), Shown()
    create(first)
    create(first)
    assert len(view.of(first)) == 2
    create(second)
    assert view.of(second) == list(second.trials.values())
