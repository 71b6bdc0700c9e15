"""Trainer: every field reaches something (contract 1); resumed equals never stopped (contract 2); it learns."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import detector.checkpoint
import detector.config
import detector.trainer
from detector.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint
from detector.config import FIELD_NAMES, ConfigError, ConsumedConfig, DetectorConfig, active_fields
from detector.data.batches import TrainingData, load_training_data
from detector.data.cache_rule import CacheRule
from detector.data.dataset import DataSource
from detector.data.images import StreamedImages
from detector.model.norms import FrozenNorm
from detector.model.postprocess import Detections
from detector.trainer import (
    DivergedError,
    EpochResult,
    Trainer,
    detections_as_coco,
    wants_bf16,
)
from tests.detector.conftest import TINY
from tests.small_disk import mounted


def tiny(**values: Any) -> DetectorConfig:
    return DetectorConfig(**{**TINY, **values})


def build(config: DetectorConfig, data: TrainingData, seed: int = 1) -> Trainer:
    return Trainer(config, data, seed, device="cpu")


def first_batch(trainer: Trainer) -> tuple[Tensor, Any]:
    return next(iter(trainer.batches.epoch(1)))


# Contract 1: what is consumed -----------------------------------------------------------------------------------

FILE = "a file, made by the test"
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "a weight per class": {"focal_alpha": (0.2,) * 8},
    "giou": {"box_loss": "giou"},
    "multistep": {"schedule": "multistep"},
    "constant": {"schedule": "constant"},
    "no head convolutions": {"head_depth": 0, "head_norm": "group"},
    "group norms": {"norm": "group", "neck_norm": "group", "head_norm": "group"},
    "group norm in the neck alone": {"neck_norm": "group"},
    "group norm in the heads alone": {"head_norm": "group"},
    "frozen and batch norms": {"norm": "frozen", "pretrained": FILE, "neck_norm": "batch", "head_norm": "batch"},
    "a timm trunk with its weights": {"trunk": "tf_efficientnet_lite0", "pretrained": "imagenet", "frozen_stages": 1},
    "a timm trunk without weights": {"trunk": "tf_efficientnet_lite0"},
    "the report's trunk": {"trunk": "report_ssd"},
    "ema": {"ema_decay": 0.9},
    "no extra levels": {"extra_levels": 0},
    "extra levels from the trunk": {"extra_levels": 2, "extra_levels_from": "trunk"},
    "crop": {"crop_probability": 0.5},
    "imagenet normalization": {"normalization": "imagenet", "loss_normalization": "image"},
    "bf16, not channels last": {"precision": "bf16", "channels_last": False},
    "own heads": {"head_shared": False, "steps_per_epoch": 0, "clip_norm": 0.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_parts_consume_is_what_the_config_calls_active(
    variant: str, tiny_data: TrainingData, weight_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[set[str]] = []

    class Recording(ConsumedConfig):
        def check(self) -> None:
            checked.append(set(self.consumed))
            super().check()

    monkeypatch.setattr(detector.trainer, "ConsumedConfig", Recording)
    config = tiny(**with_file(VARIANTS[variant], weight_file))
    build(config, tiny_data)
    assert checked == [set(active_fields(config))]
    assert set(config.active_dict()) == checked[0]


def test_a_field_that_is_read_although_it_sleeps_fails_construction(
    tiny_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(detector.config.ACTIVE_WHEN, "nms_iou", lambda c: False)
    with pytest.raises(ConfigError, match=r"inactive: \['nms_iou'\]"):
        build(tiny(), tiny_data)


def test_an_active_field_that_nobody_reads_fails_construction(
    tiny_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        def __init__(self, config: DetectorConfig, steps_per_epoch: int) -> None:
            _ = (config.schedule, config.warmup_epochs, config.min_warmup_steps, config.lr)  # and not schedule_epochs

    monkeypatch.setattr(detector.trainer, "LearningRate", Forgetful)
    with pytest.raises(ConfigError, match=r"consumed by nobody: \['schedule_epochs'\]"):
        build(tiny(), tiny_data)


# What a field may change; each probe returns tensors or plain values.


def weights(trainer: Trainer) -> Any:
    return dict(trainer.model.state_dict())


def anchors(trainer: Trainer) -> Any:
    return trainer.model.anchors_xyxy


def batch(trainer: Trainer) -> Any:
    images, targets = first_batch(trainer)
    return [images, targets.boxes_xyxy, targets.labels]


def loss(trainer: Trainer) -> Any:
    return trainer.train_batch(*first_batch(trainer), lr=0.0)


def learned(trainer: Trainer) -> Any:
    for images, targets in trainer.batches.epoch(1):
        trainer.train_batch(images, targets, lr=0.01)
    return dict(trainer.model.named_parameters())


def averaged(trainer: Trainer) -> Any:
    learned(trainer)
    return dict(trainer.evaluated_model().named_parameters())


def rates(trainer: Trainer) -> Any:
    return [trainer.learning_rate.at(step) for step in range(12)]


def number_of_batches(trainer: Trainer) -> Any:
    return sum(1 for _ in trainer.batches.epoch(1))


def image_numbers(trainer: Trainer) -> Any:
    return trainer.batches._order(torch.Generator().manual_seed(4)).tolist()


def memory_format(trainer: Trainer) -> Any:
    return trainer.model.trunk.layer1[0].conv1.weight.stride()


def found(trainer: Trainer) -> Any:
    generator = torch.Generator().manual_seed(9)
    count = len(trainer.model.anchors_xyxy)
    logits = torch.randn(2, count, 8, generator=generator) * 3 - 6
    detections = trainer.model.postprocess(logits, torch.zeros(2, count, 4), trainer.model.anchors_xyxy)
    return [detections.boxes_xyxy, detections.scores, detections.labels]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


PRIORS: dict[str, Any] = {"prior_sizes": (8, 16, 32, 64), "prior_ratios": ((2,), (2,), (2,))}
# field: (probe, its other value, what both configs share)
EFFECTS: dict[str, tuple[Callable[[Trainer], Any], Any, dict[str, Any]]] = {
    "train_split": (batch, "extended", {}),
    "repeat_threshold": (image_numbers, 1.0, {"steps_per_epoch": 9}),
    "image_size_px": (anchors, (64, 128), {}),
    "normalization": (batch, "imagenet", {}),
    "trunk": (weights, "resnet34", {}),
    "trunk_width": (weights, 0.5, {}),
    "pretrained": (weights, FILE, {}),
    "trunk_lr_factor": (learned, 0.1, {"pretrained": FILE}),
    "trunk_extra_channels": (weights, (128,), {"neck_levels": (3, 4, 5, 6), "trunk_extra_channels": (64,)}),
    "frozen_stages": (learned, 2, {"pretrained": FILE}),
    "norm": (loss, "frozen", {"pretrained": FILE}),
    "group_norm_channels": (loss, 4, {"norm": "group"}),
    "neck": (weights, "bifpn", {}),
    "neck_repeats": (weights, 3, {"neck": "bifpn"}),
    "neck_separable": (weights, False, {"neck": "bifpn"}),
    "neck_levels": (anchors, (2, 3), {}),
    "neck_channels": (weights, 24, {}),
    "neck_top_down": (loss, False, {}),
    "neck_norm": (loss, "batch", {}),
    "extra_levels": (anchors, 2, {}),
    "extra_levels_from": (weights, "trunk", {}),
    "head_depth": (weights, 2, {}),
    "head_channels": (weights, 24, {}),
    "head_shared": (weights, False, {}),
    "head_norm": (loss, "batch", {}),
    "anchor_kind": (anchors, "ssd", PRIORS),
    "prior_sizes": (anchors, (10, 20, 40, 80), {**PRIORS, "anchor_kind": "ssd"}),
    "prior_ratios": (anchors, ((3,), (3,), (3,)), {**PRIORS, "anchor_kind": "ssd"}),
    "box_variances": (loss, (0.1, 0.2), {}),
    "anchor_sizes": (anchors, 10.0, {}),
    "anchor_scales": (anchors, (1.0, 1.4), {}),
    "anchor_ratios": (anchors, (0.5, 1.0, 3.0), {}),
    "anchor_offset": (anchors, 0.0, {}),
    "anchor_rounding": (anchors, True, {}),
    "matcher": (loss, "atss", {}),
    "atss_candidates": (loss, 1, {"matcher": "atss"}),
    "match_iou_high": (loss, 0.9, {}),
    "match_iou_low": (loss, 0.1, {}),
    "match_force_best": (loss, False, {}),
    "class_scores": (weights, "softmax", {}),
    "class_loss": (loss, "hard_negatives", {"class_scores": "softmax"}),
    "negatives_per_positive": (loss, 1.0, {"class_scores": "softmax", "class_loss": "hard_negatives"}),
    "bias_init": (weights, "zero", {}),
    "focal_gamma": (loss, 1.0, {}),
    "focal_alpha": (loss, 0.5, {}),
    "prior_probability": (weights, 0.1, {}),
    "box_loss": (loss, "giou", {}),
    "smooth_l1_beta": (loss, 0.5, {}),
    "box_loss_weight": (loss, 2.0, {}),
    "loss_normalization": (loss, "image", {}),
    "optimizer": (learned, "sgd", {}),
    "lr": (rates, 1e-2, {}),
    "weight_decay": (learned, 0.1, {}),
    "sgd_momentum": (learned, 0.5, {"optimizer": "sgd"}),
    "adam_beta2": (learned, 0.9, {}),
    "clip_norm": (learned, 1e-3, {"optimizer": "sgd"}),
    "batch_size": (batch, 3, {}),
    "steps_per_epoch": (number_of_batches, 5, {}),
    "min_steps_per_epoch": (number_of_batches, 5, {"steps_per_epoch": 0}),
    "min_warmup_steps": (rates, 6, {}),
    "schedule": (rates, "constant", {}),
    "schedule_epochs": (rates, 5, {}),
    "warmup_epochs": (rates, 2.0, {}),
    "lr_milestones": (rates, (0.3, 0.9), {"schedule": "multistep"}),
    "lr_decay": (rates, 0.5, {"schedule": "multistep"}),
    "final_decay_epochs": (rates, 1, {"schedule": "constant"}),
    "precision": (loss, "bf16", {}),
    "channels_last": (memory_format, False, {}),
    "ema_decay": (averaged, 0.9, {}),
    "ema_warmup_steps": (averaged, 5, {"ema_decay": 0.9}),
    "flip_probability": (batch, 0.0, {}),
    "crop_probability": (batch, 1.0, {"crop_min_iou": 0.0}),
    "crop_min_iou": (batch, 0.9, {"crop_min_iou": 0.0, "crop_probability": 1.0}),
    "zoom_max": (batch, 0.5, {}),
    "translate_max": (batch, 0.3, {}),
    "jitter_strength": (batch, 0.3, {}),
    "roll_probability": (batch, 1.0, {}),
    "mosaic_probability": (batch, 1.0, {}),
    "copy_paste_probability": (batch, 1.0, {}),
    "score_threshold": (found, 0.99, {}),
    "nms_iou": (found, 0.1, {}),
    "pre_nms_top_k": (found, 50, {}),
    "max_detections": (found, 10, {}),
}


@pytest.fixture(scope="module")
def weight_file(tiny_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trunk's weights of another seed."""
    file = tmp_path_factory.mktemp("weights") / "trunk.pt"
    torch.save(build(tiny(), tiny_data, seed=99).model.trunk.state_dict(), file)
    return str(file)


def with_file(values: dict[str, Any], file: str) -> dict[str, Any]:
    """Values whose weight file is the one that the test made."""
    return {name: file if value == FILE else value for name, value in values.items()}


def test_every_field_of_the_config_has_a_case() -> None:
    assert set(EFFECTS) == set(FIELD_NAMES)


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_changing_a_field_changes_what_it_is_there_for(
    name: str, tiny_data: TrainingData, street: Path, weight_file: str
) -> None:
    probe, other, shared = EFFECTS[name]
    config = tiny(**with_file(shared, weight_file))
    changed = config.with_values(with_file({name: other}, weight_file))
    assert {n for n in FIELD_NAMES if getattr(config, n) != getattr(changed, n)} == {name}
    assert changed.hash() != config.hash()
    data = other_data = tiny_data
    if name == "image_size_px":
        other_data = load_training_data(street, other)
    if name == "train_split":
        other_data = load_training_data(street, config.image_size_px, train_split=other)
    if name == "roll_probability":  # as if the half turn were a full one
        data = other_data = replace(tiny_data, dataset=replace(tiny_data.dataset, full_turn=True))
    before = probe(build(config, data))
    assert same(before, probe(build(config, data))), "the probe must depend on the config alone"
    assert not same(before, probe(build(changed, other_data)))


# Learning ---------------------------------------------------------------------------------------------------------


def test_it_overfits_one_batch(tiny_data: TrainingData) -> None:
    trainer = build(tiny(flip_probability=0.0), tiny_data)
    images, targets = first_batch(trainer)
    trainer.model.train()
    losses = [trainer.train_batch(images, targets, lr=3e-3).sum().item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_an_epoch_reports_its_mean_losses_its_rate_and_the_coco_numbers(tiny_data: TrainingData) -> None:
    trainer, twin = build(tiny(), tiny_data), build(tiny(), tiny_data)
    result = trainer.step()
    twin.model.train()
    rows = [
        twin.train_batch(images, targets, twin.learning_rate.at(n)).tolist()
        for n, (images, targets) in enumerate(twin.batches.epoch(1))
    ]
    assert result.classification_loss == pytest.approx(sum(row[0] for row in rows) / 3)
    assert result.box_loss == pytest.approx(sum(row[1] for row in rows) / 3)
    assert result.train_loss == pytest.approx(result.classification_loss + result.box_loss)
    assert result.lr == trainer.learning_rate.at(2)
    assert result.epoch == trainer.epoch == 1
    assert len(result.metrics) == 12
    assert set(result.per_class) == set(tiny_data.dataset.class_names)
    assert EpochResult(**result.to_dict()) == result


def test_the_rate_follows_the_schedule_across_epochs(tiny_data: TrainingData) -> None:
    trainer = build(
        tiny(schedule="multistep", lr_milestones=(0.34, 0.67), warmup_epochs=0.0), tiny_data
    )  # steps 3 and 6 of 9
    assert [trainer.step().lr for _ in range(3)] == pytest.approx([1e-3, 1e-4, 1e-5])


def test_evaluating_before_any_learning_is_map_0(tiny_data: TrainingData) -> None:
    trainer = build(tiny(score_threshold=0.5), tiny_data)
    metrics, detections = trainer.evaluate()
    assert detections == []
    assert metrics.values["mAP"] == 0.0
    assert metrics.values["AP50"] == 0.0


def test_evaluating_random_weights_with_every_score_allowed_is_no_error(tiny_data: TrainingData) -> None:
    trainer = build(tiny(score_threshold=0.0, max_detections=5), tiny_data)
    metrics, detections = trainer.evaluate()
    assert {row["image_id"] for row in detections} == set(range(1, 7))
    assert len(detections) == 6 * 5
    assert 0.0 <= metrics.values["mAP"] < 0.1


def test_evaluating_leaves_the_weights_and_statistics_alone(tiny_data: TrainingData) -> None:
    trainer = build(tiny(), tiny_data)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.evaluate()
    assert same(before, dict(trainer.model.state_dict()))


def test_a_split_that_is_not_there_is_our_own_bug(tiny_data: TrainingData) -> None:
    with pytest.raises(AssertionError, match="no test split"):
        build(tiny(), tiny_data).evaluate("test")


def test_ema_evaluates_the_average_and_trains_the_rest(tiny_data: TrainingData) -> None:
    trainer = build(tiny(ema_decay=0.5), tiny_data)
    images, targets = first_batch(trainer)
    bias = "head.classification.0.output.bias"
    before = trainer.model.state_dict()[bias].clone()
    assert torch.equal(trainer.evaluated_model().state_dict()[bias], before)  # the average starts as a copy
    trainer.train_batch(images, targets, lr=0.01)
    after = trainer.model.state_dict()[bias]
    assert not torch.equal(before, after)
    torch.testing.assert_close(trainer.evaluated_model().state_dict()[bias], 0.5 * before + 0.5 * after)


def test_without_ema_the_model_itself_is_evaluated(tiny_data: TrainingData) -> None:
    trainer = build(tiny(), tiny_data)
    assert trainer.evaluated_model() is trainer.model


# Seeds and global state -------------------------------------------------------------------------------------------


def test_a_seed_decides_weights_and_batches(tiny_data: TrainingData) -> None:
    one, again, two = (build(tiny(), tiny_data, seed) for seed in (1, 1, 2))
    assert same(weights(one), weights(again))
    assert same(batch(one), batch(again))
    assert not same(weights(one), weights(two))
    assert not same(batch(one), batch(two))


def test_the_global_random_states_are_neither_read_nor_moved(tiny_data: TrainingData) -> None:
    config = tiny(crop_probability=1.0, zoom_max=0.5, jitter_strength=0.3, ema_decay=0.5)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index,union-attr]
    trainer = build(config, tiny_data)
    result = trainer.step()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]
    assert random.getstate() == states[2]
    torch.manual_seed(6)
    np.random.seed(6)
    random.seed(6)
    assert build(config, tiny_data).step().train_loss == result.train_loss


@pytest.mark.parametrize("mode", ["encoded", "off"])
def test_images_decoded_as_they_are_needed_train_the_same_to_the_last_bit(
    street: Path, tiny_data: TrainingData, mode: str
) -> None:
    source = DataSource.from_folder(street)
    source.cache = CacheRule(mode)
    config = tiny(crop_probability=0.5, zoom_max=0.2)
    streamed = load_training_data(source, TINY["image_size_px"])
    assert isinstance(streamed.train.images, StreamedImages)
    plain, other = build(config, tiny_data), build(config, streamed)
    for _ in range(2):
        one, two = plain.step(), other.step()
        assert (one.train_loss, one.metrics, one.per_class) == (two.train_loss, two.metrics, two.per_class)
    assert plain.detections == other.detections
    for mine, theirs in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_data_must_lie_on_the_configs_canvas(tiny_data: TrainingData) -> None:
    with pytest.raises(ConfigError, match=r"decoded onto \(64, 256\), the config asks for \(128, 512\)"):
        build(tiny(image_size_px=(128, 512)), tiny_data)


def test_a_roll_needs_a_full_turn(tiny_data: TrainingData) -> None:
    with pytest.raises(
        ConfigError, match=r"roll_probability=0\.5 needs images that are a full turn, and data does not"
    ):
        build(tiny(roll_probability=0.5), tiny_data)


# Optimizer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_weight_decay_acts_on_no_norm_and_no_bias(
    optimizer: str, norm: str, tiny_data: TrainingData, weight_file: str
) -> None:
    config = tiny(
        optimizer=optimizer,
        norm="batch",
        neck_norm=norm,
        head_norm=norm,
        weight_decay=0.3,
        pretrained=weight_file,
        frozen_stages=1,
    )
    trainer = build(config, tiny_data)
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    seen = 0
    for module in trainer.model.modules():
        is_norm = isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, FrozenNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                seen += 1
                assert decays[id(parameter)] == (0.0 if is_norm or name == "bias" else 0.3)
            else:
                assert id(parameter) not in decays
    assert seen == len(decays) == sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert {0.0, 0.3} == set(decays.values())


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_fused_step_is_the_plain_one(optimizer: str, channels_last: bool, tiny_data: TrainingData) -> None:
    """On a CPU it goes through memory as it lies: a gradient in another layout than its weight would silently go astray."""
    config = tiny(optimizer=optimizer, channels_last=channels_last, norm="group", precision="fp32")
    fused, plain = build(config, tiny_data), build(config, tiny_data)
    for group in plain.optimizer.param_groups:
        assert group["fused"]
        group["fused"] = False
    images, targets = first_batch(fused)
    for trainer in (fused, plain):
        trainer.train_batch(images.clone(), targets, 1e-2)
    for ours, theirs in zip(fused.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_to_the_norm(tiny_data: TrainingData) -> None:
    # Plain SGD without momentum or decay moves by lr x gradient, whose norm is at most clip_norm.
    config = tiny(optimizer="sgd", sgd_momentum=0.0, weight_decay=0.0, clip_norm=0.01)
    trainer = build(config, tiny_data)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train_batch(*first_batch(trainer), lr=1.0)
    moved = [a.detach() - b for a, b in zip(trainer.model.parameters(), before, strict=True)]
    assert torch.stack([step.norm() for step in moved]).norm().item() == pytest.approx(0.01, rel=1e-2)


# Divergence -------------------------------------------------------------------------------------------------------


def test_poisoned_weights_raise_diverged_with_the_step(tiny_data: TrainingData) -> None:
    trainer = build(tiny(), tiny_data)
    trainer.step()
    with torch.no_grad():
        trainer.model.head.regression[0].output.bias.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"loss became nan at step 4 \(epoch 2\)") as caught:
        trainer.step()
    assert (caught.value.step, caught.value.epoch) == (4, 2)
    assert trainer.epoch == 1


def test_an_absurd_rate_diverges(tiny_data: TrainingData) -> None:
    config = tiny(
        optimizer="sgd",
        lr=100.0,
        clip_norm=0.0,
        warmup_epochs=0.0,
        schedule="constant",
        final_decay_epochs=0,
        steps_per_epoch=12,
    )
    trainer = build(config, tiny_data)
    with pytest.raises(DivergedError) as caught:
        trainer.step()
    assert 1 < caught.value.step <= 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named_even_if_later_ones_are_fine(
    value: float, tiny_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(tiny(), tiny_data)
    rows: Iterator[Tensor] = iter([torch.tensor([1.0, 1.0]), torch.tensor([1.0, value]), torch.tensor([1.0, 1.0])])
    monkeypatch.setattr(trainer, "train_batch", lambda images, targets, lr, step: next(rows))
    with pytest.raises(DivergedError, match=f"loss became {value} at step 2"):
        trainer.step()


# Checkpoints ------------------------------------------------------------------------------------------------------


def without_times(result: EpochResult) -> dict[str, Any]:
    return {key: value for key, value in result.to_dict().items() if not key.endswith("seconds")}


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "adamw", "ema_decay": 0.7, "zoom_max": 0.3, "jitter_strength": 0.2},
        {"optimizer": "sgd", "head_norm": "batch", "crop_probability": 0.5, "crop_min_iou": 0.0},
        {"precision": "bf16"},
    ],
    ids=["adamw and ema", "sgd and batch norms", "bf16"],
)
def test_resumed_equals_never_stopped_bit_for_bit(
    values: dict[str, Any], tiny_data: TrainingData, tmp_path: Path
) -> None:
    config = tiny(score_threshold=0.0, max_detections=20, **values)
    straight = build(config, tiny_data)
    expected = [straight.step(), straight.step(), straight.step()]
    stopped = build(config, tiny_data)
    stopped.step()
    save_checkpoint(stopped.state_dict(), tmp_path / "last.pt")
    del stopped
    resumed = build(config, tiny_data)
    state = load_checkpoint(tmp_path / "last.pt")
    assert state is not None
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    resumed.step()
    resumed.step()
    assert [without_times(row) for row in resumed.history] == [without_times(row) for row in expected]
    assert resumed.detections == straight.detections
    assert same(dict(resumed.model.state_dict()), dict(straight.model.state_dict()))
    if config.ema_decay:
        assert same(dict(resumed.ema.module.state_dict()), dict(straight.ema.module.state_dict()))  # type: ignore[union-attr]


def test_a_checkpoint_of_another_seed_config_or_data_is_refused(tiny_data: TrainingData) -> None:
    state = build(tiny(), tiny_data, seed=1).state_dict()
    with pytest.raises(ConfigError, match=r"goes on with its own seed; it has 1, this is 2"):
        build(tiny(), tiny_data, seed=2).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"goes on with its own config"):
        build(tiny(focal_gamma=1.0), tiny_data).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"goes on with its own fingerprint; it has 'other'"):
        build(tiny(), tiny_data).load_state_dict({**state, "fingerprint": "other"})
    build(tiny(), tiny_data).load_state_dict(state)


@pytest.mark.parametrize("normalization", ["batch", "image"])
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_same_losses_and_gradients(
    tiny_data: TrainingData, size: int, normalization: str
) -> None:
    config = tiny(norm="group", head_norm="group", batch_size=4, clip_norm=0.0, loss_normalization=normalization)
    whole = Trainer(config, tiny_data, 1, "cpu")
    parts = Trainer(config, tiny_data, 1, "cpu", micro_batch=size)
    images, targets = first_batch(whole)
    expected, found = whole._backward(images, targets), parts._backward(images, targets)
    assert torch.allclose(found, expected, rtol=1e-5)
    pairs = list(zip(whole.model.parameters(), parts.model.parameters(), strict=True))
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6) for a, b in pairs if a.grad is not None)
    assert any(a.grad is not None and bool(a.grad.abs().sum() > 0) for a, _ in pairs)


def test_batch_norm_refuses_micro_batches(tiny_data: TrainingData) -> None:
    with pytest.raises(ConfigError, match="micro-batches need norm group or frozen"):
        Trainer(tiny(norm="batch"), tiny_data, 1, "cpu", micro_batch=1)


def test_a_longer_schedule_goes_on_only_where_it_is_asked_for(tiny_data: TrainingData) -> None:
    short = tiny(schedule="constant", schedule_epochs=4, final_decay_epochs=1)
    first = build(short, tiny_data)
    first.step()
    state = first.state_dict()
    longer = short.with_values({"schedule_epochs": 9})
    with pytest.raises(ConfigError, match="its own config"):
        build(longer, tiny_data).load_state_dict(state)
    extended, straight = build(longer, tiny_data), build(longer, tiny_data)
    extended.load_state_dict(state, longer_schedule=True)
    straight.step()
    assert without_times(extended.step()) == without_times(straight.step())


def marked(number: int) -> dict[str, Any]:
    return {"format": detector.checkpoint.CHECKPOINT_FORMAT, "number": number, "tensor": torch.arange(5000)}


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "another format"])
def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(marked(1), path)
    save_checkpoint(marked(2), path)
    assert load_checkpoint(path)["number"] == 2  # type: ignore[index]
    whole = path.read_bytes()
    if damage == "another format":
        torch.save({**marked(2), "format": -1}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "foreign": b"hello"}[damage])
    assert load_checkpoint(path)["number"] == 1  # type: ignore[index]


def test_a_full_disk_is_told_as_one_and_nothing_half_written_stays(tmp_path: Path) -> None:
    with mounted(tmp_path, "200k"):
        with pytest.raises(OSError, match="No space left on device"):  # of torch.save alone it is a RuntimeError
            save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / "checkpoint.pt")
        assert not list(tmp_path.iterdir())


def test_a_checkpoint_lost_between_the_two_renames_falls_back(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(marked(1), path)
    path.replace(previous_checkpoint(path))  # a crash right here
    assert load_checkpoint(path)["number"] == 1  # type: ignore[index]


def test_no_readable_checkpoint_is_none(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    assert load_checkpoint(path) is None
    path.write_bytes(b"torn")
    previous_checkpoint(path).write_bytes(b"torn too")
    assert load_checkpoint(path) is None


def test_the_previous_checkpoint_is_kept_only_if_asked_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for number in (1, 2):
        save_checkpoint(marked(number), path, keep_previous=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]
    save_checkpoint(marked(3), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.previous.pt", "last.pt"]
    assert torch.load(previous_checkpoint(path), weights_only=True)["number"] == 2


def test_a_checkpoint_is_a_detectors_weights_for_another_training(tiny_data: TrainingData, tmp_path: Path) -> None:
    source = build(tiny(), tiny_data, seed=7)
    save_checkpoint(source.state_dict(), tmp_path / "last.pt")
    started = build(tiny(pretrained=str(tmp_path / "last.pt")), tiny_data, seed=8)
    assert same(weights(started), weights(source))


# Precision and pixels ---------------------------------------------------------------------------------------------


def test_bf16_layers_give_fp32_logits_boxes_and_losses(tiny_data: TrainingData) -> None:
    trainer = build(tiny(precision="bf16"), tiny_data)
    images, targets = first_batch(trainer)
    inner: list[torch.dtype] = []
    trainer.model.trunk.layer1.register_forward_hook(lambda module, given, out: inner.append(out.dtype))
    with trainer._autocast():
        logits, regression = trainer.model(images)
    assert inner == [torch.bfloat16]
    assert logits.dtype == regression.dtype == torch.float32
    found = trainer.model.postprocess(logits + 3, regression, trainer.model.anchors_xyxy)
    assert found.boxes_xyxy.dtype == found.scores.dtype == torch.float32
    assert trainer.train_batch(images, targets, lr=1e-3).dtype == torch.float32
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_auto_precision_is_bf16_where_the_processor_multiplies_it(
    avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    assert wants_bf16("auto", cpu) is (avx512 or amx)
    assert wants_bf16("bf16", cpu) is True
    assert wants_bf16("fp32", cpu) is False


def test_detections_go_back_to_the_images_own_pixels(tiny_data: TrainingData) -> None:
    # The 128 x 512 images lie on a 64 x 256 canvas: everything doubles, and is cut at 512 x 128.
    found = Detections(
        image_index=torch.tensor([0, 1]),
        boxes_xyxy=torch.tensor([[10.0, 20.0, 30.0, 25.0], [250.0, 60.0, 258.0, 66.0]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([0, 7]),
    )
    rows = detections_as_coco(found, tiny_data.val, start=4)
    assert rows == [
        {"image_id": 5, "category_id": 1, "bbox": [20.0, 40.0, 40.0, 10.0], "score": 0.75},
        {"image_id": 6, "category_id": 8, "bbox": [500.0, 120.0, 12.0, 8.0], "score": 0.5},
    ]


def test_detections_that_are_the_annotations_score_map_1(
    tiny_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(tiny(), tiny_data)

    def annotated(logits: Tensor, box_regression: Tensor, anchors_xyxy: Tensor) -> Detections:
        image, row = np.nonzero(tiny_data.val.labels >= 0)
        return Detections(
            torch.from_numpy(image),
            torch.from_numpy(tiny_data.val.boxes_xyxy[image, row]),
            torch.ones(len(image)),
            torch.from_numpy(tiny_data.val.labels[image, row]),
        )

    monkeypatch.setattr(trainer.model, "postprocess", annotated)
    assert len(tiny_data.val) <= trainer.eval_batch_size  # one batch holds the whole split
    metrics, _ = trainer.evaluate()
    assert metrics.values["mAP"] == pytest.approx(1.0)
