"""Focal and box losses against torchvision's, by hand, and over padded batches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

from detector.config import DetectorConfig
from detector.model.box_coding import decode_boxes, encode_boxes
from detector.model.heads import AtAnchors
from detector.model.losses import DetectionLoss, focal_loss, make_class_loss
from detector.model.matching import BACKGROUND, IGNORED
from tests.detector.model.test_box_coding import random_boxes

NUM_CLASSES = 3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.9])
def test_focal_loss_and_its_gradient_equal_torchvisions(gamma: float, alpha: float) -> None:
    for target in (True, False):
        # Theirs in double precision: in fp32 its 1 - p cancels.
        exact = torch.linspace(-12, 12, 49, dtype=torch.float64, requires_grad=True)
        theirs = sigmoid_focal_loss(exact, torch.full_like(exact, float(target)), alpha=alpha, gamma=gamma)
        theirs.sum().backward()
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            logits = exact.detach().to(dtype).requires_grad_()
            loss = focal_loss(logits, target, gamma, alpha)
            loss.sum().backward()
            torch.testing.assert_close(loss, theirs.to(dtype), rtol=tolerance, atol=0)
            torch.testing.assert_close(logits.grad, exact.grad.to(dtype), rtol=tolerance, atol=0)


def test_focal_loss_with_a_weight_per_class_has_the_gradient_of_its_values() -> None:
    logits = torch.randn(
        5, NUM_CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    alpha = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for target in (True, False):
        assert torch.autograd.gradcheck(lambda x, target=target: focal_loss(x, target, 1.5, alpha), (logits,))


def test_focal_loss_by_hand() -> None:
    # p = 1/2: alpha_t * (1/2)^2 * log 2.
    assert focal_loss(torch.tensor(0.0), True, 2.0, 0.25).item() == pytest.approx(0.25 * 0.25 * math.log(2))
    assert focal_loss(torch.tensor(0.0), False, 2.0, 0.25).item() == pytest.approx(0.75 * 0.25 * math.log(2))


def test_focal_loss_and_its_gradient_stay_finite_where_the_sigmoid_is_flat() -> None:
    for target in (True, False):
        logits = torch.tensor([-90.0, -30.0, 30.0, 90.0], requires_grad=True)
        loss = focal_loss(logits, target, 2.0, 0.25)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(logits.grad).all()


class Batch:
    """Two images: three boxes, and one box with two rows of padding; 40 anchors, some of each kind of match."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(40)
        self.anchors = random_boxes(40, seed=41)
        self.boxes = torch.stack([random_boxes(3, seed=42), random_boxes(3, seed=43)])
        self.labels = torch.tensor([[2, 0, 1], [1, -1, -1]])
        self.boxes[1, 1:] = 0
        self.matched = torch.full((2, 40), BACKGROUND)
        self.matched[0, :6] = torch.tensor([0, 1, 2, 2, 1, 0])
        self.matched[1, 10:12] = 0
        self.matched[:, 30:] = IGNORED
        self.logits = torch.randn(2, 40, NUM_CLASSES, generator=generator) * 2
        self.regression = torch.randn(2, 40, 4, generator=generator) * 0.3

    def loss(self, at_anchors: bool = False, **values: object) -> tuple[Tensor, Tensor]:
        """With the box regression of every anchor, or of the matched ones alone."""
        loss = DetectionLoss(DetectorConfig(**values))
        regression: Tensor | AtAnchors = self.regression
        if at_anchors:
            image, anchor = (self.matched >= 0).nonzero(as_tuple=True)
            order = torch.randperm(len(image), generator=torch.Generator().manual_seed(44))
            regression = AtAnchors(image[order], anchor[order], self.regression[image, anchor][order])
        return loss(self.logits, regression, self.matched, self.boxes, self.labels, self.anchors)


@pytest.fixture
def batch() -> Batch:
    return Batch()


def image_by_image(
    batch: Batch, box_loss: str, beta: float, gamma: float, alpha: float
) -> list[tuple[Tensor, Tensor, int]]:
    """Plain reference: (classification sum, box sum, positives) of each image."""
    found = []
    for n in range(len(batch.logits)):
        positive = (batch.matched[n] >= 0).nonzero().flatten()
        counted = batch.matched[n] != IGNORED
        target = torch.zeros_like(batch.logits[n])
        for a in positive.tolist():
            target[a, batch.labels[n, batch.matched[n, a]]] = 1.0
        classes = sigmoid_focal_loss(batch.logits[n][counted], target[counted], alpha, gamma, reduction="sum")
        wanted, anchors = batch.boxes[n][batch.matched[n][positive]], batch.anchors[positive]
        predicted = batch.regression[n][positive]
        if box_loss == "giou":
            boxes = generalized_box_iou_loss(decode_boxes(predicted, anchors), wanted, reduction="sum")
        else:
            boxes = F.smooth_l1_loss(predicted, encode_boxes(wanted, anchors), beta=beta, reduction="sum")
        found.append((classes, boxes, len(positive)))
    return found


@pytest.mark.parametrize("at_anchors", [False, True], ids=["everywhere", "at matched anchors"])
@pytest.mark.parametrize("normalization", ["image", "batch"])
@pytest.mark.parametrize(("box_loss", "beta"), [("smooth_l1", 0.0), ("smooth_l1", 0.4), ("giou", 0.0)])
def test_both_losses_equal_a_plain_loop_over_images(
    batch: Batch, normalization: str, box_loss: str, beta: float, at_anchors: bool
) -> None:
    rows = image_by_image(batch, box_loss, beta, gamma=1.5, alpha=0.4)
    assert [row[2] for row in rows] == [6, 2]
    if normalization == "image":
        expected = [sum(row[k] / row[2] for row in rows) / 2 for k in (0, 1)]
    else:
        expected = [sum(row[k] for row in rows) / 8 for k in (0, 1)]
    classification, box = batch.loss(
        at_anchors,
        focal_gamma=1.5,
        focal_alpha=0.4,
        box_loss=box_loss,
        smooth_l1_beta=beta,
        loss_normalization=normalization,
        box_loss_weight=3.0,
    )
    torch.testing.assert_close(classification, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(box, 3.0 * expected[1], rtol=1e-5, atol=1e-6)


def test_ignored_anchors_count_for_nothing(batch: Batch) -> None:
    before = batch.loss()
    batch.logits[:, 30:] += 5.0
    batch.regression[:, 30:] += 5.0
    assert batch.loss() == before
    batch.logits[:, 29] += 5.0
    assert batch.loss()[0] > before[0]


def test_background_counts_for_the_classes_and_not_for_the_boxes(batch: Batch) -> None:
    before = batch.loss()
    batch.regression[0, 20] += 5.0
    batch.logits[0, 20] -= 1.0
    after = batch.loss()
    assert after[1] == before[1]
    assert after[0] < before[0]


@pytest.mark.parametrize("normalization", ["image", "batch"])
def test_an_image_without_boxes_has_no_box_loss_and_divides_by_one(batch: Batch, normalization: str) -> None:
    batch.matched[:] = BACKGROUND
    classification, box = batch.loss(loss_normalization=normalization)
    total = focal_loss(batch.logits, False, 2.0, 0.25).sum()
    assert box == 0
    torch.testing.assert_close(classification, total / 2 if normalization == "image" else total)


def test_a_batch_padded_to_no_box_at_all_has_gradients() -> None:
    logits = torch.zeros(2, 5, NUM_CLASSES, requires_grad=True)
    regression = torch.zeros(2, 5, 4, requires_grad=True)
    classification, box = DetectionLoss(DetectorConfig())(
        logits,
        regression,
        torch.full((2, 5), BACKGROUND),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.int64),
        random_boxes(5, seed=44),
    )
    (classification + box).backward()
    assert box == 0
    assert (logits.grad > 0).all()
    assert torch.isfinite(regression.grad).all()


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_a_perfect_regression_has_no_box_loss(batch: Batch, box_loss: str) -> None:
    for n in range(2):
        index = batch.matched[n].clamp(min=0)
        batch.regression[n] = encode_boxes(batch.boxes[n][index], batch.anchors)
    assert batch.loss(box_loss=box_loss)[1].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_padding_gives_finite_gradients(batch: Batch, box_loss: str) -> None:
    batch.matched[1] = BACKGROUND  # its boxes are read at row 0 all the same
    batch.boxes[1] = 0
    batch.labels[1] = -1
    batch.logits.requires_grad_(True)
    batch.regression.requires_grad_(True)
    sum(batch.loss(box_loss=box_loss)).backward()
    assert torch.isfinite(batch.logits.grad).all()
    assert torch.isfinite(batch.regression.grad).all()
    assert (batch.regression.grad[0, :6] != 0).any()
    assert (batch.regression.grad[1] == 0).all()


def test_ciou_loss_equals_torchvisions(batch: Batch) -> None:
    positive = batch.matched >= 0
    total = torch.zeros(())
    for n in range(2):
        chosen = positive[n].nonzero().flatten()
        boxes = decode_boxes(batch.regression[n][chosen], batch.anchors[chosen])
        total = total + complete_box_iou_loss(boxes, batch.boxes[n][batch.matched[n][chosen]], reduction="sum")
    torch.testing.assert_close(batch.loss(box_loss="ciou")[1], total / 8, rtol=1e-5, atol=1e-6)


def test_softmax_focal_loss_by_hand() -> None:
    # One object at p = 0.5 and one background at p = 0.9; alpha 0.99, gamma 2.
    logits = torch.tensor([[[0.5, 0.3, 0.2], [0.06, 0.04, 0.9]]]).log()
    loss = make_class_loss(DetectorConfig(class_scores="softmax", focal_alpha=0.99, focal_gamma=2.0))
    labels, positive = torch.tensor([[0, 0]]), torch.tensor([[True, False]])
    found = loss(logits, labels, positive, torch.ones_like(positive))
    expected = 0.99 * 0.5**2 * -math.log(0.5) + 0.01 * 0.1**2 * -math.log(0.9)
    assert found.tolist() == pytest.approx([expected], rel=1e-5)
    ignored = loss(logits, labels, positive, torch.tensor([[True, False]]))
    assert ignored.tolist() == pytest.approx([0.99 * 0.25 * -math.log(0.5)], rel=1e-5)


def test_hard_negatives_on_six_anchors_by_hand() -> None:
    """One positive and, at 2 negatives a positive, the two backgrounds that the detector is least sure of."""
    background = [0.2, 0.9, 0.5, 0.99, 0.6, 0.8]  # of the six anchors; the rest of each goes to class 0
    rows = torch.tensor([[[1 - p, 1e-9, p] for p in background]]).log()
    positive = torch.tensor([[True, False, False, False, False, False]])
    counted = torch.tensor([[True, True, True, True, False, True]])  # the fifth is ignored
    config = DetectorConfig(class_scores="softmax", class_loss="hard_negatives", negatives_per_positive=2.0)
    found = make_class_loss(config)(rows, torch.zeros(1, 6, dtype=torch.long), positive, counted)
    # positive: class 0 at 0.8; negatives by difficulty: 0.5, 0.8 (0.6 is ignored), then 0.9 and 0.99 are left out
    assert found.tolist() == pytest.approx([-math.log(0.8) - math.log(0.5) - math.log(0.8)], rel=1e-5)
    none = make_class_loss(config)(rows, torch.zeros(1, 6, dtype=torch.long), torch.zeros_like(positive), counted)
    assert none.tolist() == [0.0], "no positive, no negative"


@pytest.mark.parametrize("values", [{}, {"class_loss": "hard_negatives"}])
def test_softmax_losses_have_finite_gradients_at_extreme_logits(values: dict[str, object]) -> None:
    logits = torch.tensor([[[80.0, -80.0, 0.0], [-80.0, -80.0, 80.0], [0.0, 0.0, -90.0]]], requires_grad=True)
    positive = torch.tensor([[True, False, False]])
    loss = make_class_loss(DetectorConfig(class_scores="softmax", focal_gamma=1.5, **values))
    loss(logits, torch.tensor([[1, 0, 0]]), positive, torch.ones_like(positive)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_focal_weights_per_class_stand_for_one_weight_and_for_their_own() -> None:
    made = Batch()
    for scores, width in (("sigmoid", NUM_CLASSES), ("softmax", NUM_CLASSES + 1)):
        logits = torch.randn(2, 40, width, generator=torch.Generator().manual_seed(1))
        labels = torch.tensor([2, 0, 1, 1]).repeat(2, 10)
        positive, counted = made.matched >= 0, made.matched != IGNORED

        def loss(alpha: object, scores: str = scores, logits: Tensor = logits, labels: Tensor = labels) -> Tensor:
            config = DetectorConfig(class_scores=scores, focal_alpha=alpha)
            return make_class_loss(config)(logits, labels, made.matched >= 0, made.matched != IGNORED)

        same = (0.3,) * NUM_CLASSES + ((0.7,) if scores == "softmax" else ())
        torch.testing.assert_close(loss(same), loss(0.3))
        if scores == "softmax":  # worked by hand: each anchor's own weight times (1 - p)^2 * -log p
            weights = torch.tensor([0.1, 0.2, 0.4, 0.8])
            target = torch.where(positive, labels, NUM_CLASSES)
            p = torch.softmax(logits, dim=-1).gather(2, target[..., None]).squeeze(-1)
            wanted = torch.where(counted, -weights[target] * (1 - p) ** 2 * p.log(), 0.0).sum(dim=1)
            torch.testing.assert_close(loss((0.1, 0.2, 0.4, 0.8)), wanted)
        else:  # against torchvision's, class by class
            one_hot = F.one_hot(labels, NUM_CLASSES).float() * positive[..., None]
            wanted = sum(
                torch.where(
                    counted,
                    sigmoid_focal_loss(logits[..., k], one_hot[..., k], alpha=alpha, gamma=2.0),
                    0.0,
                ).sum(dim=1)
                for k, alpha in enumerate((0.1, 0.5, 0.9))
            )
            torch.testing.assert_close(loss((0.1, 0.5, 0.9)), wanted)
