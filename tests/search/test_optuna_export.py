"""optuna.db: Optuna itself reads the study back with its states, values and readable options."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from search.optuna_export import write_optuna_database
from search.sampler import make_sampler
from tests.search.builders import hash_score, make_engine, smoke_space, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.mark.filterwarnings("ignore")
def test_optuna_reads_the_study_back_and_a_second_writing_replaces_the_first(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, sampler=make_sampler("tpe", smoke_space(), 0, ["mAP"], "asha"), trials=12)
    while (leg := engine.next_leg()) is not None:
        train_leg(engine, leg, hash_score)
    for _ in range(2):
        path = write_optuna_database(tmp_path, "smoke", engine.state, engine.space, ["mAP"])
    study = optuna.load_study(study_name="smoke", storage=f"sqlite:///{path}")
    assert len(study.trials) == 12
    finished = [trial for trial in engine.state.trials.values() if trial.outcome == "finished"]
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert sorted(t.value for t in complete if t.value is not None) == sorted(t.ranked_score("mAP") for t in finished)
    assert study.best_trial.user_attrs["trial"] in {trial.id for trial in finished}
    for trial in study.trials:
        ours = engine.state.trials[trial.user_attrs["trial"]]
        assert trial.params["box_loss"] == ours.config["box_loss"]
        assert trial.params["lr"] == pytest.approx(ours.config["lr"])
        assert trial.user_attrs["state"] == engine.state.final_state(ours)
    assert study.trials[0].distributions["lr"].log  # type: ignore[attr-defined]
    assert not (tmp_path / "optuna.db.unfinished").exists()


def test_a_conditional_field_is_shown_as_its_value_and_only_where_it_is() -> None:
    from search.optuna_export import _readable
    from spaces.distributions import Choice, Float, When

    lr = When("optimizer", {"adamw": Float(1e-4, 1e-2, log=True), "sgd": Float(1e-3, 1e-1, log=True)})
    value, distribution = _readable(lr, 3e-3) or (None, None)
    assert value == 3e-3
    assert (distribution.low, distribution.high, distribution.log) == (1e-4, 1e-1, True)
    iou = When("match_iou_high", {0.3: Choice(0.2), 0.4: Choice(0.3)})
    value, distribution = _readable(iou, 0.3) or (None, None)
    assert (value, distribution.choices) == ("0.3", ("0.2", "0.3"))
    assert _readable(Float(0.0, 1.0), 0.5) is None
