"""Boxes as offsets from anchors (Ren et al. 2015, equation 2), and overlaps of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detector.config import DetectorConfig

# A regression beyond this would blow a box up by more than 1000/16 (the value of Detectron and torchvision).
MAX_LOG_SCALE = math.log(1000 / 16)
IOU_EPS = 1e-7  # of torchvision.ops.generalized_box_iou_loss and complete_box_iou_loss


class BoxCoder:
    """Regression targets of boxes against anchors; `variances` (centre, log side) divide them (Liu et al. 2016)."""

    def __init__(self, config: DetectorConfig) -> None:
        centre, side = config.box_variances
        self.variances = (centre, centre, side, side)
        self.plain = centre == side == 1.0

    def encode(self, boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """Boxes (..., 4) as targets (..., 4) at anchors (..., 4)."""
        target = encode_boxes(boxes_xyxy, anchors_xyxy)
        return target if self.plain else target / target.new_tensor(self.variances)

    def decode(self, box_regression: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """The inverse of `encode`."""
        if not self.plain:
            box_regression = box_regression * box_regression.new_tensor(self.variances)
        return decode_boxes(box_regression, anchors_xyxy)


def encode_boxes(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """(dx, dy, dw, dh) of boxes (..., 4) from anchors (..., 4): centre shift in anchor sides, log of the side ratio."""
    anchor_sides = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    anchor_centres = anchors_xyxy[..., :2] + anchor_sides / 2
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    centres = boxes_xyxy[..., :2] + sides / 2
    # An empty (padding) box would give log(0); it is masked later and must stay finite until then.
    ratio = (sides / anchor_sides).clamp(min=1e-6)
    return torch.cat([(centres - anchor_centres) / anchor_sides, ratio.log()], dim=-1)


def decode_boxes(box_regression: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """The inverse of `encode_boxes`: (..., 4) offsets at (..., 4) anchors -> boxes xyxy."""
    anchor_sides = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    anchor_centres = anchors_xyxy[..., :2] + anchor_sides / 2
    centres = box_regression[..., :2] * anchor_sides + anchor_centres
    sides = box_regression[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_sides
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def box_areas(boxes_xyxy: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4)."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def pairwise_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """IoU (B, M, N) of boxes xyxy (B, M, 4) and (N, 4) or (B, N, 4); two empty boxes overlap by 0."""
    a = boxes_a.unsqueeze(-2)  # (B, M, 1, 4)
    b = (boxes_b if boxes_b.dim() == 3 else boxes_b[None]).unsqueeze(-3)  # (B or 1, 1, N, 4)
    # One coordinate at a time keeps every intermediate at (B, M, N) and contiguous in N.
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp_(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp_(min=0)
    intersection = width.mul_(height)
    union = box_areas(a) + box_areas(b) - intersection
    return intersection.div_(union.clamp_(min=1e-9))


def _iou_union_hull(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pair by pair: IoU (...), area of the union (...), sides (..., 2) of the smallest box around both."""
    sides = torch.minimum(boxes_a[..., 2:], boxes_b[..., 2:]) - torch.maximum(boxes_a[..., :2], boxes_b[..., :2])
    intersection = sides.clamp(min=0).prod(dim=-1)
    union = box_areas(boxes_a) + box_areas(boxes_b) - intersection
    hull = torch.maximum(boxes_a[..., 2:], boxes_b[..., 2:]) - torch.minimum(boxes_a[..., :2], boxes_b[..., :2])
    return intersection / (union + IOU_EPS), union, hull


def elementwise_giou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes xyxy (..., 4), pair by pair."""
    iou, union, hull = _iou_union_hull(boxes_a, boxes_b)
    hull_area = hull.prod(dim=-1)
    return iou - (hull_area - union) / (hull_area + IOU_EPS)


def elementwise_ciou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Complete IoU (Zheng et al. 2020) of boxes xyxy (..., 4), pair by pair: IoU less centre distance and aspect terms."""
    iou, _, hull = _iou_union_hull(boxes_a, boxes_b)
    diagonal = hull.square().sum(dim=-1) + IOU_EPS
    apart = (boxes_a[..., :2] + boxes_a[..., 2:] - boxes_b[..., :2] - boxes_b[..., 2:]) / 2
    a, b = boxes_a[..., 2:] - boxes_a[..., :2], boxes_b[..., 2:] - boxes_b[..., :2]
    # The second box is the truth; a padding row is empty and must stay finite.
    turn = torch.atan(b[..., 0] / b[..., 1].clamp(min=IOU_EPS)) - torch.atan(a[..., 0] / a[..., 1].clamp(min=IOU_EPS))
    aspect = 4 / math.pi**2 * turn.square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + IOU_EPS)
    return iou - apart.square().sum(dim=-1) / diagonal - weight * aspect
