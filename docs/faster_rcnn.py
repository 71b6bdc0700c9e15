"""A trainer of one's own for `--trainer docs.faster_rcnn:FasterRcnnTrainer`: torchvision's Faster R-CNN.

The four methods of the protocol (search/trainers.py); data, augmentation, optimizer, schedule and COCO scores are ours.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

from detector.config import DetectorConfig
from detector.data.augment import normalise_plainly
from detector.data.batches import TrainingBatches, TrainingData, load_batches
from detector.data.dataset import coco_ground_truth
from detector.evaluate import Evaluator
from detector.model.postprocess import Detections
from detector.optimizer import make_optimizer
from detector.schedule import LearningRate
from detector.trainer import DivergedError, EpochResult, default_device, detections_as_coco


class FasterRcnnTrainer:
    """Two stages instead of one; reads canvas, batches, augmentation, optimizer and schedule from the config."""

    def __init__(self, config: DetectorConfig, data: TrainingData, seed: int, device: str | None) -> None:
        self.data, self.device = data, torch.device(device or default_device())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            height, width = config.image_size_px
            self.model = fasterrcnn_mobilenet_v3_large_fpn(
                weights=None, weights_backbone=None, num_classes=len(data.dataset.class_names) + 1, min_size=height, max_size=width,
                image_mean=[0.0] * 3, image_std=[1.0] * 3, box_score_thresh=config.score_threshold, box_nms_thresh=config.nms_iou,
            ).to(self.device)  # fmt: skip
        self.batches = TrainingBatches(config, data, seed, self.device)
        self.optimizer = make_optimizer(self.model, config)
        self.learning_rate = LearningRate(config, self.batches.steps)
        self.evaluator = Evaluator(coco_ground_truth(data.val.split), data.dataset.area_ranges_px)
        self.seed, self.epoch = seed, 0

    def step(self) -> EpochResult:
        """Trains the next epoch and evaluates it."""
        start, busy = time.perf_counter(), time.process_time()
        self.epoch += 1
        torch.manual_seed(self.seed * 1_000_003 + self.epoch)  # torchvision samples its proposals from the global state
        self.model.train()
        losses = [self._train_batch(n, *batch) for n, batch in enumerate(self.batches.epoch(self.epoch))]
        trained = time.perf_counter()
        detections = self._detect()
        scores = self.evaluator(detections)
        classification, box = np.mean(losses, axis=0).tolist()
        return EpochResult(
            self.epoch, classification + box, classification, box, scores.values, scores.per_class, scores.best_f1_scores,
            self.optimizer.param_groups[0]["lr"], trained - start, time.perf_counter() - trained, time.process_time() - busy,
        )  # fmt: skip

    def _train_batch(self, n: int, images: torch.Tensor, targets: Any) -> tuple[float, float]:
        step = (self.epoch - 1) * self.batches.steps + n
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate.at(step)
        rows = zip(targets.boxes_xyxy, targets.labels, targets.valid, strict=True)
        losses = self.model(list(images), [{"boxes": b[v], "labels": k[v] + 1} for b, k, v in rows])  # 0 is background
        classification = losses["loss_classifier"] + losses["loss_objectness"]
        box = losses["loss_box_reg"] + losses["loss_rpn_box_reg"]
        if not torch.isfinite(classification + box):
            raise DivergedError(self.epoch, step + 1, float(classification + box))
        self.optimizer.zero_grad(set_to_none=True)
        (classification + box).backward()
        self.optimizer.step()
        return float(classification.detach()), float(box.detach())

    @torch.no_grad()
    def _detect(self) -> list[dict[str, Any]]:
        self.model.eval()
        rows: list[dict[str, Any]] = []
        parts = np.split(np.arange(len(self.data.val)), range(8, len(self.data.val), 8))
        for part, (images, _, _) in zip(parts, load_batches(self.data.val, parts, self.device), strict=True):
            found = self.model(list(normalise_plainly(images, self.batches.mean, self.batches.std)))
            number = torch.cat([torch.full((len(f["scores"]),), n) for n, f in enumerate(found)])
            boxes, scores, labels = (torch.cat([f[k] for f in found]).cpu() for k in ("boxes", "scores", "labels"))
            rows += detections_as_coco(Detections(number, boxes, scores, labels - 1), self.data.val, int(part[0]))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there as if nothing had happened."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
