"""Which anchor answers for which box: two IoU thresholds (RetinaNet), over a padded batch at once.

Shapes: B images, M boxes of the fullest image (the others padded), A anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.model.box_coding import pairwise_iou

BACKGROUND, IGNORED = -1, -2


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
            return torch.full((batch, len(anchors_xyxy)), BACKGROUND, device=anchors_xyxy.device)
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
