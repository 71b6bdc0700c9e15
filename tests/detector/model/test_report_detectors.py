"""The report's detectors at its full size: trainable parameters and anchors, as report.md's arithmetic has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detector.config import ConfigError, DetectorConfig
from detector.model.detector import Detector

BASELINE: dict[str, Any] = {
    "image_size_px": (128, 1024), "trunk": "report_ssd", "trunk_width": 1.0, "neck": "none", "neck_levels": (2, 3, 4, 5, 6, 7),
    "head_depth": 0, "head_shared": False, "anchor_kind": "ssd", "prior_sizes": (16, 32, 48, 64, 86, 128, (128, 400)),
    "prior_ratios": ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)), "box_variances": (0.1, 0.2), "matcher": "ssd",
    "class_scores": "softmax", "class_loss": "hard_negatives", "bias_init": "zero",
}  # fmt: skip
FPN = {
    **BASELINE, "trunk": "resnet50", "trunk_extra_channels": (512, 64), "neck": "fpn", "neck_channels": 128, "extra_levels": 0,
}  # fmt: skip
DEEP = {**FPN, "head_depth": 4, "head_channels": 128, "head_norm": "none", "class_loss": "focal", "focal_alpha": 0.99}
ANCHORS = {
    **DEEP, "prior_sizes": (6, 16, 32, 48, 64, 128, 200),
    "prior_ratios": ((2, 4), (1.3, 2), (1.3, 4), (1.5, 2, 4), (2, 3, 4), (2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "parameters", "anchor_coordinates"),
    [
        (BASELINE, 2_590_880, 261_760),
        (FPN, 38_652_256, 261_760),
        (DEEP, 45_736_288, 261_760),
        (ANCHORS, 45_886_178, 263_424),
    ],
    ids=["baseline", "fpn", "deep heads", "anchors"],
)
def test_parameters_and_anchors_are_the_reports(
    values: dict[str, Any], parameters: int, anchor_coordinates: int
) -> None:
    model = Detector(DetectorConfig(**values), 8)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    assert model.anchors_xyxy.numel() == anchor_coordinates


def test_the_baselines_maps_have_its_strides_and_channels() -> None:
    model = Detector(DetectorConfig(**BASELINE), 8).eval()
    with torch.no_grad():
        maps = model.trunk(torch.zeros(1, 3, 128, 1024))
    shapes = [(128, 32, 256), (256, 16, 128), (128, 8, 64), (128, 4, 32), (64, 2, 16), (64, 1, 8)]
    assert [tuple(x.shape[1:]) for x in maps] == shapes


def test_another_canvas_whose_levels_work_out_is_built_and_one_that_does_not_is_told_the_nearest() -> None:
    narrow = {**BASELINE, "trunk_width": 0.25}
    model = Detector(DetectorConfig(**{**narrow, "image_size_px": (256, 384)}), 3).eval()
    with torch.no_grad():
        logits, boxes = model(torch.zeros(1, 3, 256, 384))
    assert logits.shape == (1, len(model.anchors_xyxy), 4)
    assert boxes.shape == (1, len(model.anchors_xyxy), 4)
    with pytest.raises(
        ConfigError, match=r"two multiples of 128 .*; the nearest is 128 x 512, got image_size_px=\(160, 480\)"
    ):
        DetectorConfig(**{**narrow, "image_size_px": (160, 480)})
