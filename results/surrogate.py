"""A forest that predicts the score of configurations nobody trained, from those that were.

Every group of trees is fitted on its own bootstrap sample of the trials: groups together predict, their spread says how
sure that is, and the trials that a group did not see say how much it understood (out of bag).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.prior import Config, key_of

GROUPS, TREES = 60, 5  # bootstrap samples of the trials, trees on each
MOST_TRIALS = 2000  # in one bootstrap sample: a forest learns little from more and takes long


class Encoder:
    """Configurations as rows of numbers: a column for a number, one for each option of anything else, one for absence."""

    def __init__(self, configs: Sequence[Config], fields: Sequence[str]) -> None:
        self.fields = [name for name in fields if any(name in config for config in configs)]
        self.options: dict[str, list[str]] = {}  # of the fields that are not numbers
        for name in self.fields:
            values = [config[name] for config in configs if name in config]
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
                self.options[name] = list(dict.fromkeys(key_of(value) for value in values))

    def rows(self, configs: Sequence[Config]) -> np.ndarray:
        """[configs, columns]."""
        columns: list[list[float]] = []
        for name in self.fields:
            if name in self.options:
                keys = [key_of(config[name]) if name in config else "" for config in configs]
                columns += [[float(key == option) for key in keys] for option in self.options[name]]
            else:
                columns.append([_number(config.get(name)) for config in configs])
            columns.append([float(name not in config) for config in configs])
        return np.array(columns, dtype=np.float32).T.reshape(len(configs), -1)


def _number(value: Any) -> float:
    """A number as it is; -1 for what is absent, or an option that is none and was never tried."""
    return float(value) if isinstance(value, (int, float)) else -1.0


class Surrogate:
    """Predicts scores from the consumed fields of configurations."""

    def __init__(
        self, configs: Sequence[Config], scores: Sequence[float], fields: Sequence[str], seed: int = 0
    ) -> None:
        from sklearn.ensemble import RandomForestRegressor

        rng = np.random.default_rng(seed)
        self.encoder = Encoder(configs, fields)
        x, y = self.encoder.rows(configs), np.asarray(scores, dtype=np.float64)
        self.n = len(y)
        self.groups: list[Any] = []
        seen = np.zeros((GROUPS, self.n), dtype=bool)
        told = np.zeros((GROUPS, self.n))
        for group in range(GROUPS):
            drawn = rng.choice(self.n, min(self.n, MOST_TRIALS))
            forest = RandomForestRegressor(
                TREES, bootstrap=False, max_features=0.5, min_samples_leaf=2, random_state=int(rng.integers(2**31))
            )
            self.groups.append(forest.fit(x[drawn], y[drawn]))
            seen[group, drawn] = True
            told[group] = _predict(forest, x)
        self.explained = _explained(y, told, ~seen)

    def by_group(self, configs: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """[groups, configs]: each group's prediction."""
        rows = self.encoder.rows([dict(config) for config in configs])
        return np.array([_predict(forest, rows) for forest in self.groups])


def _predict(forest: Any, rows: np.ndarray) -> np.ndarray:
    """A forest's predictions, tree by tree: for the few rows of a path its own `predict` mostly checks its input."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    return np.asarray(np.mean([tree.tree_.predict(rows)[:, 0] for tree in forest.estimators_], axis=0))


def _explained(scores: np.ndarray, told: np.ndarray, unseen: np.ndarray) -> float:
    """Share of the scores' variance that predictions of unseen trials explain (R^2 out of bag); below 0: nothing."""
    counted = unseen.any(axis=0)
    if counted.sum() < 2 or scores[counted].std() == 0:
        return 0.0
    predicted = (told * unseen).sum(axis=0)[counted] / unseen.sum(axis=0)[counted]
    left = ((scores[counted] - predicted) ** 2).sum()
    return float(1 - left / ((scores[counted] - scores[counted].mean()) ** 2).sum())
