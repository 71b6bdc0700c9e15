"""The report's chain: its parameters and anchors exactly, step by step; and what each step changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detector.config import ConfigError, DetectorConfig
from detector.model.detector import Detector, Targets
from spaces.chain import ResolvedStep, resolve_chain
from spaces.loading import load_space
from spaces.space import resolve
from tests.spaces.test_space import FULL_TURN, STREET

CLASSES = 8
# report.md: trainable parameters without the unused classifier and the anchors' coordinates, which are the other figure.
EXACT = {
    "baseline": (2_590_880, 261_760),
    "+flip": (2_590_880, 261_760),
    "+fpn": (38_652_256, 261_760),
    "+focal": (38_652_256, 261_760),
    "+deep_heads": (45_736_288, 261_760),
    "+bias": (45_736_288, 261_760),
    "+anchors": (45_886_178, 263_424),
    "+adam": (45_886_178, 263_424),
    "+extended_data": (45_886_178, 263_424),
}


def chain_of(profile: str) -> tuple[DetectorConfig, dict[str, ResolvedStep]]:
    """The base and its steps; no weights are fetched."""
    space = load_space("tdt4265_report")
    base = resolve(space, profile, STREET if profile == "cpu" else FULL_TURN).base

    def no_network(config: DetectorConfig) -> None:
        if config.pretrained != "none":
            raise ConfigError("no network in tests")

    steps, _ = resolve_chain(space.profiles[profile].chain, base, {}, no_network)
    return base, {step.name: step for step in steps}


@pytest.mark.parametrize("name", EXACT)
def test_parameters_and_anchors_are_the_reports(name: str) -> None:
    base, steps = chain_of("gpu")
    model = Detector(base.with_values(steps[name].values), CLASSES)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad), model.anchors_xyxy.numel()
    assert found == EXACT[name]
    assert steps[name].reported.parameters in (None, EXACT[name][0])


def test_the_steps_part_what_the_report_did_at_once() -> None:
    base, steps = chain_of("gpu")
    assert list(steps) == [
        "baseline", "+flip", "+resnet50", "+fpn", "+focal", "+deep_heads", "+bias", "+anchors", "+adam", "+6000_iterations",
        "+extended_data",
    ]  # fmt: skip
    assert (base.batch_size, base.steps_per_epoch, base.schedule_epochs) == (32, 50, 20)
    assert set(steps["+anchors"].changes) == {"prior_sizes", "prior_ratios"}
    assert set(steps["+adam"].changes) == {"optimizer", "lr"}
    assert set(steps["+extended_data"].changes) == {"train_split"}
    names = [step.name for step in load_space("tdt4265_report").profiles["gpu"].chain]
    assert names.index("+imagenet") == names.index("+resnet50") + 1
    quoted = {name: step.reported.mAP for name, step in steps.items() if step.reported.mAP is not None}
    assert quoted == {
        "baseline": 0.042, "+flip": 0.040, "+fpn": 0.056, "+focal": 0.059, "+deep_heads": 0.047, "+bias": 0.056, "+adam": 0.072,
        "+extended_data": 0.164,
    }  # fmt: skip


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_longer_step_is_six_times_its_parent_with_as_many_warm_up_steps(profile: str) -> None:
    base, steps = chain_of(profile)
    longer = base.with_values(steps["+6000_iterations"].values)
    assert longer.steps_per_epoch == 6 * base.steps_per_epoch
    assert longer.schedule_epochs == base.schedule_epochs
    assert longer.warmup_epochs * longer.steps_per_epoch == pytest.approx(base.warmup_epochs * base.steps_per_epoch)


def test_the_cpu_chain_has_the_same_steps_in_small() -> None:
    small, small_steps = chain_of("cpu")
    _, steps = chain_of("gpu")
    assert list(small_steps) == list(steps)
    assert small.image_size_px == (128, 512)
    for name, step in small_steps.items():
        mine, theirs = step.changes, steps[name].changes
        assert set(mine) == set(theirs)
        differing = {field for field in mine if mine[field] != theirs[field]}
        assert differing <= {"neck_channels", "head_channels", "steps_per_epoch", "warmup_epochs"}


def test_the_bias_step_starts_background_alone_at_its_probability() -> None:
    base, steps = chain_of("cpu")
    before, after = (Detector(base.with_values(steps[name].values), CLASSES) for name in ("+deep_heads", "+bias"))
    for old, new in zip(before.head.classification, after.head.classification, strict=True):
        assert old.output.bias.abs().max() == 0
        per_anchor = new.output.bias.reshape(-1, CLASSES + 1)
        assert per_anchor[:, :-1].abs().max() == 0
        # log(p (K - 1) / (1 - p)) with p = 0.99 and K = 9
        assert per_anchor[:, -1].tolist() == pytest.approx([6.674561] * len(per_anchor), abs=1e-5)
        assert torch.softmax(per_anchor[0], dim=0)[-1].item() == pytest.approx(0.99)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["+resnet50", *(n for n in EXACT if n != "+extended_data")])
def test_at_full_size_a_training_step_of_two_images_runs(name: str) -> None:
    base, steps = chain_of("gpu")
    config = base.with_values({**steps[name].values, "precision": "fp32"})
    torch.manual_seed(0)
    model = Detector(config, CLASSES).train()
    boxes: Any = torch.tensor(
        [[[100.0, 40.0, 140.0, 80.0], [500.0, 60.0, 512.0, 90.0]], [[10.0, 20.0, 200.0, 120.0], [0.0] * 4]]
    )
    labels = torch.tensor([[0, 6], [2, -1]])
    classification, box = model.losses(torch.randn(2, 3, 128, 1024), Targets(boxes, labels))
    (classification + box).backward()
    assert torch.isfinite(classification)
    assert torch.isfinite(box)
    assert box > 0
    norms = [p.grad.abs().sum() for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert len(norms) == sum(p.requires_grad for p in model.parameters())
    assert all(torch.isfinite(norm) for norm in norms)
