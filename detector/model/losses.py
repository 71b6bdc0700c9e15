"""Sigmoid focal loss and box losses over a padded batch, without a shape that depends on the data.

Shapes: B images, M boxes (padded), A anchors, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import DetectorConfig
from detector.model.box_coding import decode_boxes, elementwise_giou, encode_boxes
from detector.model.matching import IGNORED


class DetectionLoss:
    """Class logits, box regression and matches -> (classification loss, box loss), both scalars."""

    def __init__(self, config: DetectorConfig) -> None:
        self.gamma, self.alpha = config.focal_gamma, config.focal_alpha
        self.box_loss = config.box_loss
        self.beta = config.smooth_l1_beta if config.box_loss == "smooth_l1" else 0.0
        self.box_weight = config.box_loss_weight
        self.per_image = config.loss_normalization == "image"

    def __call__(
        self,
        logits: Tensor,  # (B, A, K)
        box_regression: Tensor,  # (B, A, 4)
        matched: Tensor,  # (B, A) index of the box, BACKGROUND or IGNORED
        boxes_xyxy: Tensor,  # (B, M, 4)
        labels: Tensor,  # (B, M) class of each box
        anchors_xyxy: Tensor,  # (A, 4)
    ) -> tuple[Tensor, Tensor]:
        positive = matched >= 0
        if labels.shape[1]:
            index = matched.clamp(min=0)
            target_boxes = boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
            target_labels = labels.gather(1, index).clamp(min=0)
        else:
            target_boxes = anchors_xyxy.expand(len(matched), -1, -1)
            target_labels = torch.zeros_like(matched)
        classification = self._classification(logits, target_labels, positive, matched != IGNORED)
        regression = self._regression(box_regression, target_boxes, anchors_xyxy)
        regression = torch.where(positive, regression, 0.0).sum(dim=1)
        num_positive = positive.sum(dim=1).float()
        if self.per_image:
            scale = 1.0 / num_positive.clamp(min=1) / len(logits)
        else:
            scale = (1.0 / num_positive.sum().clamp(min=1)).expand(len(logits))
        return (classification * scale).sum(), (regression * scale).sum() * self.box_weight

    def _classification(self, logits: Tensor, target_labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        """Focal loss summed per image (B,): every class as background, then the positives' own entry put right."""
        background = focal_loss(logits, target=False, gamma=self.gamma, alpha=self.alpha).sum(dim=-1)
        own_logit = logits.gather(2, target_labels[..., None]).squeeze(-1)  # (B, A)
        correction = focal_loss(own_logit, True, self.gamma, self.alpha) - focal_loss(
            own_logit, False, self.gamma, self.alpha
        )
        return torch.where(counted, background + torch.where(positive, correction, 0.0), 0.0).sum(dim=1)

    def _regression(self, box_regression: Tensor, target_boxes: Tensor, anchors: Tensor) -> Tensor:
        """Box loss of every anchor (B, A) as if it were positive."""
        if self.box_loss == "giou":
            return 1.0 - elementwise_giou(decode_boxes(box_regression, anchors), target_boxes)
        target = encode_boxes(target_boxes, anchors)
        if self.beta == 0:
            return (box_regression - target).abs().sum(dim=-1)
        return F.smooth_l1_loss(box_regression, target, beta=self.beta, reduction="none").sum(dim=-1)


def focal_loss(logits: Tensor, target: bool, gamma: float, alpha: float) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log(p_t), elementwise (Lin et al. 2018, equation 5), for one target everywhere."""
    sign, weight = (-1.0, alpha) if target else (1.0, 1.0 - alpha)
    wrong = torch.sigmoid(sign * logits)  # 1 - p_t
    focus = wrong.square() if gamma == 2.0 else wrong.clamp(min=1e-12).pow(gamma)  # its slope at 0 is infinite
    return weight * focus * F.softplus(sign * logits)
