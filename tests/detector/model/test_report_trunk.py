"""The report's baseline trunk: strides and channels of its maps, and other canvases (spaces/test_tdt4265_report.py counts)."""

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
