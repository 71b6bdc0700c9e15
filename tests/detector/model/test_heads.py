"""The heads: order of their outputs, prior, sharing, norms and precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config import DetectorConfig
from detector.model import heads
from detector.model.heads import DenseHead, initial_bias, permute_to_b_hwa_k
from detector.model.norms import make_norm, num_groups_for
from detector.model.sparse_convolution import convolve_rows

ANCHORS, CLASSES, CHANNELS = 3, 5, 16
SHAPES = [(4, 6), (2, 3)]
NUM_ANCHORS = 2 * (24 + 6) * ANCHORS  # of two images


def head(**values: Any) -> DenseHead:
    torch.manual_seed(0)
    defaults = {"neck_channels": CHANNELS, "head_channels": 24, "head_depth": 2}
    config = DetectorConfig(**{**defaults, **values})
    return DenseHead(config, [CHANNELS] * len(SHAPES), [ANCHORS] * len(SHAPES), CLASSES)


def pyramid(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, CHANNELS, *shape, generator=generator) for shape in SHAPES]


def test_permute_puts_row_column_anchor_in_front_and_k_last() -> None:
    # The value at (b, a * K + k, y, x) spells its own address in decimal digits.
    b, a, k, y, x = torch.meshgrid(*(torch.arange(n) for n in (2, ANCHORS, CLASSES, 4, 6)), indexing="ij")
    spelled = 10000 * b + 1000 * a + 100 * k + 10 * y + x
    flat = permute_to_b_hwa_k(spelled.reshape(2, ANCHORS * CLASSES, 4, 6), CLASSES)
    assert flat.shape == (2, 4 * 6 * ANCHORS, CLASSES)
    assert flat[1, (3 * 6 + 5) * ANCHORS + 2, 4] == 12435  # image 1, row 3, column 5, anchor 2, class 4
    assert flat[0, 1 * ANCHORS + 0, 0] == 1  # the second column follows the anchors of the first


def test_permute_is_the_same_for_channels_last() -> None:
    x = torch.randn(2, ANCHORS * 4, 4, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(permute_to_b_hwa_k(x, 4), permute_to_b_hwa_k(x.to(memory_format=torch.channels_last), 4))


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_shapes_over_all_levels(depth: int, shared: bool) -> None:
    logits, regression = head(head_depth=depth, head_shared=shared)(pyramid())
    total = (24 + 6) * ANCHORS
    assert logits.shape == (2, total, CLASSES)
    assert regression.shape == (2, total, 4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("prior", [0.01, 0.3])
def test_scores_start_at_the_prior(prior: float, shared: bool) -> None:
    made = head(prior_probability=prior, head_shared=shared)
    for tower in made.classification:
        torch.testing.assert_close(tower.output.bias, torch.full((ANCHORS * CLASSES,), math.log(prior / (1 - prior))))
    scores = made(pyramid())[0].sigmoid()
    assert scores.mean().item() == pytest.approx(prior, rel=0.05)
    for tower in made.regression:
        assert (tower.output.bias == 0).all()


def test_levels_come_one_behind_the_other_in_the_pyramids_order() -> None:
    made = head()
    before = made(pyramid())[0]
    changed = pyramid()
    changed[1] += 1.0
    after = made(changed)[0]
    first = 24 * ANCHORS
    assert torch.equal(before[:, :first], after[:, :first])
    assert not torch.equal(before[:, first:], after[:, first:])


def test_classification_and_regression_share_no_convolution() -> None:
    made = head()
    before = made(pyramid())
    with torch.no_grad():
        made.classification[0].convs[0].weight.zero_()
    after = made(pyramid())
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_head_gives_equal_maps_equal_outputs_and_own_heads_do_not(shared: bool) -> None:
    made = head(head_shared=shared)
    same = pyramid()[0]
    logits, _ = made([same, same])
    first, second = logits.chunk(2, dim=1)
    assert torch.equal(first, second) is shared
    assert len(made.classification) == len(made.regression) == (1 if shared else 2)


def test_batch_norms_are_per_level_under_shared_convolutions() -> None:
    made = head(head_norm="batch").train()
    tower = made.classification[0]
    assert len(tower.convs) == 2
    assert [len(norms) for norms in tower.norms] == [2, 2]
    made([pyramid()[0], 5 + pyramid()[1]])
    means = [norms[0].running_mean for norms in tower.norms]
    assert not torch.allclose(means[0], means[1])
    assert all(conv.bias is None for conv in tower.convs)


def test_group_norms_are_shared_by_the_levels() -> None:
    tower = head(head_norm="group", group_norm_channels=12).classification[0]
    assert len(tower.norms) == 1
    assert [norm.num_groups for norm in tower.norms[0]] == [2, 2]


def test_without_convolutions_there_is_no_norm_and_the_output_reads_the_neck() -> None:
    made = head(head_depth=0, head_norm="batch", neck_channels=CHANNELS)
    assert not [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    assert made.classification[0].output.in_channels == CHANNELS
    torch.testing.assert_close(
        made(pyramid())[0][:, : 24 * ANCHORS], permute_to_b_hwa_k(made.classification[0].output(pyramid()[0]), CLASSES)
    )


def asked(count: int) -> Tensor:
    """(B, A) bool: so many of the anchors, at random."""
    order = torch.randperm(NUM_ANCHORS, generator=torch.Generator().manual_seed(6))
    return (order < count).view(2, -1)


@pytest.mark.parametrize("count", [0, 1, 4, 50, NUM_ANCHORS])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_box_regression_at_some_anchors_is_that_of_all(count: int, norm: str, depth: int, shared: bool) -> None:
    plain, sparse = (head(head_depth=depth, head_norm=norm, head_shared=shared).double() for _ in range(2))
    for made in (plain, sparse):  # outputs that hang on their inputs, and biases, which no border may show
        drawn = torch.Generator().manual_seed(7)
        for tower in made.regression:
            nn.init.normal_(tower.output.weight, std=0.1, generator=drawn)
            for conv in (*tower.convs, tower.output):
                if conv.bias is not None:
                    nn.init.normal_(conv.bias, generator=drawn)
    chosen = asked(count)
    inputs, reference = ([x.double().requires_grad_() for x in pyramid()] for _ in range(2))
    image, anchor, found = sparse.box_regression_at(inputs, chosen)
    expected = plain.box_regression(reference)
    assert found.dtype == torch.float32
    assert len(found) == count
    again = torch.zeros_like(expected).index_put((image, anchor), found)
    torch.testing.assert_close(again, torch.where(chosen[..., None], expected, 0.0), rtol=1e-5, atol=1e-6)

    # Every parameter has its gradient, zeros where nothing is asked for: an optimizer decays it as ever.
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(8))
    (again * slope).sum().backward()
    (torch.where(chosen[..., None], expected, 0.0) * slope).sum().backward()
    both = zip((*inputs, *sparse.regression.parameters()), (*reference, *plain.regression.parameters()), strict=True)
    for mine, theirs in both:
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "count", "everywhere"),
    [("none", 1, [0, 0]), ("none", 5, [2, 0]), ("none", NUM_ANCHORS, [2, 2]), ("group", 1, [2, 2])],
    ids=["few are read", "most of the first's are", "all are", "a norm reads all"],
)
def test_hidden_convolutions_are_done_where_they_are_read(norm: str, count: int, everywhere: list[int]) -> None:
    made = head(head_norm=norm)
    calls = [0, 0]
    for n, conv in enumerate(made.regression[0].convs):
        conv.register_forward_hook(lambda *_, n=n: calls.__setitem__(n, calls[n] + 1))
    made.box_regression_at(pyramid(), asked(count))
    assert calls == everywhere  # once a level


def test_outputs_are_fp32_under_bf16_layers() -> None:
    made = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, regression = made(pyramid())
    assert logits.dtype == regression.dtype == torch.float32
    exact = made(pyramid())[0]
    assert not torch.equal(logits, exact)  # the layers did run in bfloat16
    torch.testing.assert_close(logits, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_convolutions_are_done_at_rounded_numbers_of_cells(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    sizes = []

    def noted(conv: nn.Conv2d, rows: Tensor, under: Tensor) -> Tensor:
        sizes.append(len(under))
        return convolve_rows(conv, rows, under)

    monkeypatch.setattr(heads, "convolve_rows", noted)
    head().box_regression_at(pyramid(), asked(count))
    assert sizes
    assert all(size % 2 == 0 for size in sizes)  # a 32nd of 60 cells, rounded up


@pytest.mark.parametrize("count", [0, 1, 4, NUM_ANCHORS])
def test_box_regression_at_some_anchors_under_bf16_layers_is_near_fp32s(count: int) -> None:
    plain, sparse = head(), head()
    inputs, reference = ([x.requires_grad_() for x in pyramid()] for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, anchor, found = sparse.box_regression_at(inputs, asked(count))
    expected = plain.box_regression(reference)[image, anchor]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) == (count == 0)  # the layers did run in bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    found.sum().backward()
    expected.sum().backward()
    both = zip((*inputs, *sparse.regression.parameters()), (*reference, *plain.regression.parameters()), strict=True)
    for mine, theirs in both:
        assert (mine.grad - theirs.grad).norm() <= 0.1 * theirs.grad.norm()  # done everywhere: 0.03


@pytest.mark.parametrize(
    ("channels", "per_group", "groups"), [(16, 8, 2), (16, 16, 1), (24, 7, 3), (40, 7, 5), (8, 256, 1), (20, 3, 5)]
)
def test_the_number_of_groups_divides_the_channels(channels: int, per_group: int, groups: int) -> None:
    assert num_groups_for(channels, per_group) == groups  # 40 // 7 = 5; 20 // 3 = 6, which does not divide 20: 5
    made = make_norm("group", channels, per_group)
    assert isinstance(made, nn.GroupNorm)
    assert made.num_groups == groups


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_softmax_starts_at_background_with_the_classes_alike(prior: float) -> None:
    made = head(class_scores="softmax", prior_probability=prior, head_shared=False, head_depth=0)
    for level, tower in enumerate(made.classification):
        nn.init.zeros_(tower.output.weight)
        scores = permute_to_b_hwa_k(tower(pyramid()[level], 0), CLASSES + 1).softmax(dim=-1)
        torch.testing.assert_close(scores[..., -1], torch.full_like(scores[..., -1], 1 - prior))
        torch.testing.assert_close(scores[..., 0], torch.full_like(scores[..., 0], prior / CLASSES))


def test_the_reports_bias_by_hand() -> None:
    # p = 0.99 background of K = 9 scores: log(p (K - 1) / (1 - p)) = log(792)
    assert initial_bias(0.01, 8, softmax=True).tolist() == pytest.approx([0.0] * 8 + [math.log(792)])
    assert initial_bias(0.01, 2, softmax=False).tolist() == pytest.approx([-math.log(99)] * 2)


def test_without_a_prior_every_bias_is_zero() -> None:
    assert all((tower.output.bias == 0).all() for tower in head(bias_init="zero").classification)


def test_levels_may_differ_in_channels_and_anchors() -> None:
    config = DetectorConfig(head_shared=False, head_depth=0, class_scores="softmax")
    made = DenseHead(config, [8, 24], [2, 6], CLASSES)
    logits, boxes = made([torch.zeros(2, 8, 4, 6), torch.zeros(2, 24, 2, 3)])
    anchors = 4 * 6 * 2 + 2 * 3 * 6
    assert logits.shape == (2, anchors, CLASSES + 1)
    assert boxes.shape == (2, anchors, 4)
