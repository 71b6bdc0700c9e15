"""Classification and box losses over a padded batch.

Given box regression of all anchors, no shape depends on the data, which a GPU would have to wait for.
Shapes: B images, M boxes (padded), A anchors, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detector.config import DetectorConfig
from detector.model.box_coding import BoxCoder, elementwise_ciou, elementwise_giou
from detector.model.heads import AtAnchors
from detector.model.matching import IGNORED


@dataclass(frozen=True)
class WholeBatch:
    """What a loss is normalised by that a part of a batch cannot know."""

    images: int
    positives: Tensor  # () float, anchors matched to a box


class DetectionLoss:
    """Class logits, box regression and matches -> (classification loss, box loss), both scalars."""

    def __init__(self, config: DetectorConfig) -> None:
        self.classification = make_class_loss(config)
        self.coder = BoxCoder(config)
        self.box_loss = config.box_loss
        self.beta = config.smooth_l1_beta if config.box_loss == "smooth_l1" else 0.0
        self.box_weight = config.box_loss_weight
        self.per_image = config.loss_normalization == "image"

    def __call__(
        self,
        logits: Tensor,  # (B, A, K), with softmax scores (B, A, K + 1)
        box_regression: Tensor | AtAnchors,  # (B, A, 4), or of exactly the matched anchors
        matched: Tensor,  # (B, A) index of the box, BACKGROUND or IGNORED
        boxes_xyxy: Tensor,  # (B, M, 4)
        labels: Tensor,  # (B, M) class of each box
        anchors_xyxy: Tensor,  # (A, 4)
        whole: WholeBatch | None = None,  # where these images are a part of a batch
    ) -> tuple[Tensor, Tensor]:
        positive = matched >= 0
        if labels.shape[1] == 0:  # a row of padding, so that there is something to index
            boxes_xyxy, labels = F.pad(boxes_xyxy, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        index = matched.clamp(min=0)
        target_labels = labels.gather(1, index).clamp(min=0)
        classification = self.classification(logits, target_labels, positive, matched != IGNORED)
        if isinstance(box_regression, AtAnchors):
            image, anchor, values = box_regression
            assert len(values) == positive.sum()
            of_anchors = self._regression(values, boxes_xyxy[image, index[image, anchor]], anchors_xyxy[anchor])
            regression = of_anchors.new_zeros(len(logits)).index_add(0, image, of_anchors)
        else:
            target_boxes = boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
            of_anchors = self._regression(box_regression, target_boxes, anchors_xyxy)
            regression = torch.where(positive, of_anchors, 0.0).sum(dim=1)
        num_positive = positive.sum(dim=1).float()
        if self.per_image:
            scale = 1.0 / num_positive.clamp(min=1) / (whole.images if whole else len(logits))
        else:
            positives = whole.positives if whole else num_positive.sum()
            scale = (1.0 / positives.clamp(min=1)).expand(len(logits))
        return (classification * scale).sum(), (regression * scale).sum() * self.box_weight

    def _regression(self, box_regression: Tensor, target_boxes: Tensor, anchors: Tensor) -> Tensor:
        """Box loss (..,) of anchors and their boxes (.., 4), as if all were positive."""
        if self.box_loss != "smooth_l1":
            overlap = elementwise_giou if self.box_loss == "giou" else elementwise_ciou
            return 1.0 - overlap(self.coder.decode(box_regression, anchors), target_boxes)
        target = self.coder.encode(target_boxes, anchors)
        if self.beta == 0:
            return (box_regression - target).abs().sum(dim=-1)
        return F.smooth_l1_loss(box_regression, target, beta=self.beta, reduction="none").sum(dim=-1)


class ClassLoss(Protocol):
    """Classification loss of a batch, summed per image."""

    def __call__(self, logits: Tensor, target_labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        """(B,) from logits (B, A, C), the class (B, A) of the positives, which anchors are positive, which count."""


def make_class_loss(config: DetectorConfig) -> ClassLoss:
    """The classification loss of a config."""
    if config.class_loss == "hard_negatives":
        return HardNegativeLoss(config)
    return SoftmaxFocalLoss(config) if config.class_scores == "softmax" else SigmoidFocalLoss(config)


class SigmoidFocalLoss:
    """Every class a yes or no of its own (Lin et al. 2018)."""

    def __init__(self, config: DetectorConfig) -> None:
        self.gamma, self.alpha = config.focal_gamma, config.focal_alpha

    def __call__(self, logits: Tensor, target_labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        alpha = class_weights(self.alpha, logits)
        own_alpha = alpha[target_labels] if isinstance(alpha, Tensor) else alpha
        # Every class as background first, then the positives' own entry put right.
        background = focal_loss(logits, target=False, gamma=self.gamma, alpha=alpha).sum(dim=-1)
        own_logit = logits.gather(2, target_labels[..., None]).squeeze(-1)  # (B, A)
        correction = focal_loss(own_logit, True, self.gamma, own_alpha) - focal_loss(
            own_logit, False, self.gamma, own_alpha
        )
        return torch.where(counted, background + torch.where(positive, correction, 0.0), 0.0).sum(dim=1)


class SoftmaxFocalLoss:
    """Focal loss over classes and background, background (the last score) weighted 1 - alpha, objects alpha.

    With an alpha per class, each class and background has its own weight.
    """

    def __init__(self, config: DetectorConfig) -> None:
        self.gamma, self.alpha = config.focal_gamma, config.focal_alpha

    def __call__(self, logits: Tensor, target_labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        log_p = log_probability(logits, target_labels, positive)
        wrong = -torch.expm1(log_p)  # 1 - p, exact where p is near 1
        alpha = class_weights(self.alpha, logits)
        if isinstance(alpha, Tensor):
            weight = alpha[torch.where(positive, target_labels, logits.shape[-1] - 1)]
        else:
            weight = torch.where(positive, alpha, 1.0 - alpha)
        return torch.where(counted, -weight * focusing(wrong, self.gamma) * log_p, 0.0).sum(dim=1)


class HardNegativeLoss:
    """Softmax cross-entropy of the positives and of the worst negatives, so many a positive (Liu et al. 2016, 2.2)."""

    def __init__(self, config: DetectorConfig) -> None:
        self.ratio = config.negatives_per_positive

    def __call__(self, logits: Tensor, target_labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        loss = -log_probability(logits, target_labels, positive)  # (B, A)
        negative = counted & ~positive
        difficulty = torch.where(negative, loss.detach(), -1.0)
        rank = difficulty.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        mined = negative & (rank < positive.sum(dim=1, keepdim=True) * self.ratio)
        return torch.where(positive | mined, loss, 0.0).sum(dim=1)


def log_probability(logits: Tensor, target_labels: Tensor, positive: Tensor) -> Tensor:
    """Log of the softmax probability (B, A) of each anchor's class, or of background (the last of C) where it has none."""
    target = torch.where(positive, target_labels, logits.shape[-1] - 1)
    return torch.log_softmax(logits, dim=-1).gather(2, target[..., None]).squeeze(-1)


def class_weights(alpha: float | tuple[float, ...], logits: Tensor) -> float | Tensor:
    """focal_alpha as it is, or a weight per score as a tensor (C,) where the logits (.., C) are."""
    return logits.new_tensor(alpha) if isinstance(alpha, tuple) else alpha


def focal_loss(logits: Tensor, target: bool, gamma: float, alpha: float | Tensor) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log(p_t), elementwise (Lin et al. 2018, equation 5), for one target everywhere."""
    wrong, weight = (-logits, alpha) if target else (logits, 1.0 - alpha)
    return FocalTerm.apply(wrong, gamma, weight)  # type: ignore[no-any-return]


class FocalTerm(torch.autograd.Function):
    """-weight p^gamma log(1 - p), p being the sigmoid of the logit of what is wrong.

    Differentiated by hand, since both directions are of the same few terms, and written without log1p and softplus, which torch
    computes one number at a time on a CPU: half the time of the plain formula (benchmarks/NOTES.md). No second derivative.
    """

    @staticmethod
    def forward(ctx: Any, wrong: Tensor, gamma: float, weight: float | Tensor) -> Tensor:
        small = wrong.abs().neg_().exp_()  # in 0..1
        whole = small + 1
        rounded_off = small - (whole - 1)  # put right below, to first order
        # softplus of what is wrong: max(wrong, 0) + log(1 + small)
        minus_log_right = rounded_off.div_(whole).add_(whole.log_()).add_(wrong.clamp(min=0))
        log_p = wrong - minus_log_right
        factor = (gamma * log_p).exp_().mul_(weight)
        if ctx.needs_input_grad[0]:
            right = minus_log_right.neg().exp_()  # 1 - p, exact where p is near 1
            ctx.save_for_backward(log_p.exp_().addcmul_(right, minus_log_right, value=gamma).mul_(factor))
        return factor.mul_(minus_log_right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def focusing(wrong: Tensor, gamma: float) -> Tensor:
    """(1 - p_t)^gamma; below gamma 1 its slope at 0 is infinite, so 0 is not quite reached."""
    return wrong.square() if gamma == 2.0 else wrong.clamp(min=1e-12).pow(gamma)
