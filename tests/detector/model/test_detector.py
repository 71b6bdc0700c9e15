"""The detector as a whole: its faster ways say what the plain one says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.model import sparse_convolution
from detector.model.detector import Detector, Targets
from detector.model.losses import WholeBatch
from tests.detector.conftest import TINY

CLASSES, BATCH, BOXES = 3, 4, 5


def built(seed: int = 3, **values: object) -> Detector:
    """A detector whose heads say something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Detector(DetectorConfig(**{**TINY, "norm": "group", **values}), CLASSES)
        for tower in (*model.head.classification, *model.head.regression):
            torch.nn.init.normal_(tower.output.weight, std=0.1)
    return model


def batch(model: Detector) -> tuple[Tensor, Targets]:
    height, width = model.canvas
    drawn = torch.Generator().manual_seed(4)
    images = torch.randn(BATCH, 3, height, width, generator=drawn)
    sides = 8 + 24 * torch.rand(BATCH, BOXES, 2, generator=drawn)
    corner = (torch.tensor([width, height]) - sides) * torch.rand(BATCH, BOXES, 2, generator=drawn)
    boxes = torch.cat([corner, corner + sides], dim=-1)
    labels = torch.randint(CLASSES, (BATCH, BOXES), generator=drawn)
    labels[1, 2:], labels[2] = -1, -1  # two images have fewer boxes, or none
    boxes[labels < 0] = 0.0
    return images, Targets(boxes, labels)


def test_channels_last_has_the_losses_and_detections_of_the_plain_layout() -> None:
    plain, fast = built(), built().to(memory_format=torch.channels_last)
    images, targets = batch(plain)
    as_laid_out = images.contiguous(memory_format=torch.channels_last)
    expected, found = plain.losses(images, targets), fast.losses(as_laid_out, targets)
    assert min(loss.item() for loss in expected) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    wanted, seen = plain.eval().detect(images), fast.eval().detect(as_laid_out)
    assert len(wanted.scores) > 20
    assert torch.equal(seen.image_index, wanted.image_index)
    assert torch.equal(seen.labels, wanted.labels)
    torch.testing.assert_close(seen.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.boxes_xyxy, wanted.boxes_xyxy, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("matcher", ["threshold", "ssd", "atss"])
def test_a_padded_batch_has_the_losses_of_its_images_one_by_one(matcher: str) -> None:
    model = built(matcher=matcher)
    images, targets = batch(model)
    expected = torch.zeros(2)
    positives = (model.match(targets) >= 0).sum().float()
    for n in range(BATCH):
        rows = int((targets.labels[n] >= 0).sum())
        alone = Targets(targets.boxes_xyxy[n : n + 1, :rows], targets.labels[n : n + 1, :rows])  # no padding
        expected += torch.stack(model.losses(images[n : n + 1], alone, WholeBatch(BATCH, positives)))
    assert positives > 3
    torch.testing.assert_close(torch.stack(model.losses(images, targets)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per", ["image", "batch"])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou", "ciou"])
@pytest.mark.parametrize("layers", [{"head_depth": 2}, {"head_norm": "group"}, {"head_shared": False, "head_depth": 0}])
@pytest.mark.parametrize("boxes", [True, False], ids=["boxes", "no boxes"])
def test_a_step_of_matched_anchors_alone_is_that_of_all(
    monkeypatch: pytest.MonkeyPatch, box_loss: str, per: str, layers: dict[str, object], boxes: bool
) -> None:
    values = {"box_loss": box_loss, "loss_normalization": per, "match_iou_high": 0.3, "match_iou_low": 0.2, **layers}
    plain, sparse = built(**values), built(**values)
    done_everywhere = []
    for name, model in (("plain", plain), ("sparse", sparse)):
        model.head.regression[0].output.register_forward_hook(lambda *_, name=name: done_everywhere.append(name))
    images, targets = batch(plain)
    if not boxes:
        targets = Targets(targets.boxes_xyxy[:, :0], targets.labels[:, :0])
    positives = (plain.match(targets) >= 0).sum(dim=1)
    assert (positives > 0).sum() == (3 if boxes else 0)
    found = sparse.losses(images, targets)
    monkeypatch.setattr(sparse_convolution, "pays_on", lambda device: False)  # as on a GPU
    expected = plain.losses(images, targets)
    assert set(done_everywhere) == {"plain"}
    assert (expected[1] > 0.01) == boxes
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    sum(expected).backward()
    sum(found).backward()
    for mine, theirs in zip(sparse.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
