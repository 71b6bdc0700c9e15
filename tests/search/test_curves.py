"""Recorded curves: from a study, to a file and back; the nearest configuration that is left; synthetic ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.commands import CommandError
from results.records import JournalError
from search.curves import Curve, RecordedCurves, SyntheticCurves, encode, gower, load_curves, main
from search.simulation import simulate_study
from spaces.distributions import Choice, Float, Integer, When
from tests.search.builders import hash_score, make_engine, smoke_space, train_leg

pytestmark = pytest.mark.usefixtures("no_fsync")

FIELDS: dict[str, Any] = {
    "optimizer": Choice("adamw", "sgd"),
    "lr": When("optimizer", {"adamw": Float(1e-4, 1e-2, log=True), "sgd": Float(1e-3, 1e-1, log=True)}),
    "sgd_momentum": When("optimizer", {"sgd": Float(0.5, 1.0)}),
    "head_depth": Integer(0, 3),
}


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    row = encode(FIELDS, b)
    return float(gower(encode(FIELDS, a), row[0][None], row[1][None])[0])


class TestGower:
    def test_worked_by_hand(self) -> None:
        a = {"optimizer": "adamw", "lr": 1e-3, "head_depth": 0}
        assert distance(a, a) == 0.0
        # lr: half of two decades apart = 0.5; depth: 2 of 4 places = 0.5; three fields.
        assert distance(a, {"optimizer": "adamw", "lr": 1e-2, "head_depth": 2}) == pytest.approx((0 + 0.5 + 0.5) / 3)
        # Another optimizer 1; the same share of its own range 0; a momentum that only one has 1; four fields.
        b = {"optimizer": "sgd", "lr": 1e-2, "sgd_momentum": 0.9, "head_depth": 0}
        assert distance(a, b) == pytest.approx((1 + 0 + 1 + 0) / 4)

    def test_symmetric(self) -> None:
        a = {"optimizer": "adamw", "lr": 2e-4, "head_depth": 3}
        b = {"optimizer": "sgd", "lr": 5e-2, "sgd_momentum": 0.6, "head_depth": 1}
        assert distance(a, b) == pytest.approx(distance(b, a))

    def test_options_are_told_apart_alike_in_every_process(self) -> None:
        assert encode(FIELDS, {"optimizer": "sgd"})[1][0] == encode(dict(FIELDS), {"optimizer": "sgd"})[1][0]
        assert encode(FIELDS, {"optimizer": "sgd"})[1][0] != encode(FIELDS, {"optimizer": "adamw"})[1][0]


@pytest.fixture
def recorded() -> RecordedCurves:
    curves = [
        Curve({"lr": lr}, tuple(top * (1 - 0.5**epoch) for epoch in range(1, 10)), (2.0,) * 9)
        for lr, top in ((1e-3, 0.1), (2e-3, 0.5), (4e-3, 0.4), (6e-3, 0.3), (9e-3, 0.2))
    ]
    return RecordedCurves(smoke_space(), [*curves, Curve({"lr": 8e-3}, (0.05,), (2.0,), "diverged")], {"by": "hand"})


class TestRecorded:
    def test_the_target_is_the_third_best_final_score_of_full_curves(self, recorded: RecordedCurves) -> None:
        assert recorded.epochs == 9
        assert recorded.target == pytest.approx(0.3 * (1 - 0.5**9))

    def test_a_proposal_stands_for_the_nearest_that_is_left(self, recorded: RecordedCurves) -> None:
        used: set[str] = set()
        order = []
        while (values := recorded.nearest_unused({"lr": 3.9e-3}, used)) is not None:
            order.append(values["lr"])
            used.add(recorded.space.config(values).hash())
        assert order[:2] == [4e-3, 6e-3]  # |log 6/3.9| < |log 3.9/2|
        assert sorted(order) == [1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 9e-3]

    def test_the_file_gives_the_same_back(self, recorded: RecordedCurves) -> None:
        again = RecordedCurves.from_json(recorded.to_json())
        assert again.curves == recorded.curves
        assert again.provenance == recorded.provenance
        assert again.hashes == recorded.hashes
        assert json.loads(recorded.to_json())["format"] == 1

    def test_a_study_is_written_as_curves_of_cpu_seconds(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine = make_engine(tmp_path / "s", scheduler="none", trials=4)
        while (leg := engine.next_leg()) is not None:
            if engine.state.trials[leg.trial].number == 3:
                engine.on_leg_end(leg.trial, "diverged", reason="nan")
                continue
            train_leg(engine, leg, hash_score)
        plan = {
            "name": "s", "profile": "cpu", "metric": "mAP", "epochs": 9, "seed": 0, "dataset": {"name": "d"}, "versions": {},
            "commit": "c", "command": "x", "levels": [9], "space": smoke_space().to_dict(),
        }  # fmt: skip
        (tmp_path / "s" / "study.json").write_text(json.dumps(plan))
        main([str(tmp_path / "s"), "--out", str(tmp_path / "curves.json")])
        assert "3 full curves of 9 epochs, 1 diverged" in capsys.readouterr().err
        found = load_curves(str(tmp_path / "curves.json"))
        assert isinstance(found, RecordedCurves)
        assert [len(curve.scores) for curve in found.curves] == [9, 9, 0, 9]
        first = next(iter(engine.state.trials.values()))
        assert found.curves[0].scores == tuple(round(hash_score(first.id, e), 5) for e in range(1, 10))
        assert load_curves(str(tmp_path / "s")).target == found.target

    def test_two_files_go_into_one_and_what_both_have_stands_once(
        self, recorded: RecordedCurves, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorded.provenance = {"dataset": {"fingerprint": "f"}}
        other = RecordedCurves(
            recorded.space, [*recorded.curves[:2], Curve({"lr": 7e-3}, (0.1,) * 9, (1.0,) * 9)], recorded.provenance
        )
        for name, part in (("a", recorded), ("b", other)):
            (tmp_path / f"{name}.json").write_text(part.to_json())
        main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "all.json")])
        assert "6 full curves of 9 epochs, 1 diverged" in capsys.readouterr().err
        found = load_curves(str(tmp_path / "all.json"))
        assert isinstance(found, RecordedCurves)
        assert sorted(curve.values["lr"] for curve in found.curves) == [1e-3, 2e-3, 4e-3, 6e-3, 7e-3, 8e-3, 9e-3]

    def test_curves_of_other_data_are_not_joined(
        self, recorded: RecordedCurves, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("f", "g"):
            recorded.provenance = {"dataset": {"fingerprint": name}}
            (tmp_path / f"{name}.json").write_text(recorded.to_json())
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "f.json"), str(tmp_path / "g.json"), "--out", str(tmp_path / "all.json")])
        assert caught.value.code == 2
        assert "only where their data is the same" in capsys.readouterr().err

    def test_a_study_without_a_full_curve_is_refused(self, tmp_path: Path) -> None:
        make_engine(tmp_path, trials=2)
        (tmp_path / "study.json").write_text(
            json.dumps({"metric": "mAP", "levels": [9], "space": smoke_space().to_dict()})
        )
        with pytest.raises(JournalError, match="must have at least 3 trials that were trained to the end; it has 0"):
            load_curves(str(tmp_path))

    def test_a_study_that_pruned_its_base_is_replayed_from_the_nearest_there_is(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, trials=40)
        base = engine.space.base.hash()
        while (leg := engine.next_leg()) is not None:
            worst = engine.state.trials[leg.trial].config_hash == base
            train_leg(engine, leg, (lambda trial, epoch: 0.0) if worst else hash_score)
        plan = {
            "metric": "mAP",
            "levels": [1, 3, 9],
            "space": smoke_space().to_dict(),
            "command": "python -m search.run",
        }
        plan |= dict.fromkeys(("name", "profile", "epochs", "seed", "dataset", "versions", "commit"), "")
        (tmp_path / "study.json").write_text(json.dumps(plan))
        curves = load_curves(str(tmp_path))
        assert isinstance(curves, RecordedCurves)
        assert base not in curves.by_hash
        assert curves.space.base.hash() in curves.by_hash
        outcome = simulate_study(curves, scheduler="asha", sampler="tpe", workers=2, seed=0, trials=len(curves.curves))
        assert outcome.trials == len(curves.curves)

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"curves": []}'])
    def test_a_file_of_something_else_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(CommandError, match=r"must be a file that search\.curves wrote"):
            load_curves(str(tmp_path / "c.json"))
        with pytest.raises(CommandError, match="must be a file of curves"):
            load_curves(str(tmp_path / "none.json"))

    def test_fields_that_a_config_does_not_read_do_not_part_it_from_itself(self) -> None:
        """head_channels means nothing at depth 0: the recorded curve does not name it, the proposal does."""
        space = smoke_space()
        space.fields = {"head_depth": Integer(0, 2), "head_channels": Choice(16, 32), "lr": Float(1e-3, 1e-2, log=True)}
        rows = [{"head_depth": 0, "lr": 2e-3}, {"head_depth": 1, "head_channels": 32, "lr": 2e-3}]
        curves = RecordedCurves(space, [Curve(values, (0.1,), (1.0,)) for values in rows])
        assert curves.nearest_unused({"head_depth": 0, "head_channels": 32, "lr": 2e-3}, set()) == rows[0]

    def test_a_short_curve_that_does_not_say_why_is_refused(self) -> None:
        with pytest.raises(ValueError, match="do not say why they ended"):
            RecordedCurves(
                smoke_space(), [Curve({"lr": 2e-3}, (0.1, 0.2), (1.0, 1.0)), Curve({"lr": 3e-3}, (0.1,), (1.0,))]
            )


class TestSynthetic:
    def test_a_curve_depends_on_seed_and_config_alone_and_rises(self) -> None:
        curves = SyntheticCurves(epochs=27)
        config = curves.space.base
        one = curves.curve(config.hash(), {"lr": 2e-3})
        assert one == SyntheticCurves(epochs=27).curve(config.hash(), {"lr": 2e-3})
        assert one != SyntheticCurves(seed=1).curve(config.hash(), {"lr": 2e-3})
        assert np.mean(one.scores[-5:]) > np.mean(one.scores[:2])
        assert all(math.isfinite(score) and score >= 0 for score in one.scores)

    def test_the_target_is_hard_and_within_reach(self) -> None:
        curves = SyntheticCurves()
        tops = sorted(curves._top(curves._typical(n / 1000)) for n in range(1000))
        assert 0.9 < sum(top < curves.target for top in tops) / 1000 < 1.0
