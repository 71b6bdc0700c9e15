"""Which anchor answers for which box: two IoU thresholds (RetinaNet), SSD's or ATSS, over a padded batch at once.

Shapes: B images, M boxes of the fullest image (the others padded), A anchors.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.model.box_coding import pairwise_iou
from detector.model.cells import num_anchors_per_cell

BACKGROUND, IGNORED = -1, -2


class Matcher(Protocol):
    """Assigns every anchor of the canvas a box of its image, background, or neither."""

    def __call__(self, boxes_xyxy: Tensor, valid: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """Index of the matched box, BACKGROUND or IGNORED, for every anchor: int64 (B, A).

        boxes_xyxy: (B, M, 4) float; valid: (B, M) bool, False where a row is padding; anchors_xyxy: (A, 4).
        """


def make_matcher(config: DetectorConfig, num_anchors_per_level: list[int]) -> Matcher:
    """The matcher of a config."""
    if config.matcher == "atss":
        return AtssMatcher(config, num_anchors_per_level)
    return SsdMatcher(config) if config.matcher == "ssd" else ThresholdMatcher(config)


def all_background(batch: int, anchors_xyxy: Tensor) -> Tensor:
    """The answer (B, A) of every matcher to a batch without a box."""
    return torch.full((batch, len(anchors_xyxy)), BACKGROUND, device=anchors_xyxy.device)


class ThresholdMatcher:
    """Assigns every anchor the box of highest IoU, background, or neither."""

    def __init__(self, config: DetectorConfig) -> None:
        self.high, self.low = config.match_iou_high, config.match_iou_low
        self.force_best = config.match_force_best

    def __call__(self, boxes_xyxy: Tensor, valid: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """Index of the matched box, BACKGROUND or IGNORED, for every anchor: int64 (B, A).

        boxes_xyxy: (B, M, 4) float; valid: (B, M) bool, False where a row is padding; anchors_xyxy: (A, 4).
        With `force_best`, all anchors that tie for a box's best IoU keep their own best box, as torchvision's
        Matcher(allow_low_quality_matches=True) does.
        """
        batch, num_boxes = valid.shape
        if num_boxes == 0:
            return all_background(batch, anchors_xyxy)
        iou = pairwise_iou(boxes_xyxy, anchors_xyxy)  # (B, M, A)
        iou.masked_fill_(~valid[:, :, None], -1.0)
        best_iou, best_box = iou.max(dim=1)  # (B, A)
        matched = torch.where(best_iou >= self.high, best_box, IGNORED)
        matched = torch.where(best_iou < self.low, BACKGROUND, matched)
        if self.force_best:
            best_per_box = iou.max(dim=2, keepdim=True).values  # (B, M, 1)
            # A padding row (-1 everywhere) and a box that no anchor touches (0) force nothing.
            forced = ((iou == best_per_box) & (best_per_box > 0)).any(dim=1)
            matched = torch.where(forced, best_box, matched)
        return matched


class SsdMatcher:
    """One threshold, and every box keeps its best anchor, whatever overlaps that anchor more (Liu et al. 2016, 2.2)."""

    def __init__(self, config: DetectorConfig) -> None:
        self.threshold = config.match_iou_high

    def __call__(self, boxes_xyxy: Tensor, valid: Tensor, anchors_xyxy: Tensor) -> Tensor:
        batch, num_boxes = valid.shape
        if num_boxes == 0:
            return all_background(batch, anchors_xyxy)
        iou = pairwise_iou(boxes_xyxy, anchors_xyxy).masked_fill_(~valid[:, :, None], -1.0)  # (B, M, A)
        best_iou, best_box = iou.max(dim=1)
        matched = torch.where(best_iou > self.threshold, best_box, BACKGROUND)
        best_anchor = iou.argmax(dim=2)  # (B, M)
        # Of two boxes with one best anchor the later keeps it. Written as a maximum, so that padding can take part.
        claim = torch.full_like(matched, BACKGROUND)
        number = torch.arange(num_boxes, device=valid.device).expand(batch, -1)
        claim.scatter_reduce_(1, best_anchor, torch.where(valid, number, BACKGROUND), reduce="amax")
        return torch.where(claim >= 0, claim, matched)


class AtssMatcher:
    """Adaptive training sample selection (Zhang et al. 2020): a threshold of each box's own.

    On every level the anchors of the `atss_candidates` nearest cells are candidates; positive are those whose IoU is
    at least the candidates' mean + standard deviation and whose centre lies in the box.
    """

    def __init__(self, config: DetectorConfig, num_anchors_per_level: list[int]) -> None:
        self.candidates = config.atss_candidates
        cells = num_anchors_per_cell(config)
        self.levels = list(zip(num_anchors_per_level, cells, strict=True))

    def __call__(self, boxes_xyxy: Tensor, valid: Tensor, anchors_xyxy: Tensor) -> Tensor:
        batch, num_boxes = valid.shape
        if num_boxes == 0:
            return all_background(batch, anchors_xyxy)
        iou = pairwise_iou(boxes_xyxy, anchors_xyxy)  # (B, M, A)
        centres = (anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2
        box_centres = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
        distance = (box_centres[:, :, None] - centres).square().sum(dim=-1)  # (B, M, A)
        near = []
        first = 0
        for count, per_cell in self.levels:
            k = min(self.candidates * per_cell, count)
            near.append(distance[..., first : first + count].topk(k, dim=-1, largest=False).indices + first)
            first += count
        candidate = torch.cat(near, dim=-1)  # (B, M, C)
        overlap = iou.gather(2, candidate)
        spread = overlap.std(dim=-1, correction=min(1, overlap.shape[-1] - 1))  # one candidate has none
        threshold = overlap.mean(dim=-1) + spread  # (B, M)
        inside = ((centres > boxes_xyxy[:, :, None, :2]) & (centres < boxes_xyxy[:, :, None, 2:])).all(
            dim=-1
        )  # (B, M, A)
        chosen = torch.zeros_like(inside).scatter_(2, candidate, True)
        positive = chosen & inside & (iou >= threshold[..., None]) & valid[..., None]
        best_iou, best_box = torch.where(positive, iou, -1.0).max(dim=1)
        return torch.where(best_iou >= 0, best_box, BACKGROUND)
