"""The engine of an ablation: every step on every seed, in order, resumable anywhere, extended by more seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.records import read_journal
from results.state import StudyState
from search.ablation_engine import AblationEngine
from search.engine import Limits
from search.journal import Journal
from search.rungs import make_scheduler
from spaces.chain import ResolvedStep, Step, resolve_chain
from tests.search.builders import FINGERPRINT, hash_score, smoke_space, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")

CHAIN = (Step("base", {}), Step("+giou", {"box_loss": "giou"}), Step("+ciou", {"box_loss": "ciou"}))


def steps() -> list[ResolvedStep]:
    return resolve_chain(CHAIN, smoke_space().base, {})[0]


def engine_of(folder: Path, trainings: int) -> AblationEngine:
    plan = make_scheduler("none", [2], 2)
    journal = Journal(folder / "journal.jsonl")
    state = StudyState.replay(read_journal(journal.path), "mAP", plan.levels)
    return AblationEngine(state, journal, smoke_space(), steps(), plan, Limits(trainings), FINGERPRINT, 5)


def run(engine: AblationEngine, most: int = 100) -> list[tuple[str, int]]:
    done = []
    while len(done) < most and (leg := engine.next_leg()) is not None:
        trial = engine.state.trials[leg.trial]
        assert (
            leg.config["box_loss"]
            == dict(zip(("base", "+giou", "+ciou"), ("smooth_l1", "giou", "ciou"), strict=True))[trial.step]
        )
        assert (leg.to_epoch, leg.seed) == (2, trial.seed)
        train_leg(engine, leg, hash_score)
        done.append((trial.step, trial.seed))
    return done


ALL = [(step, seed) for seed in (5, 6) for step in ("base", "+giou", "+ciou")]


def test_a_whole_chain_comes_before_the_next_seed(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, 6)
    assert run(engine) == ALL
    assert {trial.role for trial in engine.state.trials.values()} == {"ablation"}
    assert all(trial.outcome == "finished" for trial in engine.state.trials.values())
    assert engine.idle


def test_it_goes_on_where_it_was_and_more_seeds_extend_it(tmp_path: Path) -> None:
    first = engine_of(tmp_path, 6)
    assert run(first, most=2) == ALL[:2]
    interrupted = first.next_leg()
    assert interrupted is not None
    first.journal.close()
    assert run(engine_of(tmp_path, 6)) == ALL[2:]
    assert run(engine_of(tmp_path, 6)) == []
    assert run(engine_of(tmp_path, 9)) == [("base", 7), ("+giou", 7), ("+ciou", 7)]


def test_seeds_of_a_step_are_trials_of_their_own(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, 6)
    run(engine)
    assert len(engine.state.trials) == 6
    assert len({trial.config_hash for trial in engine.state.trials.values()}) == 3
