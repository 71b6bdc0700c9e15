"""The detector: trunk, neck, heads, anchors, matching and loss, built from one DetectorConfig with random weights.

Shapes: B images, M boxes of the fullest image (padded), A anchors, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from detector.config import DetectorConfig, check_class_weights
from detector.model import sparse_convolution
from detector.model.anchors import make_anchors_xyxy
from detector.model.backbones import make_trunk
from detector.model.cells import num_anchors_per_cell, num_anchors_per_level
from detector.model.heads import AtAnchors, DenseHead
from detector.model.losses import DetectionLoss, WholeBatch
from detector.model.matching import make_matcher
from detector.model.necks import make_neck
from detector.model.postprocess import Detections, Postprocess


@dataclass
class Targets:
    """The boxes of a batch, padded to the fullest image."""

    boxes_xyxy: Tensor  # (B, M, 4) canvas pixels, 0 in padding
    labels: Tensor  # (B, M) int64 class index, -1 in padding

    @property
    def valid(self) -> Tensor:
        """(B, M) bool: which rows are boxes."""
        return self.labels >= 0

    def part(self, start: int, end: int) -> Targets:
        """The targets of images start .. end - 1."""
        return Targets(self.boxes_xyxy[start:end], self.labels[start:end])


class Detector(nn.Module):
    """One-stage detector over normalised images (B, 3, H, W) of the config's canvas."""

    anchors_xyxy: Tensor  # (A, 4)

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        self.canvas = (config.image_size_px[0], config.image_size_px[1])
        self.trunk = make_trunk(config)
        self.neck = make_neck(self.trunk.out_channels, config)
        self.head = DenseHead(config, self.neck.out_channels, num_anchors_per_cell(config), num_classes)
        self.register_buffer("anchors_xyxy", make_anchors_xyxy(config), persistent=False)
        self.matcher = make_matcher(config, num_anchors_per_level(config))
        check_class_weights(config, num_classes)
        self.loss = DetectionLoss(config)
        self.postprocess = Postprocess(config)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, A, K) and box regression (B, A, 4), fp32 whatever the precision of the layers."""
        logits, box_regression = self.head(self.neck(self.trunk(images)))
        return logits, box_regression

    def losses(self, images: Tensor, targets: Targets, whole: WholeBatch | None = None) -> tuple[Tensor, Tensor]:
        """(classification loss, box loss) of a batch; of a part of one, its share of the losses of the `whole`.

        Does not go through `forward`: only matched anchors have a box loss, so on a CPU no other box regression is worked out.
        """
        without_autocast = partial(torch.autocast, images.device.type, enabled=False)
        with without_autocast():
            matched = self.match(targets)
        features = self.neck(self.trunk(images))
        logits = self.head.logits(features)
        box_regression: Tensor | AtAnchors
        if sparse_convolution.pays_on(images.device):
            box_regression = self.head.box_regression_at(features, matched >= 0)
        else:
            box_regression = self.head.box_regression(features)
        with without_autocast():
            return self.loss(
                logits, box_regression, matched, targets.boxes_xyxy, targets.labels, self.anchors_xyxy, whole
            )

    def match(self, targets: Targets) -> Tensor:
        """(B, A) index of the box that each anchor answers for, BACKGROUND or IGNORED."""
        return self.matcher(targets.boxes_xyxy, targets.valid, self.anchors_xyxy)

    @torch.no_grad()
    def detect(self, images: Tensor) -> Detections:
        """Detections of a batch of normalised images, in canvas pixels."""
        logits, box_regression = self(images)
        return self.postprocess(logits, box_regression, self.anchors_xyxy)
