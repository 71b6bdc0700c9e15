"""Detections of a batch at once against a plain loop over images, and the edges by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detector.config import DetectorConfig
from detector.model.box_coding import decode_boxes, encode_boxes
from detector.model.postprocess import Detections, Postprocess, nms_by_group
from tests.detector.model.test_box_coding import random_boxes

HEIGHT, WIDTH, CLASSES = 128, 512, 4


def config(**values: Any) -> DetectorConfig:
    return DetectorConfig(**{"image_size_px": (HEIGHT, WIDTH), "score_threshold": 0.05, **values})


def outputs(batch: int = 3, anchors: int = 200, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, box regression, anchors), crowded enough to suppress and reaching over the canvas' edge."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, anchors, CLASSES, generator=generator) * 2 - 1
    regression = torch.randn(batch, anchors, 4, generator=generator) * 0.3
    return logits, regression, random_boxes(anchors, seed=seed + 1)


def one_image(logits: Tensor, regression: Tensor, anchors: Tensor, c: DetectorConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Plain reference: (boxes, scores, labels), best first."""
    scores, pair = logits.sigmoid().flatten().sort(descending=True)
    scores, pair = scores[: c.pre_nms_top_k], pair[: c.pre_nms_top_k]
    labels, anchor = pair % CLASSES, pair // CLASSES
    boxes = decode_boxes(regression[anchor], anchors[anchor]).double()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, WIDTH)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, HEIGHT)
    keep = (scores > c.score_threshold) & ((boxes[:, 2:] - boxes[:, :2]) > 0.1).all(dim=1)
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    kept = batched_nms(boxes, scores.double(), labels, c.nms_iou)[: c.max_detections]
    return boxes[kept], scores[kept], labels[kept]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_detections": 7},
        {"pre_nms_top_k": 50},
        {"nms_iou": 0.1},
        {"score_threshold": 0.6},
        {"pre_nms_top_k": 100_000},
    ],
)
def test_equal_to_a_plain_loop_over_images(values: dict[str, Any]) -> None:
    made = config(**values)
    logits, regression, anchors = outputs()
    found = Postprocess(made)(logits, regression, anchors)
    for n in range(len(logits)):
        boxes, scores, labels = one_image(logits[n], regression[n], anchors, made)
        mine = found.image_index == n
        assert len(boxes) > 5
        torch.testing.assert_close(found.boxes_xyxy[mine], boxes.float())
        torch.testing.assert_close(found.scores[mine], scores)
        assert torch.equal(found.labels[mine], labels)
    if "max_detections" in values:
        assert found.image_index.bincount().tolist() == [7, 7, 7]


def test_images_come_in_order_and_the_best_detection_first() -> None:
    found = Postprocess(config())(*outputs())
    assert torch.equal(found.image_index, found.image_index.sort().values)
    for n in range(3):
        scores = found.scores[found.image_index == n]
        assert torch.equal(scores, scores.sort(descending=True).values)


def test_an_image_is_detected_alike_alone_and_in_a_batch() -> None:
    logits, regression, anchors = outputs()
    together = Postprocess(config())(logits, regression, anchors)
    alone = Postprocess(config())(logits[1:2], regression[1:2], anchors)
    mine = together.image_index == 1
    assert torch.equal(together.boxes_xyxy[mine], alone.boxes_xyxy)
    assert torch.equal(together.scores[mine], alone.scores)


def detect_boxes(boxes: list[list[float]], scores: list[list[float]], **values: Any) -> Detections:
    """Detections of one image whose anchors are the boxes themselves."""
    return Postprocess(config(**values))(
        torch.tensor([scores]).logit(), torch.zeros(1, len(boxes), 4), torch.tensor(boxes)
    )


def test_one_class_suppresses_and_another_does_not() -> None:
    # The second box shares 8 of 10 columns with the first: IoU 80 / 120.
    boxes = [[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    same = detect_boxes(boxes, [[0.9, 0.01], [0.8, 0.01]])
    assert same.scores.tolist() == pytest.approx([0.9])
    other = detect_boxes(boxes, [[0.9, 0.01], [0.01, 0.8]])
    assert other.scores.tolist() == pytest.approx([0.9, 0.8])
    assert other.labels.tolist() == [0, 1]
    looser = detect_boxes(boxes, [[0.9, 0.01], [0.8, 0.01]], nms_iou=0.7)
    assert looser.scores.tolist() == pytest.approx([0.9, 0.8])


def test_a_box_of_two_classes_is_detected_twice() -> None:
    found = detect_boxes([[0.0, 0.0, 10.0, 10.0]], [[0.9, 0.4]])
    assert found.labels.tolist() == [0, 1]
    assert found.boxes_xyxy.tolist() == [[0.0, 0.0, 10.0, 10.0]] * 2


def test_the_threshold_itself_is_no_detection() -> None:
    assert detect_boxes([[0.0, 0.0, 10.0, 10.0]], [[0.5]], score_threshold=0.5).scores.tolist() == []
    assert len(detect_boxes([[0.0, 0.0, 10.0, 10.0]], [[0.5]], score_threshold=0.49).scores) == 1


def test_no_detections_are_empty_rows_of_the_right_shape() -> None:
    logits, regression, anchors = outputs()
    found = Postprocess(config(score_threshold=1.0))(logits, regression, anchors).cpu()
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == found.image_index.shape == (0,)


def test_boxes_are_cut_at_the_canvas_and_dropped_beyond_it() -> None:
    found = detect_boxes([[-20.0, 100.0, 30.0, 150.0], [520.0, 10.0, 540.0, 30.0]], [[0.9], [0.8]])
    assert found.boxes_xyxy.tolist() == [[0.0, 100.0, 30.0, 128.0]]


def test_the_limit_of_detections_is_per_image() -> None:
    logits, regression, anchors = outputs()
    logits[1] -= 3  # far lower scores than in the other images
    found = Postprocess(config(max_detections=4))(logits, regression, anchors)
    assert found.image_index.bincount(minlength=3).tolist() == [4, 4, 4]


def test_scores_and_boxes_are_fp32_from_half_precision_logits() -> None:
    logits, regression, anchors = outputs()
    found = Postprocess(config())(logits.bfloat16(), regression.bfloat16(), anchors)
    assert found.scores.dtype == found.boxes_xyxy.dtype == torch.float32
    assert len(found.scores)


def test_ten_thousand_groups_lose_no_precision() -> None:
    # Two boxes of IoU just below the limit: both stay, in the first group and in the ten-thousandth.
    # 100 wide, shifted by 33.4: 66.6 / 133.4 = 0.49925
    pair = torch.tensor([[0.0, 0.0, 100.0, 10.0], [33.4, 0.0, 133.4, 10.0]])
    for group in (0, 10_000):
        kept = nms_by_group(pair, torch.tensor([0.9, 0.8]), torch.tensor([group, group]), 0.5, WIDTH)
        assert kept.tolist() == [0, 1]
        kept = nms_by_group(pair, torch.tensor([0.9, 0.8]), torch.tensor([group, group]), 0.499, WIDTH)
        assert kept.tolist() == [0]


def test_groups_side_by_side_do_not_touch() -> None:
    whole = torch.tensor([[0.0, 0.0, 512.0, 128.0]]).repeat(3, 1)
    kept = nms_by_group(whole, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 2]), 0.0, WIDTH)
    assert kept.tolist() == [1, 2, 0]


def test_a_regression_encoded_towards_a_box_is_found_there() -> None:
    box, anchor = torch.tensor([[100.0, 20.0, 140.0, 44.0]]), torch.tensor([[96.0, 16.0, 128.0, 48.0]])
    found = Postprocess(config())(torch.tensor([[[3.0]]]), encode_boxes(box, anchor)[None], anchor)
    torch.testing.assert_close(found.boxes_xyxy, box)
    assert found.scores.item() == pytest.approx(0.95257, abs=1e-4)  # 1 / (1 + e^-3)
