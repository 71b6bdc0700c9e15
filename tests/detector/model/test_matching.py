"""Anchors to boxes: against torchvision's Matcher, and the edges by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detector.config import DetectorConfig
from detector.model.anchors import make_anchors_xyxy
from detector.model.cells import num_anchors_per_level
from detector.model.matching import BACKGROUND, IGNORED, AtssMatcher, SsdMatcher, ThresholdMatcher
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


def test_ssd_gives_every_box_its_best_anchor_even_if_another_overlaps_it_more() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]])
    # Box 0 covers anchor 0 whole. Box 1's best anchor is 0 too (IoU 0.2 against 0 elsewhere): as the later, it gets it.
    boxes, valid = padded([torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 2, 10]]), torch.tensor([[20.0, 0, 30, 12]])])
    found = SsdMatcher(CONFIG)(boxes, valid, anchors)
    assert found.tolist() == [[1, BACKGROUND, BACKGROUND], [BACKGROUND, 0, BACKGROUND]]


def test_ssd_matches_above_its_one_threshold() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 20], [0.0, 0, 10, 21]])
    boxes, valid = padded([torch.tensor([[0.0, 0, 10, 10]])])  # IoU 1, 0.5, 0.476
    assert SsdMatcher(CONFIG)(boxes, valid, anchors).tolist() == [[0, BACKGROUND, BACKGROUND]], "more than 0.5"
    lower = SsdMatcher(CONFIG.with_values({"match_iou_high": 0.48}))
    assert lower(boxes, valid, anchors).tolist() == [[0, 0, BACKGROUND]]


def test_ssd_and_atss_without_boxes_are_all_background() -> None:
    anchors = make_anchors_xyxy(CONFIG)
    none = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)
    padding = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    for made in (SsdMatcher(CONFIG), AtssMatcher(CONFIG, num_anchors_per_level(CONFIG))):
        for boxes, valid in (none, padding):
            assert (made(boxes, valid, anchors) == BACKGROUND).all()


def test_atss_on_a_map_of_one_by_four_by_hand() -> None:
    """Four anchors of side 8 at stride 8, centres x = 4, 12, 20, 28, y = 4; the box is x 6..26, y 0..8.

    Its centre is x = 16: the three nearest are 12 and 20 (4 away) and then 4 or 28 (12 away; the box reaches only to
    26, so take 3 candidates = 12, 20 and 4). IoU = 8*8 / (20*8) = 0.4 for 12 and 20; anchor 4 overlaps x 6..8:
    2*8 / (8*8 + 20*8 - 16) = 0.0769. Mean 0.2923, deviation 0.1865: threshold 0.4788 would leave nothing, so with two
    candidates: mean 0.4, deviation 0: both stay, and their centres lie inside.
    """
    config = DetectorConfig(
        image_size_px=(64, 64), neck_levels=(3,), extra_levels=0, anchor_sizes=8.0, anchor_scales=(1.0,),
        anchor_ratios=(1.0,), matcher="atss", atss_candidates=2,
    )  # fmt: skip
    anchors = torch.tensor([[0.0, 0, 8, 8], [8.0, 0, 16, 8], [16.0, 0, 24, 8], [24.0, 0, 32, 8]])
    boxes, valid = padded([torch.tensor([[6.0, 0, 26, 8]])])
    assert AtssMatcher(config, [4])(boxes, valid, anchors).tolist() == [[BACKGROUND, 0, 0, BACKGROUND]]
    three = AtssMatcher(config.with_values({"atss_candidates": 3}), [4])
    assert (three(boxes, valid, anchors) == BACKGROUND).all()


def test_atss_gives_an_anchor_of_two_boxes_to_the_one_it_overlaps_more() -> None:
    config = DetectorConfig(
        image_size_px=(64, 64), neck_levels=(3,), extra_levels=0, anchor_sizes=8.0, anchor_scales=(1.0,),
        anchor_ratios=(1.0,), matcher="atss", atss_candidates=1,
    )  # fmt: skip
    anchors = torch.tensor([[0.0, 0, 8, 8], [8.0, 0, 16, 8]])
    boxes, valid = padded([torch.tensor([[0.0, 0, 8, 16], [0.0, 0, 8, 9]])])
    assert AtssMatcher(config, [2])(boxes, valid, anchors).tolist() == [[1, BACKGROUND]]
