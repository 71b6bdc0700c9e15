"""Chains: steps keep what stands above them, what cannot be had is left out, and mistakes are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from detector.config import ConfigError, DetectorConfig
from spaces.chain import Reported, ResolvedStep, Step, resolve_chain, steps_up_to
from spaces.distributions import SpaceError
from spaces.fitting import DatasetFacts
from spaces.loading import load_space
from spaces.space import resolve, train_split_of
from tests.spaces.test_space import FULL_TURN, PHOTOS, STREET

BASE = DetectorConfig()
CHAIN = (
    Step("base", {}),
    Step("+deep", {"head_depth": 4}, "2.3", Reported(0.1, 20.0, 1000)),
    Step("+weights", {"pretrained": "imagenet"}, optional=True),
    Step("+fast", {"lr": 0.01, "head_depth": 3}),
)


def test_each_step_keeps_what_stands_above_it() -> None:
    steps, left_out = resolve_chain(CHAIN, BASE, {})
    assert [step.name for step in steps] == ["base", "+deep", "+fast"]
    assert [step.changes for step in steps] == [{}, {"head_depth": 4}, {"lr": 0.01, "head_depth": 3}]
    assert steps[-1].values == {"head_depth": 3, "lr": 0.01}
    assert steps[1].reported == Reported(0.1, 20.0, 1000)
    assert len(left_out) == 1
    assert left_out[0].startswith("+weights is left out: DetectorConfig: pretrained imagenet need")


def test_an_optional_step_is_left_out_where_its_check_fails_and_kept_where_it_does_not() -> None:
    base = DetectorConfig(trunk_width=1.0)
    kept, left_out = resolve_chain(CHAIN, base, {})
    assert [step.name for step in kept] == ["base", "+deep", "+weights", "+fast"]
    assert kept[-1].values["pretrained"] == "imagenet"
    assert left_out == []

    def no_network(config: DetectorConfig) -> None:
        assert config.pretrained == "imagenet", "only optional steps are checked"
        raise ConfigError("could not be fetched")

    kept, left_out = resolve_chain(CHAIN, base, {}, no_network)
    assert [step.name for step in kept] == ["base", "+deep", "+fast"]
    assert left_out == ["+weights is left out: could not be fetched"]


def test_a_file_of_weights_stands_for_the_download_and_is_no_longer_optional(tmp_path: Path) -> None:
    step = CHAIN[2].with_weights(str(tmp_path / "resnet.pth"))
    assert step.changes == {"pretrained": str(tmp_path / "resnet.pth")}
    assert not step.optional
    assert CHAIN[1].with_weights("file") is CHAIN[1]


@pytest.mark.parametrize(
    ("chain", "fixed", "message"),
    [
        ((Step("base", {}), Step("+x", {"head_depth": 9})), {}, r"step \+x: .*head_depth must lie in"),
        (
            (Step("base", {}), Step("+x", {"sgd_momentum": 0.5})),
            {},
            r"step \+x changes nothing that its detector reads",
        ),
        ((Step("base", {}), Step("+x", {"lr": 0.01})), {"lr": 0.1}, r"--set lr: the step \+x changes that field"),
    ],
)
def test_a_step_that_cannot_be_is_named(chain: tuple[Step, ...], fixed: dict, message: str) -> None:
    with pytest.raises((ConfigError, SpaceError), match=message):
        resolve_chain(chain, BASE, fixed)


def test_an_unknown_step_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpaceError, match=r"space x has no step '\+fat'; its steps are base, \+deep, \+weights, \+fast"):
        steps_up_to(CHAIN, "+fat", "space x")
    with pytest.raises(SpaceError, match="it has no chain"):
        steps_up_to((), "+fat", "space x")


def test_a_step_survives_study_json() -> None:
    step = resolve_chain((Step("base", {}), Step("+x", {"anchor_scales": (1.0, 1.5)})), BASE, {})[0][1]
    assert ResolvedStep.from_dict(json.loads(json.dumps(step.to_dict()))) == step


def test_a_users_yaml_has_a_chain_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "include: retinanet\nbase: {head_depth: 0}\n"
        "chain:\n  - {name: +deep, change: {head_depth: 2}}\n  - {name: +wide, change: {head_channels: 96}}\n"
    )
    space = load_space(str(path))
    base = resolve(space, "cpu", STREET).base
    steps, _ = resolve_chain(space.profiles["cpu"].chain, base, {})
    assert [step.name for step in steps] == ["base", "+deep", "+wide"]
    assert base.with_values(steps[-1].values).head_channels == 96


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ("chain: 3", "chain must be a list"),
        ("chain: [{name: +x}]", "a step must be"),
        (
            "chain: [{name: +x, change: {head_dept: 2}}]",
            'line 2: chain.0.change.head_dept: "head_dept" is not .* Did you mean "head_depth"',
        ),
        ("chain: [{name: +x, change: {lr: 0.1}}, {name: +x, change: {lr: 0.2}}]", "steps must have names of their own"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(tmp_path: Path, chain: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"include: retinanet\n{chain}\n")
    with pytest.raises(SpaceError, match=message):
        load_space(str(path))


def test_the_base_of_a_search_may_be_a_step_of_the_chain() -> None:
    space = load_space("tdt4265_report")
    found = resolve(space, "cpu", STREET, {"lr": 0.02}, "+bias")
    assert (found.base.bias_init, found.base.head_depth, found.base.lr) == ("prior", 4, 0.02)
    assert {"focal_gamma", "weight_decay"} <= set(found.fields)
    assert not {"lr", "negatives_per_positive"} & set(found.fields)
    assert any("the base is step +bias" in note for note in found.notes)
    assert train_split_of(space, "cpu", {}, "+bias") == "train"
    assert train_split_of(space, "cpu", {}, "+extended_data") == "extended"
    assert train_split_of(space, "cpu", {"train_split": "train"}, "+extended_data") == "train"


def test_a_step_that_comes_back_to_an_earlier_detector_is_refused() -> None:
    chain = (Step("base", {}), Step("+giou", {"box_loss": "giou"}), Step("back", {"box_loss": "smooth_l1"}))
    with pytest.raises(SpaceError, match="step back comes back to the detector of step base"):
        resolve_chain(chain, BASE, {})


def test_a_step_that_names_weights_is_tried_and_its_file_pinned_by_path_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pt").write_bytes(b"weights")
    tried = []
    chain = (Step("base", {}), Step("+deep", {"head_depth": 4}), Step("+weights", {"pretrained": "file.pt"}))
    steps, _ = resolve_chain(chain, BASE, {}, tried.append)
    pinned = f"{tmp_path / 'file.pt'}#sha256={hashlib.sha256(b'weights').hexdigest()[:16]}"
    assert [config.pretrained for config in tried] == [pinned]
    assert steps[-1].values["pretrained"] == pinned

    def missing(config: DetectorConfig) -> None:
        raise ConfigError("must be a file")

    with pytest.raises(ConfigError, match=r"step \+weights: must be a file"):
        resolve_chain(chain, BASE, {}, missing)


def test_what_is_set_is_laid_over_the_step_that_a_search_starts_from() -> None:
    space = load_space("tdt4265_report")
    fixed = {"flip_probability": 0.3, "bias_init": "prior", "trunk": "resnet18"}
    base = resolve(space, "cpu", STREET, fixed, "+bias").base
    assert (base.flip_probability, base.bias_init, base.trunk, base.head_depth) == (0.3, "prior", "resnet18", 4)
    with pytest.raises(SpaceError, match=r"--from \+imagenet: \+imagenet is left out"):
        resolve(space, "cpu", STREET, {}, "+imagenet")


def test_the_chains_canvas_is_fitted_in_steps_that_six_levels_need() -> None:
    space = load_space("tdt4265_report")
    assert resolve(space, "cpu", STREET).base.image_size_px == (128, 512)
    assert resolve(space, "gpu", FULL_TURN).base.image_size_px == (128, 1024)
    assert resolve(space, "cpu", PHOTOS).base.image_size_px == (256, 256)


@pytest.mark.parametrize("facts", [STREET, PHOTOS])
def test_anchors_fitted_stands_for_sizes_and_ratios_by_kmeans(tmp_path: Path, facts: DatasetFacts) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("include: tdt4265_report\nbase: {anchors: fitted}\nfields: {lr: {log: [0.001, 0.01]}}\n")
    found = resolve(load_space(str(path)), "cpu", facts)
    assert found.base.anchor_kind == "retinanet"
    assert len(found.base.anchor_sizes) == 6
    assert found.base.anchor_scales == (1.0,)
    assert any(note.startswith("anchor_sizes") and "fitted to the training boxes" in note for note in found.notes)
