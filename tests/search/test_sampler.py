"""Samplers: one contract for tpe, random and grid; the screening design; and the view that Optuna is shown."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any, ClassVar

import numpy as np
import pytest

from detector.config import DetectorConfig
from results.state import StudyState, Trial
from search.grid import GridSampler, grid, grid_size
from search.optuna_samplers import OptunaSampler, View, proposal_seed
from search.sampler import SAMPLERS, make_sampler
from search.screening import STARTUP_TRIALS, design_orders, screening
from spaces.distributions import Choice, Float, Integer, SpaceError, When, draw, labels
from spaces.space import Budget, ResolvedSpace
from tests.search.builders import epoch_result

LEVELS = [1, 3, 9]

FIELDS = {
    "lr": When("optimizer", {"adamw": Float(5e-4, 5e-3, log=True), "sgd": Float(5e-3, 4e-2, log=True)}),
    "optimizer": Choice("adamw", "sgd"),
    "anchor_scales": Choice((1.0,), (1.0, 1.5)),
    "head_depth": Integer(0, 2),
    "zoom_max": Float(0.0, 0.4),
    "sgd_momentum": When("optimizer", {"sgd": Float(0.8, 0.99)}),
}


def small_space() -> ResolvedSpace:
    return ResolvedSpace("small", "cpu", DetectorConfig(), dict(FIELDS), Budget(trials=16, epochs=9, grace=1))


def empty_state() -> StudyState:
    return StudyState("mAP", list(LEVELS))


def add_trial(
    state: StudyState, values: dict[str, Any], scores: list[float], ends: str = "reached", target: int | None = None
) -> Trial:
    """Journals one trial: created with `values`, an epoch per score, and how its leg ended ("" while it runs)."""
    config = small_space().config(values)
    name = f"t{len(state.trials) + 1}"
    state.apply({
        "event": "trial_created", "trial": name, "role": "search", "config_hash": config.hash(), "config": config.active_dict(),
        "varied": values, "seed": 0, "proposal": len(state.trials),
    })  # fmt: skip
    state.apply({"event": "leg_started", "trial": name, "to_epoch": target or len(scores)})
    for number, score in enumerate(scores, 1):
        state.apply({"event": "epoch", "trial": name, **epoch_result(number, score)})
    if ends:
        state.apply({"event": "leg_ended", "trial": name, "outcome": ends, "reason": ends})
    return state.trials[name]


def studied(seed: int, trials: int) -> StudyState:
    """A state of paused and finished trials with random values."""
    rng, state = random.Random(seed), empty_state()
    for number in range(trials):
        label_seed = rng.random()
        values = draw(FIELDS, lambda label, entry, s=label_seed: pick(random.Random(f"{s}{label}"), entry))
        add_trial(state, values, [rng.random() for _ in range(9 if number % 4 == 0 else 1)])
    return state


def pick(rng: random.Random, entry: Any) -> Any:
    if isinstance(entry, Float):
        return entry.at(rng.random())
    return rng.choice(entry.options) if isinstance(entry, Choice) else rng.randint(entry.low, entry.high)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "cmaes"])
class TestEverySampler:
    @pytest.mark.parametrize("history", [0, 14])
    def test_values_lie_inside_the_space_and_conditions_hold(self, name: str, history: int) -> None:
        space, state = small_space(), studied(1, history)
        sampler = make_sampler(name, space, 0, ["mAP"])
        optimizers = set()
        for number in range(1, 21):
            values = sampler.propose(number, state)
            assert values is not None
            assert values.keys() <= space.fields.keys()
            optimizers.add(values["optimizer"])
            assert ("sgd_momentum" in values) == (values["optimizer"] == "sgd")
            lr = FIELDS["lr"]
            assert isinstance(lr, When)
            assert lr.cases[values["optimizer"]].contains(values["lr"])
            assert all(space.contains(field, value) for field, value in values.items())
            assert isinstance(values["anchor_scales"], tuple)
            space.config(values)
        assert optimizers == {"adamw", "sgd"}

    @pytest.mark.parametrize("number", [1, 8, 9, 20])
    def test_a_proposal_depends_on_seed_number_and_view_alone(self, name: str, number: int) -> None:
        state = studied(2, 14)
        first, second = make_sampler(name, small_space(), 5, ["mAP"]), make_sampler(name, small_space(), 5, ["mAP"])
        for earlier in range(1, number):
            second.propose(earlier, state)  # what was asked before must not matter
        random.seed(number)  # nor the global random state
        assert first.propose(number, state) == second.propose(number, studied(2, 14))

    def test_another_number_or_seed_is_another_proposal(self, name: str) -> None:
        state = studied(2, 14)
        proposals = [
            repr(make_sampler(name, small_space(), 5, ["mAP"]).propose(number, state)) for number in range(1, 21)
        ]
        assert len(set(proposals)) == 20 or (name == "nsga2" and len(set(proposals)) > 10)  # children may be alike
        others = [repr(make_sampler(name, small_space(), 6, ["mAP"]).propose(number, state)) for number in range(1, 21)]
        assert proposals != others

    def test_proposing_changes_nothing_in_the_state(self, name: str) -> None:
        state = studied(3, 10)
        before = repr(vars(state))
        make_sampler(name, small_space(), 0, ["mAP"]).propose(11, state)
        assert repr(vars(state)) == before


class TestSamplersThatDoNotFit:
    """Named by the user, refused with the reason."""

    @pytest.mark.parametrize("name", ["gp", "nsga2"])
    def test_who_learns_from_finished_trials_alone_refuses_pruning(self, name: str) -> None:
        with pytest.raises(SpaceError, match="--scheduler asha ends most before"):
            make_sampler(name, small_space(), 0, ["mAP"], "asha")

    def test_cma_es_is_refused_for_its_pickles(self) -> None:
        with pytest.raises(SpaceError, match="pickles"):
            make_sampler("cmaes", small_space(), 0, ["mAP"])


class TestScreening:
    FIELDS = {
        "lr": Float(1e-4, 1.0, log=True), "weight_decay": Float(0.01, 8.01), "box_loss": Choice("smooth_l1", "giou"),
        "head_depth": Integer(0, 3), "optimizer": Choice("adamw", "sgd"),
        "neck_channels": When("optimizer", {"adamw": Integer(32, 64), "sgd": Integer(200, 264)}),
    }  # fmt: skip
    BASE = DetectorConfig(lr=1e-2, weight_decay=0.0, head_depth=2, neck_channels=48)

    def column(self, label: str, seed: int = 7) -> list[Any]:
        space = ResolvedSpace("s", "cpu", self.BASE, dict(self.FIELDS), Budget(trials=16, epochs=9, grace=1))
        name, _, case = label.partition(" | ")
        entry = self.FIELDS[name]
        drawn_from = entry.cases[case.partition("=")[2]] if isinstance(entry, When) else entry
        return [screening(seed, space, n)(label, drawn_from) for n in range(STARTUP_TRIALS)]

    @pytest.mark.parametrize("seed", range(4))
    def test_half_keep_the_base_and_the_others_use_each_quarter_of_the_range_once(self, seed: int) -> None:
        values = self.column("lr", seed)
        assert values.count(1e-2) == STARTUP_TRIALS // 2
        decades = sorted(math.floor(math.log10(value)) for value in values if value != 1e-2)
        assert decades == [-4, -3, -2, -1]

    def test_a_range_without_the_base_is_drawn_from_every_time(self) -> None:
        assert all(0.01 <= value <= 8.01 for value in self.column("weight_decay"))
        assert all(200 <= value <= 264 for value in self.column("neck_channels | optimizer=sgd"))
        assert self.column("neck_channels | optimizer=adamw").count(48) >= STARTUP_TRIALS // 2

    def test_options_besides_the_base_are_each_tried(self) -> None:
        values = self.column("box_loss")
        assert (values.count("smooth_l1"), values.count("giou")) == (6, 2)
        assert sorted(self.column("head_depth")) == [0, 1, 2, 2, 2, 2, 2, 3]

    def test_the_sampler_starts_with_it(self) -> None:
        space, state = small_space(), empty_state()
        proposals = [make_sampler("tpe", space, 3, ["mAP"]).propose(n, state) for n in range(1, STARTUP_TRIALS + 1)]
        assert proposals == [draw(FIELDS, screening(3, space, n)) for n in range(STARTUP_TRIALS)]

    def test_labels_name_every_case_of_a_conditional_field(self) -> None:
        names = ["lr", "weight_decay", "box_loss", "head_depth", "optimizer"]
        assert labels(self.FIELDS) == [*names, "neck_channels | optimizer=adamw", "neck_channels | optimizer=sgd"]

    @pytest.mark.parametrize("seed", range(5))
    def test_no_two_columns_of_a_large_space_coincide(self, seed: int) -> None:
        orders = design_orders(seed, tuple(f"field {n}" for n in range(20)))
        halves = [[2 * stratum >= STARTUP_TRIALS for stratum in order] for order in orders.values()]
        for x, y in itertools.combinations(halves, 2):
            assert 0 < sum(a == b for a, b in zip(x, y, strict=True)) < STARTUP_TRIALS


class TestOptunasView:
    def shown(self, state: StudyState, trial: Trial) -> Any:
        return View(small_space().fields, ["mAP"]).entry(trial, state)

    VALUES: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 0.01,
        "sgd_momentum": 0.9,
        "anchor_scales": (1.0, 1.5),
        "head_depth": 1,
        "zoom_max": 0.1,
    }

    def test_finished_is_complete_with_its_best_score(self) -> None:
        state = empty_state()
        trial = add_trial(state, self.VALUES, [0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 0.45, 0.44, 0.43])
        told = self.shown(state, trial)
        assert (told.state.name, told.value) == ("COMPLETE", 0.5)

    def test_paused_is_pruned_with_its_intermediate_values(self) -> None:
        state = empty_state()
        told = self.shown(state, add_trial(state, self.VALUES, [0.1, 0.3, 0.2]))
        assert told.state.name == "PRUNED"
        assert told.intermediate_values == {1: 0.1, 2: 0.3, 3: 0.2}

    def test_minus_one_is_no_intermediate_value(self) -> None:
        state = empty_state()
        assert self.shown(state, add_trial(state, self.VALUES, [-1.0, 0.3, 0.2])).intermediate_values == {
            2: 0.3,
            3: 0.2,
        }

    def test_in_a_leg_is_running(self) -> None:
        state = empty_state()
        told = self.shown(state, add_trial(state, self.VALUES, [0.1], ends="", target=3))
        assert (told.state.name, told.value) == ("RUNNING", None)
        promoted = add_trial(state, self.VALUES, [0.2])
        assert self.shown(state, promoted).state.name == "PRUNED"
        state.apply({"event": "leg_started", "trial": promoted.id, "to_epoch": 3})
        assert self.shown(state, promoted).state.name == "RUNNING"

    @pytest.mark.parametrize("outcome", ["diverged", "failed", "infeasible"])
    def test_what_cannot_go_on_is_pruned_with_value_0(self, outcome: str) -> None:
        state = empty_state()
        told = self.shown(state, add_trial(state, self.VALUES, [0.3], ends=outcome, target=3))
        assert (told.state.name, told.value, told.intermediate_values) == ("PRUNED", 0.0, {0: 0.0})

    def test_parameters_are_the_trials_values_under_their_condition(self) -> None:
        state = empty_state()
        told = self.shown(state, add_trial(state, self.VALUES, [0.3]))
        assert told.params == {
            # lr: log(0.01 / 0.005) / log(0.04 / 0.005) = 1/3 of sgd's range; momentum: (0.9 - 0.8) / (0.99 - 0.8)
            "optimizer": 1, "lr": pytest.approx(1 / 3), "sgd_momentum": pytest.approx(10 / 19), "anchor_scales": 1,
            "head_depth": 1, "zoom_max": 0.1,
        }  # fmt: skip

    def test_the_base_outside_the_space_is_shown_with_what_lies_inside(self) -> None:
        state = empty_state()
        told = self.shown(state, add_trial(state, {"anchor_scales": (2.0,), "lr": 0.9}, [0.3]))
        # An option that is not offered is left out, a rate beyond the range is its end, an absent field the middle.
        assert told.params == {"optimizer": 0, "head_depth": 2, "zoom_max": 0.0, "lr": 1.0, "sgd_momentum": 0.5}

    def test_the_numbers_made_once_are_optunas_own(self) -> None:
        """With the short cut and without it TPE proposes the same."""
        state = studied(4, 30)
        ours = make_sampler("tpe", small_space(), 1, ["mAP"]).propose(31, state)
        plain = OptunaSampler("tpe", small_space(), 1, ["mAP"])
        make = plain._sampler

        def without_the_short_cut(seed: int) -> Any:
            sampler = make(seed)
            del type(sampler)._get_internal_repr
            return sampler

        plain._sampler = without_the_short_cut  # type: ignore[method-assign]
        assert plain.propose(31, state) == ours

    def test_a_range_of_one_value_and_a_log_range_around_a_base_of_zero_do_no_harm(self) -> None:
        space = small_space()
        space.fields = {
            "zoom_max": Float(0.0, 0.4),
            "nms_iou": Float(0.5, 0.5),
            "smooth_l1_beta": Float(0.01, 1.0, log=True),
        }
        state = empty_state()
        for number in range(20):
            add_trial(state, {"zoom_max": 0.02 * number}, [0.9 - 0.04 * number] * 9)  # the base's beta is 0
        sampler = make_sampler("tpe", space, 0, ["mAP"])
        proposals = [sampler.propose(number, state) for number in range(21, 41)]
        assert all(values is not None and values["nms_iou"] == 0.5 for values in proposals)
        assert sum(values["zoom_max"] for values in proposals if values) / 20 < 0.15

    def test_tpe_learns_from_the_view(self) -> None:
        """Trials with a small zoom scored well: proposals move there, and not where the same trials scored badly."""

        def mean_zoom(good_is_low: bool) -> float:
            state, rng = empty_state(), random.Random(0)
            for number in range(24):
                zoom = rng.uniform(0.0, 0.4)
                score = 0.9 - 2 * zoom if good_is_low else 0.1 + 2 * zoom
                add_trial(state, {**self.VALUES, "zoom_max": zoom}, [score] * (9 if number % 3 == 0 else 1))
            sampler = make_sampler("tpe", small_space(), 0, ["mAP"])
            return sum(sampler.propose(n, state)["zoom_max"] for n in range(25, 45)) / 20  # type: ignore[index]

        assert mean_zoom(True) < 0.15 < 0.25 < mean_zoom(False)


class TestGrid:
    def test_covers_all_combinations_once(self) -> None:
        space = small_space()
        sampler = GridSampler(space, 0)
        proposals: list[dict[str, Any]] = []
        while (values := sampler.propose(len(proposals) + 1, empty_state())) is not None:
            proposals.append(values)
        # adamw: 3 lr; sgd: 3 lr x 3 momenta; times 2 scales, 3 depths, 3 zooms.
        assert len(proposals) == (3 + 3 * 3) * 2 * 3 * 3
        assert len({repr(sorted(values.items())) for values in proposals}) == len(proposals)
        zooms = {round(values["zoom_max"], 6) for values in proposals}
        assert zooms == {0.0, 0.2, 0.4}
        pairs = {(values["anchor_scales"], values["head_depth"]) for values in proposals}
        assert pairs == set(itertools.product([(1.0,), (1.0, 1.5)], [0, 1, 2]))
        assert sampler.propose(len(proposals) + 1, empty_state()) is None

    def test_grid_size_is_an_upper_bound(self) -> None:
        assert len(grid(FIELDS)) <= grid_size(FIELDS)
        unconditional = {name: entry for name, entry in FIELDS.items() if not isinstance(entry, When)}
        assert len(grid(unconditional)) == grid_size(unconditional) == 2 * 2 * 3 * 3

    def test_too_many_combinations_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"1,594,323 combinations"):
            grid({f"f{n}": Float(0, 1) for n in range(13)})


def test_proposal_seeds_differ_and_repeat() -> None:
    seeds = {proposal_seed(study, number) for study in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert proposal_seed(3, 4) == proposal_seed(3, 4)


def test_scipys_normal_tails_are_optunas_own() -> None:
    """Where TPE was made they are scipy's; value by value Optuna's say the same, far tails included."""
    from optuna.samplers._tpe import _truncnorm

    make_sampler("tpe", small_space(), 0, ["mAP"]).propose(STARTUP_TRIALS + 1, studied(0, 12))
    values = np.array([-300.0, -38.0, -20.5, -19.5, -3.0, -0.1, 0.0, 0.7, 5.9, 6.1, 30.0])
    told = [_truncnorm._log_ndtr_single(float(value)) for value in values]
    assert np.allclose(_truncnorm._log_ndtr(values), told, rtol=1e-7, atol=1e-15)  # near 0 Optuna's loses eight digits
