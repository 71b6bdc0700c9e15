"""Simulated studies: the real engine over curves, its compute counted, and the command around it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.curves import Curve, RecordedCurves
from search.replay import main, quantile
from search.simulation import simulate_study
from tests.search.builders import smoke_space

BASE_LR = smoke_space().base.lr


def pool(finals: Sequence[float], epochs: int = 9, seconds: float = 1.0) -> RecordedCurves:
    """The base first, then curves whose order never changes: a higher final score is higher all along."""
    rates = [BASE_LR, *(1e-3 + 9e-3 * n / len(finals) for n in range(1, len(finals)))]
    return RecordedCurves(
        smoke_space(),
        [
            Curve({"lr": lr}, tuple(final * e / epochs for e in range(1, epochs + 1)), (seconds,) * epochs)
            for lr, final in zip(rates, finals, strict=True)
        ],
    )


def simulate(curves: RecordedCurves, **more: Any) -> Any:
    return simulate_study(
        curves,
        **{"scheduler": "none", "sampler": "random", "workers": 1, "seed": 0, "trials": len(curves.curves), **more},
    )


FINALS = [0.1 + 0.02 * ((7 * n) % 27) for n in range(27)]


def test_full_budget_on_one_worker_costs_every_epoch_up_to_the_first_of_the_three_best() -> None:
    curves = pool(FINALS)
    outcome = simulate(curves)
    assert (outcome.epochs, outcome.busy_seconds, outcome.trials) == (27 * 9, 27 * 9.0, 27)
    assert outcome.best == max(FINALS)
    assert outcome.to_target % 9 == 0
    assert 9 <= outcome.to_target <= 25 * 9  # the three best cannot all be later than the 25th


def test_the_base_is_tried_first() -> None:
    assert simulate(pool([0.9, *FINALS[:8]])).to_target == 9.0


def test_workers_share_the_compute_and_unfinished_legs_count() -> None:
    """Nine alike: with three workers the first three end together, and all three were busy until then."""
    assert simulate(pool([0.5] * 9), workers=1).to_target == 9.0
    assert simulate(pool([0.5] * 9), workers=3).to_target == 27.0


@pytest.mark.parametrize("scheduler", ["asha", "asha_stop"])
@pytest.mark.parametrize("workers", [1, 4])
def test_pruning_trains_fewer_epochs_and_still_finds_the_best(scheduler: str, workers: int) -> None:
    outcome = simulate(pool(FINALS), scheduler=scheduler, workers=workers)
    assert outcome.trials == 27
    assert outcome.epochs < 27 * 9 / 2
    assert math.isfinite(outcome.to_target)
    assert outcome.best == max(FINALS)


def test_promotion_asha_on_one_worker_is_the_papers_ladder() -> None:
    """27 curves in order of rank, eta 3: at least 9 reach 3 epochs and 3 reach 9; asynchrony may send a few more."""
    epochs = simulate(pool(FINALS), scheduler="asha").epochs
    assert 27 + 9 * 2 + 3 * 6 <= epochs <= 27 + 14 * 2 + 7 * 6


def test_a_pool_that_is_exhausted_ends_the_study() -> None:
    outcome = simulate(pool(FINALS), trials=1000)
    assert outcome.trials == 27


def test_a_target_that_is_never_reached_costs_infinitely_much() -> None:
    curves = pool(FINALS)
    curves.target = 2.0
    assert math.isinf(simulate(curves).to_target)


def test_a_diverged_curve_ends_its_trial() -> None:
    curves = pool([0.5, 0.4, 0.3])
    broken = Curve({"lr": 9.9e-3}, (0.1, 0.1), (1.0, 1.0), "diverged")
    outcome = simulate(RecordedCurves(curves.space, [*curves.curves, broken]))
    assert (outcome.epochs, outcome.trials) == (3 * 9 + 2, 4)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_seed_is_the_same_study_and_another_is_another(sampler: str) -> None:
    curves = pool(FINALS)
    runs = [simulate(curves, scheduler="asha", sampler=sampler, seed=seed) for seed in (3, 3, 4, 5, 6)]
    assert runs[0] == runs[1]
    assert len({run.to_target for run in runs}) > 1


def test_quantiles_with_infinite_runs_are_infinite_from_where_they_begin() -> None:
    assert quantile([1.0, 3.0], 50) == 2.0
    assert quantile([1.0, math.inf], 25) == math.inf
    assert quantile([1.0, 2.0, math.inf], 50) == 2.0
    assert quantile([math.inf, math.inf], 50) == math.inf


class TestCommand:
    def test_prints_one_json_object(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "c.json").write_text(pool(FINALS).to_json())
        main(["--curves", str(tmp_path / "c.json"), "--sampler", "random", "--seeds", "5", "--workers", "2", "--json"])
        told = json.loads(capsys.readouterr().out)
        spent = told["compute_to_target"]
        assert spent["q25"] <= spent["median"] <= spent["q75"]
        assert told["unit"] == "seconds"
        assert told["target"] == pytest.approx(sorted(FINALS)[-3])
        assert told["reached"] == told["seeds"] == 5

    def test_what_was_never_reached_is_null(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "c.json").write_text(pool(FINALS).to_json())
        main(["--curves", str(tmp_path / "c.json"), "--sampler", "random", "--seeds", "3", "--trials", "1", "--json"])
        told = json.loads(capsys.readouterr().out)
        assert told["compute_to_target"] == {"median": None, "q25": None, "q75": None}

    def test_synthetic_curves_need_no_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["--curves", "synthetic", "--sampler", "random", "--seeds", "1", "--trials", "40", "--json"])
        assert json.loads(capsys.readouterr().out)["trials"] == 40

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--workers", "0"], "--workers must be at least 1, got 0"),
            (["--epochs", "5"], "--epochs must be that of the curves, 27, got 5"),
            (["--eta", "1"], "--eta must be at least 2"),
            (["--sampler", "cmaes"], "pickles"),
        ],
    )
    def test_mistakes_are_told_without_a_traceback(
        self, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--curves", "synthetic", "--seeds", "1", *options])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
