"""Parameter groups: what decays, and the trunk's own share of the rate."""

from __future__ import annotations

import pytest
import torch

from detector.config import DetectorConfig
from detector.model.detector import Detector
from detector.optimizer import make_optimizer, parameter_groups, set_learning_rate
from tests.detector.conftest import TINY


def detector(**values: object) -> tuple[Detector, DetectorConfig]:
    config = DetectorConfig.from_dict({**TINY, **values})
    return Detector(config, 3), config


def test_a_pretrained_trunk_has_its_own_rate_and_everything_is_in_one_group_once() -> None:
    model, config = detector(pretrained="w.pt", trunk_lr_factor=0.1, weight_decay=0.3)
    factor = {id(p): g["lr_factor"] for g in parameter_groups(model, config) for p in g["params"]}  # type: ignore[attr-defined]
    assert set(factor) == {id(p) for p in model.parameters()}
    for name, parameter in model.named_parameters():
        assert factor[id(parameter)] == (0.1 if name.startswith("trunk.") else 1.0), name


def test_a_trunk_from_random_weights_learns_like_the_rest() -> None:
    model, config = detector(trunk_lr_factor=0.1)
    assert {group["lr_factor"] for group in parameter_groups(model, config)} == {1.0}


def test_the_schedules_rate_is_multiplied_by_each_groups_factor() -> None:
    model, config = detector(pretrained="w.pt", trunk_lr_factor=0.25)
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 0.04)
    assert {(g["lr_factor"], g["lr"]) for g in optimizer.param_groups} == {(1.0, 0.04), (0.25, 0.01)}


def test_the_weights_of_a_bifpns_maps_do_not_decay() -> None:
    model, config = detector(neck="bifpn", weight_decay=0.3)
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, config) for p in g["params"]}  # type: ignore[attr-defined]
    fusion = [p for name, p in model.named_parameters() if name.endswith(("down_weights", "up_weights", "top_weights"))]
    assert fusion
    assert {decay[id(p)] for p in fusion} == {0.0}


@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_a_lower_factor_moves_the_trunk_less(factor: float) -> None:
    torch.manual_seed(0)
    model, config = detector(
        pretrained="w.pt", trunk_lr_factor=factor, optimizer="sgd", sgd_momentum=0.0, weight_decay=0.0
    )
    optimizer = make_optimizer(model, config)
    before = model.trunk.conv1.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(before - model.trunk.conv1.weight, torch.full_like(before, 0.5 * factor))
