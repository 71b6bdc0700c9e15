"""Our detector with torchvision's settings and weights has torchvision's losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from benchmarks.torchvision_twin import AS_TORCHVISION, twin_of
from detector.config import DetectorConfig
from detector.model import sparse_convolution
from detector.model.detector import Detector, Targets
from tests.detector.model.test_box_coding import random_boxes

NUM_CLASSES, HEIGHT, WIDTH = 8, 128, 512
CONFIG = DetectorConfig(**{**AS_TORCHVISION, "image_size_px": (HEIGHT, WIDTH), "norm": "frozen", "pretrained": "coco"})


def batch_images() -> Tensor:
    return torch.randn(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(50))


@pytest.fixture(scope="module")
def reference() -> RetinaNet:
    """torchvision's RetinaNet whose batch statistics fit its random weights, and whose heads say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(51)
        model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
    with torch.no_grad():
        model.backbone.train()(batch_images())  # one pass sets the running statistics
    return model.eval()


def target_rows(*counts: int) -> list[dict[str, Tensor]]:
    """torchvision's targets (labels from 0, as its RetinaNet counts them) inside the canvas."""
    rows = []
    for n, count in enumerate(counts):
        boxes = random_boxes(count, seed=60 + n) if count else torch.zeros(0, 4)
        boxes[:, 0::2].clamp_(0, WIDTH)
        boxes[:, 1::2].clamp_(0, HEIGHT)
        labels = torch.randint(NUM_CLASSES, (count,), generator=torch.Generator().manual_seed(70 + n))
        rows.append({"boxes": boxes, "labels": labels})
    return rows


def padded(rows: list[dict[str, Tensor]]) -> Targets:
    most = max(len(row["labels"]) for row in rows)
    targets = Targets(torch.zeros(len(rows), most, 4), torch.full((len(rows), most), -1))
    for n, row in enumerate(rows):
        count = len(row["labels"])
        targets.boxes_xyxy[n, :count], targets.labels[n, :count] = row["boxes"], row["labels"]
    return targets


@pytest.fixture(scope="module")
def both(reference: RetinaNet) -> tuple[RetinaNet, Detector, dict[str, Tensor], list[Tensor]]:
    """(torchvision's model, ours, torchvision's head outputs on the batch, its anchors)."""
    with torch.no_grad():
        maps = list(reference.backbone(batch_images()).values())
        outputs = reference.head(maps)
        anchors = reference.anchor_generator(ImageList(batch_images(), [(HEIGHT, WIDTH)] * 3), maps)
    return reference, twin_of(reference, CONFIG, NUM_CLASSES), outputs, anchors


def test_anchors_are_torchvisions(both) -> None:  # type: ignore[no-untyped-def]
    _, ours, _, anchors = both
    assert ours.anchors_xyxy.shape == (9 * (16 * 64 + 8 * 32 + 4 * 16 + 2 * 8 + 1 * 4), 4)
    assert torch.equal(ours.anchors_xyxy, anchors[0])


def test_logits_and_box_regression_are_torchvisions(both) -> None:  # type: ignore[no-untyped-def]
    _, ours, outputs, _ = both
    with torch.no_grad():
        logits, regression = ours.train()(batch_images())  # frozen norms: training mode changes nothing
    assert outputs["cls_logits"].std() > 0.01
    torch.testing.assert_close(logits, outputs["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(regression, outputs["bbox_regression"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sparse", [True, False], ids=["matched anchors alone", "all anchors"])
@pytest.mark.parametrize(
    "counts", [(6, 3, 1), (5, 0, 2), (0, 0, 0)], ids=["boxes", "an image without boxes", "no boxes at all"]
)
def test_losses_are_torchvisions(  # type: ignore[no-untyped-def]
    both, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], sparse: bool
) -> None:
    reference, ours, outputs, anchors = both
    monkeypatch.setattr(sparse_convolution, "pays_on", lambda device: sparse)
    rows = target_rows(*counts)
    with torch.no_grad():
        expected = reference.compute_loss(rows, outputs, anchors)
        classification, box = ours.losses(batch_images(), padded(rows))
    assert (expected["bbox_regression"] > 0.01) == any(counts)
    torch.testing.assert_close(classification, expected["classification"], rtol=1e-4, atol=0)
    torch.testing.assert_close(box, expected["bbox_regression"], rtol=1e-4, atol=1e-7)


def test_every_class_counts_from_0(both) -> None:  # type: ignore[no-untyped-def]
    reference, ours, outputs, anchors = both
    rows = target_rows(6, 3, 1)
    seen = set()
    for label in (0, NUM_CLASSES - 1):
        for row in rows:
            row["labels"][:] = label
        with torch.no_grad():
            expected = reference.compute_loss(rows, outputs, anchors)["classification"]
            matched = ours.matcher(padded(rows).boxes_xyxy, padded(rows).valid, ours.anchors_xyxy)
            found, _ = ours.loss(
                outputs["cls_logits"],
                outputs["bbox_regression"],
                matched,
                padded(rows).boxes_xyxy,
                padded(rows).labels,
                ours.anchors_xyxy,
            )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
        seen.add(round(found.item(), 5))
    assert len(seen) == 2
