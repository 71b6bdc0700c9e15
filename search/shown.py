"""Which of a study's trials a sampler is shown: of thousands the newest, and the best of those before.

Kept up with the journal's records as they come, so that a proposal costs no more in a long study than in a short one.
"""

from __future__ import annotations

import bisect

from results.state import StudyState, Trial
from results.tables import ranking_key

NEWEST_SHOWN, BEST_SHOWN = 1000, 100  # a proposal's time grows with what is shown; this keeps TPE's near 20 ms

Key = tuple[float, float, int]  # a trial's place in a ranking; the last part is its number


class Shown:
    """The newest 1 000 trials of the search and the best 100 of those before: the highest rung, then the highest score."""

    def __init__(self) -> None:
        self._state: StudyState | None = None

    def _begin(self, state: StudyState) -> None:
        self._state = state
        self._read = 0  # records taken in
        self._trials: list[Trial] = []  # the search's, in order of creation
        self._by_number: dict[int, Trial] = {}
        self._keys: dict[str, Key] = {}  # of the older trials, as they stand in `_ranked`
        self._ranked: list[Key] = []  # the older trials, best first

    def of(self, state: StudyState) -> list[Trial]:
        """The trials that are shown now, in order of creation."""
        if state is not self._state:
            self._begin(state)
        for record in state.records[self._read :]:
            if "trial" in record:
                self._take(record, state)
        self._read = len(state.records)
        best = [self._by_number[number] for *_, number in self._ranked[:BEST_SHOWN]]
        return sorted(best, key=lambda trial: trial.number) + self._trials[-NEWEST_SHOWN:]

    def _take(self, record: dict[str, object], state: StudyState) -> None:
        trial = state.trials[str(record["trial"])]
        if record["event"] == "trial_created":
            if trial.role != "search":
                return
            self._trials.append(trial)
            self._by_number[trial.number] = trial
            if len(self._trials) > NEWEST_SHOWN:
                self._rank(self._trials[-NEWEST_SHOWN - 1], state.metric)
        elif trial.id in self._keys:  # an older one trained on
            del self._ranked[bisect.bisect_left(self._ranked, self._keys[trial.id])]
            self._rank(trial, state.metric)

    def _rank(self, trial: Trial, metric: str) -> None:
        self._keys[trial.id] = key = ranking_key(trial, metric)
        bisect.insort(self._ranked, key)
