"""Anchors to boxes: against torchvision's Matcher, and the edges by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detector.config import DetectorConfig
from detector.model.anchors import make_anchors_xyxy
from detector.model.matching import BACKGROUND, IGNORED, ThresholdMatcher
from tests.detector.model.test_box_coding import random_boxes

CONFIG = DetectorConfig(image_size_px=(128, 512), neck_levels=(3, 4), extra_levels=1)


def matcher(**values: object) -> ThresholdMatcher:
    return ThresholdMatcher(CONFIG.with_values(values))


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(boxes (B, M, 4), valid (B, M)) of images with different numbers of boxes."""
    most = max(len(row) for row in rows)
    boxes = torch.zeros(len(rows), most, 4)
    valid = torch.zeros(len(rows), most, dtype=torch.bool)
    for n, row in enumerate(rows):
        boxes[n, : len(row)], valid[n, : len(row)] = row, True
    return boxes, valid


@pytest.mark.parametrize("force_best", [True, False])
@pytest.mark.parametrize(("high", "low"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
def test_equal_to_torchvisions_matcher(force_best: bool, high: float, low: float) -> None:
    anchors = make_anchors_xyxy(CONFIG)
    images = [random_boxes(count, seed=20 + count) for count in (1, 7, 0, 12)]
    boxes, valid = padded(images)
    ours = matcher(match_iou_high=high, match_iou_low=low, match_force_best=force_best)(boxes, valid, anchors)
    reference = Matcher(high, low, allow_low_quality_matches=force_best)
    seen: set[int] = set()
    for n, image in enumerate(images):
        background = torch.full((len(anchors),), BACKGROUND)  # what RetinaNet.compute_loss says without boxes
        expected = reference(box_iou(image, anchors)) if len(image) else background
        assert torch.equal(ours[n], expected)
        seen |= set(expected.clamp(max=0).tolist())
    assert seen == ({BACKGROUND, IGNORED, 0} if high > low else {BACKGROUND, 0})


def test_thresholds_by_hand() -> None:
    # Box 10 x 10; anchors share 10 x h of it: IoU h / 10 = 0.5, 0.4, 0.49, 0.39.
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, h] for h in (5.0, 4.0, 4.9, 3.9)])
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert matcher(match_force_best=False)(box, valid, anchors).tolist() == [[0, IGNORED, IGNORED, BACKGROUND]]


def test_a_box_below_the_threshold_gets_its_best_anchors_by_force_also_when_they_tie() -> None:
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 2.0], [0.0, 8.0, 10.0, 10.0], [0.0, 0.0, 10.0, 1.0]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    assert matcher()(box, valid, anchors).tolist() == [[0, 0, BACKGROUND]]
    assert matcher(match_force_best=False)(box, valid, anchors).tolist() == [[BACKGROUND] * 3]


def test_a_forced_anchor_keeps_its_own_best_box() -> None:
    # The only anchor is nearest to box 1 and also the best that box 0 has: it stays with box 1.
    boxes = torch.tensor([[[0.0, 0.0, 30.0, 30.0], [0.0, 0.0, 10.0, 10.0]]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert matcher()(boxes, torch.ones(1, 2, dtype=torch.bool), anchors).tolist() == [[1]]


def test_a_box_that_no_anchor_touches_forces_nothing() -> None:
    box = torch.tensor([[[400.0, 0.0, 410.0, 10.0]]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    assert matcher()(box, torch.ones(1, 1, dtype=torch.bool), anchors).tolist() == [[BACKGROUND] * 2]


def test_a_batch_without_any_box_is_background() -> None:
    anchors = make_anchors_xyxy(CONFIG)
    matched = matcher()(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool), anchors)
    assert matched.shape == (3, len(anchors))
    assert matched.dtype == torch.int64
    assert (matched == BACKGROUND).all()


def test_padding_matches_nothing_wherever_it_lies() -> None:
    anchors = make_anchors_xyxy(CONFIG)
    boxes = random_boxes(4, seed=30)[None]
    alone = matcher()(boxes[:, :2], torch.ones(1, 2, dtype=torch.bool), anchors)
    # The two further rows hold real coordinates, but count as padding.
    with_padding = matcher()(boxes, torch.tensor([[True, True, False, False]]), anchors)
    assert torch.equal(alone, with_padding)


@pytest.mark.parametrize("low", [0.0, 0.4])
def test_an_image_of_padding_alone_is_background(low: float) -> None:
    anchors = make_anchors_xyxy(CONFIG)
    matched = matcher(match_iou_low=low)(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool), anchors)
    assert (matched == BACKGROUND).all()
