"""Box coding by hand-worked numbers, as an identity, and overlaps against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou

from detector.config import DetectorConfig
from detector.model.box_coding import (
    MAX_LOG_SCALE,
    BoxCoder,
    box_areas,
    decode_boxes,
    elementwise_ciou,
    elementwise_giou,
    encode_boxes,
    pairwise_iou,
)

exact = settings(deadline=None, derandomize=True, database=None, max_examples=60)
corner = st.floats(-100, 600, width=32)
side = st.floats(1, 400, width=32)
boxes = st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=6).map(
    lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64)
)


def random_boxes(count: int, seed: int, canvas: tuple[float, float] = (512.0, 128.0)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(count, 2, generator=generator) * torch.tensor(canvas)
    half = torch.rand(count, 2, generator=generator) * 40 + 1
    return torch.cat([middle - half, middle + half], dim=1)


def test_encode_by_hand() -> None:
    # Anchor 20 wide, 10 high, centre (10, 5); box 20 wide, 40 high, centre (20, 40).
    code = encode_boxes(torch.tensor([10.0, 20.0, 30.0, 60.0]), torch.tensor([0.0, 0.0, 20.0, 10.0]))
    # dx = 10 / 20, dy = 35 / 10, dw = log(20 / 20), dh = log(40 / 10)
    assert code.tolist() == pytest.approx([0.5, 3.5, 0.0, math.log(4)])


def test_decode_by_hand() -> None:
    # Anchor 20 wide, 10 high, centre (10, 5). Centre moves by (0.25 * 20, -1 * 10) to (15, -5); sides 20 * 2, 10 * 3.
    code = torch.tensor([0.25, -1.0, math.log(2), math.log(3)])
    box = decode_boxes(code, torch.tensor([0.0, 0.0, 20.0, 10.0]))
    assert box.tolist() == pytest.approx([-5.0, -20.0, 35.0, 10.0])


def test_no_offset_is_the_anchor_itself() -> None:
    anchors = random_boxes(5, seed=0)
    torch.testing.assert_close(decode_boxes(torch.zeros(2, 5, 4), anchors), anchors.expand(2, 5, 4))


@exact
@given(boxes, boxes)
def test_decode_after_encode_is_the_identity(wanted: Tensor, anchors: Tensor) -> None:
    n = min(len(wanted), len(anchors))
    wanted, anchors = wanted[:n], anchors[:n]
    # Growth beyond the clamp of MAX_LOG_SCALE cannot come back.
    grows = (wanted[:, 2:] - wanted[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    fits = (grows.log() < MAX_LOG_SCALE).all(dim=1)
    back = decode_boxes(encode_boxes(wanted, anchors), anchors)
    torch.testing.assert_close(back[fits], wanted[fits], rtol=1e-7, atol=1e-6)


def test_equal_to_torchvisions_box_coder() -> None:
    wanted, anchors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    coder = TorchvisionBoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(
        encode_boxes(wanted, anchors), coder.encode_single(wanted, anchors), rtol=1e-4, atol=1e-5
    )
    code = torch.randn(50, 4, generator=torch.Generator().manual_seed(3)) * 3  # some beyond the clamp
    assert (code[:, 2:] > MAX_LOG_SCALE).any()
    torch.testing.assert_close(decode_boxes(code, anchors), coder.decode_single(code, anchors), rtol=1e-4, atol=1e-3)


def test_a_wild_regression_is_held_at_1000_sixteenths_of_the_anchor() -> None:
    box = decode_boxes(torch.tensor([0.0, 0.0, 50.0, 50.0]), torch.tensor([0.0, 0.0, 16.0, 16.0]))
    assert (box[2:] - box[:2]).tolist() == pytest.approx([1000.0, 1000.0], rel=1e-5)


def test_an_empty_padding_box_encodes_to_finite_numbers() -> None:
    assert torch.isfinite(encode_boxes(torch.zeros(4), torch.tensor([0.0, 0.0, 20.0, 10.0]))).all()


def test_areas_and_iou_by_hand() -> None:
    a = torch.tensor([[[0.0, 0.0, 10.0, 20.0]]])
    b = torch.tensor([[5.0, 10.0, 25.0, 20.0], [10.0, 0.0, 20.0, 20.0], [0.0, 0.0, 10.0, 20.0]])
    assert box_areas(b).tolist() == [200.0, 200.0, 200.0]
    # First: 5 x 10 shared of 200 + 200 - 50; second only touches; third is the same box.
    assert pairwise_iou(a, b)[0, 0].tolist() == pytest.approx([50 / 350, 0.0, 1.0])


def test_two_empty_boxes_overlap_by_nothing() -> None:
    empty = torch.zeros(1, 1, 4)
    assert pairwise_iou(empty, empty).item() == 0.0


@exact
@given(boxes, boxes)
def test_iou_is_symmetric_and_within_0_and_1(a: Tensor, b: Tensor) -> None:
    forth = pairwise_iou(a[None], b)[0]
    back = pairwise_iou(b[None], a)[0]
    assert torch.equal(forth, back.T)
    assert ((forth >= 0) & (forth <= 1 + 1e-9)).all()


def test_iou_equals_torchvisions_also_batch_by_batch() -> None:
    a = torch.stack([random_boxes(7, seed=4), random_boxes(7, seed=5)])
    b = torch.stack([random_boxes(9, seed=6), random_boxes(9, seed=7)])
    for n in range(2):
        torch.testing.assert_close(pairwise_iou(a, b)[n], box_iou(a[n], b[n]))
        torch.testing.assert_close(pairwise_iou(a, b[0])[n], box_iou(a[n], b[0]))
    assert (pairwise_iou(a, b) > 0).any()


def test_iou_leaves_its_arguments_as_they_were() -> None:
    a, b = random_boxes(3, seed=8)[None], random_boxes(4, seed=9)
    before_a, before_b = a.clone(), b.clone()
    pairwise_iou(a, b)
    assert torch.equal(a, before_a)
    assert torch.equal(b, before_b)


def test_giou_equals_torchvisions() -> None:
    a, b = random_boxes(40, seed=10), random_boxes(40, seed=11)
    torch.testing.assert_close(elementwise_giou(a, b), generalized_box_iou(a, b).diagonal(), rtol=1e-4, atol=1e-5)


def test_giou_by_hand() -> None:
    # Two 10 x 10 boxes, 10 apart: no overlap, union 200, hull 30 x 10: 0 - 100 / 300.
    apart = elementwise_giou(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([20.0, 0.0, 30.0, 10.0]))
    assert apart.item() == pytest.approx(-1 / 3, abs=1e-6)


def test_ciou_equals_torchvisions() -> None:
    a, b = random_boxes(50, seed=1), random_boxes(50, seed=2)
    expected = 1 - complete_box_iou_loss(a, b, reduction="none")
    torch.testing.assert_close(elementwise_ciou(a, b), expected, rtol=1e-5, atol=1e-6)


def test_ciou_has_torchvisions_gradient_and_a_finite_one_in_padding() -> None:
    a, b = random_boxes(20, seed=3), random_boxes(20, seed=4)
    mine, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    (1 - elementwise_ciou(mine, b)).sum().backward()
    complete_box_iou_loss(theirs, b, reduction="sum").backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    empty = a.clone().requires_grad_()
    elementwise_ciou(empty, torch.zeros_like(b)).sum().backward()
    assert empty.grad is not None
    assert torch.isfinite(empty.grad).all()


def test_variances_divide_the_targets_and_decoding_undoes_it() -> None:
    coder = BoxCoder(DetectorConfig(box_variances=(0.1, 0.2)))
    boxes, anchors = random_boxes(9, seed=5), random_boxes(9, seed=6)
    plain, scaled = encode_boxes(boxes, anchors), coder.encode(boxes, anchors)
    torch.testing.assert_close(scaled, plain * torch.tensor([10.0, 10.0, 5.0, 5.0]))
    torch.testing.assert_close(coder.decode(scaled, anchors), boxes, rtol=1e-4, atol=1e-3)
