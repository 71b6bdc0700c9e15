"""The forest that predicts configurations nobody trained, and what it says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from results.surrogate import GROUPS, Encoder, Surrogate


def test_columns_by_hand() -> None:
    configs = [{"lr": 0.5, "loss": "l1"}, {"lr": 0.1, "loss": "giou", "depth": 2}]
    encoder = Encoder(configs, ["lr", "loss", "depth"])
    # lr, absent?, loss is l1, loss is giou, absent?, depth (-1 where absent), absent?
    assert encoder.rows(configs) == pytest.approx(np.array([[0.5, 0, 1, 0, 0, -1, 1], [0.1, 0, 0, 1, 0, 2, 0]]))


def test_an_option_that_was_never_tried_is_none_of_those() -> None:
    encoder = Encoder([{"loss": "l1"}, {"loss": "giou"}], ["loss"])
    assert encoder.rows([{"loss": "ciou"}]).tolist() == [[0, 0, 0]]


def test_tuples_and_their_json_are_one_option() -> None:
    encoder = Encoder([{"scales": [1.0, 2.0]}], ["scales"])
    assert encoder.rows([{"scales": (1.0, 2.0)}]).tolist() == [[1, 0]]


def test_a_clear_function_is_explained_and_noise_is_not() -> None:
    rng = np.random.default_rng(3)
    configs = [{"a": float(a), "b": float(b)} for a, b in rng.random((150, 2))]
    clear = Surrogate(configs, [c["a"] ** 2 for c in configs], ["a", "b"])
    noise = Surrogate(configs, rng.normal(size=150).tolist(), ["a", "b"])
    assert clear.explained > 0.9
    assert noise.explained < 0.1
    told = clear.by_group([{"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}])
    assert told.shape == (GROUPS, 2)
    assert told.mean(axis=0) == pytest.approx([0.81, 0.01], abs=0.1)


def test_what_is_explained_is_of_unseen_trials() -> None:
    # Every trial has a config and a score of its own: a forest repeats those it saw, which must not count.
    rng = np.random.default_rng(0)
    configs = [{"a": float(a)} for a in rng.random(60)]
    assert Surrogate(configs, rng.normal(size=60).tolist(), ["a"]).explained < 0.15


def test_equal_scores_explain_nothing_and_seeds_repeat() -> None:
    configs = [{"a": n / 10} for n in range(10)]
    assert Surrogate(configs, [0.5] * 10, ["a"]).explained == 0.0
    scores = [math.sin(n) for n in range(10)]
    one, two = (Surrogate(configs, scores, ["a"], seed=4).by_group(configs) for _ in range(2))
    assert (one == two).all()


def test_trees_are_asked_as_their_forest_would_ask_them() -> None:
    rng = np.random.default_rng(0)
    configs = [{"a": float(a), "b": float(b)} for a, b in rng.random((40, 2))]
    surrogate = Surrogate(configs, [c["a"] for c in configs], ["a", "b"])
    rows = surrogate.encoder.rows(configs)
    told = surrogate.by_group(configs)
    assert told == pytest.approx(np.array([forest.predict(rows) for forest in surrogate.groups]))
