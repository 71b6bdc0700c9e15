"""Augmentation: boxes go where their pixels go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.data.augment import (
    Affine,
    Augmentation,
    crop_to_affine,
    draw_crops,
    flip_and_roll_images,
    flip_boxes,
    move_boxes,
    move_columns,
    move_columns_in_place,
    normalise,
    resample,
    roll_boxes,
)
from detector.data.recycled import RecycledMemory
from detector.model.box_coding import pairwise_iou
from detector.model.detector import Targets

HEIGHT, WIDTH = 64, 128
ZERO, ONE = torch.zeros(3), torch.ones(3)


def config(**values: Any) -> DetectorConfig:
    return DetectorConfig(**{"flip_probability": 0.0, **values})


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(batch: int, seed: int, smallest: int = 12, largest: int = 40) -> tuple[Tensor, Targets]:
    """Black images (B, H, W, 3) with one white rectangle each, and its box."""
    drawn = np.random.default_rng(seed)
    images = torch.zeros(batch, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    boxes = torch.zeros(batch, 1, 4)
    for n in range(batch):
        w, h = drawn.integers(smallest, largest, 2)
        x, y = drawn.integers(0, WIDTH - w), drawn.integers(0, HEIGHT - h)
        images[n, y : y + h, x : x + w] = 255
        boxes[n, 0] = torch.tensor([x, y, x + w, y + h])
    return images, Targets(boxes, torch.zeros(batch, 1, dtype=torch.int64))


def whole_content(batch: int) -> Tensor:
    return torch.tensor([[HEIGHT, WIDTH]] * batch)


def bright_extent(image: Tensor) -> list[int]:
    """xyxy of the pixels of (3, H, W) above one half."""
    rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def augment(images: Tensor, targets: Targets, seed: int, **values: Any) -> tuple[Tensor, Targets]:
    given = images.clone()  # a batch is given away
    return Augmentation(config(**values))(given, whole_content(len(images)), targets, ZERO, ONE, generator(seed))


@pytest.mark.parametrize(
    ("values", "tolerance_px"),
    [
        ({"flip_probability": 0.5}, 0),
        ({"crop_probability": 1.0, "crop_min_iou": 0.02}, 1),
        ({"zoom_max": 1.0}, 1),
        ({"translate_max": 0.3}, 1),
        (
            {
                "flip_probability": 0.5,
                "crop_probability": 0.5,
                "crop_min_iou": 0.02,
                "zoom_max": 0.5,
                "translate_max": 0.2,
            },
            1,
        ),
    ],
    ids=["flip", "crop", "zoom", "translate", "all"],
)
def test_boxes_move_with_their_pixels(values: dict[str, float], tolerance_px: int) -> None:
    images, targets = painted(48, seed=3)
    moved_images, moved = augment(images, targets, seed=11, **values)
    assert moved_images.shape == (48, 3, HEIGHT, WIDTH)
    kept = [n for n in range(48) if bool(moved.valid[n].any())]
    assert len(kept) >= 24  # most rectangles are still to be seen
    changed = 0
    for n in kept:
        box = moved.boxes_xyxy[n, 0]
        np.testing.assert_allclose(box.tolist(), bright_extent(moved_images[n]), atol=tolerance_px)
        changed += bool((box - targets.boxes_xyxy[n, 0]).abs().max() > 2)
    assert changed >= 12  # it was no identity


def test_a_roll_moves_boxes_with_their_pixels_and_parts_them_at_the_seam() -> None:
    images, targets = painted(48, seed=4)
    rolled_images, rolled = augment(images, targets, seed=2, roll_probability=1.0)
    parted = 0
    for n in range(48):
        boxes = rolled.boxes_xyxy[n][rolled.valid[n]].int().tolist()
        drawn = torch.zeros(HEIGHT, WIDTH)
        for x1, y1, x2, y2 in boxes:
            drawn[y1:y2, x1:x2] = 1
        torch.testing.assert_close(rolled_images[n, 0], drawn, rtol=0, atol=0)
        before = targets.boxes_xyxy[n, 0]
        assert sum(x2 - x1 for x1, _, x2, _ in boxes) == int(before[2] - before[0])
        parted += len(boxes) == 2
    assert 3 <= parted <= 24


def test_a_rolled_box_across_the_seam_by_hand() -> None:
    # 128 columns, rolled by 20: 100..120 becomes 120..140, of which 8 columns stay and 12 come in on the left
    targets = Targets(torch.tensor([[[100.0, 10, 120, 20], [0, 0, 0, 0]]]), torch.tensor([[3, -1]]))
    rolled = roll_boxes(targets, torch.tensor([20]), torch.tensor([128]))
    assert rolled.boxes_xyxy[rolled.valid].tolist() == [[120, 10, 128, 20], [0, 10, 12, 20]]
    assert rolled.labels.tolist() == [[3, -1, 3, -1]]
    # rolled by 8 it ends exactly at the seam and stays whole; by 28 it starts there
    for shift, box in ((8, [108, 10, 128, 20]), (28, [0, 10, 20, 20])):
        rolled = roll_boxes(targets, torch.tensor([shift]), torch.tensor([128]))
        assert rolled.boxes_xyxy[rolled.valid].tolist() == [box]


def test_a_sliver_at_the_seam_is_dropped() -> None:
    # 100.5..120.5 rolled by 8 leaves half a column on the far side: less than a pixel, no box
    targets = Targets(torch.tensor([[[100.5, 10, 120.5, 20]]]), torch.tensor([[0]]))
    rolled = roll_boxes(targets, torch.tensor([8]), torch.tensor([128]))
    assert rolled.boxes_xyxy[rolled.valid].tolist() == [[108.5, 10, 128, 20]]


def test_flip_by_hand_and_twice_is_the_identity() -> None:
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), generator=generator(0), dtype=torch.uint8)
    targets = Targets(
        torch.tensor([[[10.0, 5, 30, 25], [0, 0, 0, 0]], [[1.0, 2, 3, 4], [100, 5, 128, 6]]]),
        torch.tensor([[1, -1], [0, 2]]),
    )
    flip, still = torch.tensor([True, False]), torch.zeros(2, dtype=torch.int64)
    content = torch.tensor([100, 128])
    once = flip_boxes(targets, flip, content)
    # about the middle of 100 columns of content: 100 - 30 = 70, 100 - 10 = 90; the padding row stays zero
    assert once.boxes_xyxy[0].tolist() == [[70, 5, 90, 25], [0, 0, 0, 0]]
    assert torch.equal(once.boxes_xyxy[1], targets.boxes_xyxy[1])
    assert torch.equal(flip_boxes(once, flip, content).boxes_xyxy, targets.boxes_xyxy)
    flipped = flip_and_roll_images(images.clone(), flip, still, content)
    assert torch.equal(flipped[0, :, :100], images[0, :, :100].flip(1))
    assert torch.equal(flipped[0, :, 100:], images[0, :, 100:])
    assert torch.equal(flipped[1], images[1])
    assert torch.equal(flip_and_roll_images(flipped.clone(), flip, still, content), images)


def test_a_roll_equals_torchs_roll_of_the_content() -> None:
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), generator=generator(1), dtype=torch.uint8)
    still = torch.zeros(2, dtype=torch.bool)
    rolled = flip_and_roll_images(images.clone(), still, torch.tensor([17, 50]), torch.tensor([128, 90]))
    assert torch.equal(rolled[0], images[0].roll(17, dims=1))
    assert torch.equal(rolled[1, :, :90], images[1, :, :90].roll(50, dims=1))
    assert torch.equal(rolled[1, :, 90:], images[1, :, 90:])


def test_mirror_then_roll_is_the_order_of_pixels_and_boxes() -> None:
    images, targets = painted(24, seed=9)
    moved_images, moved = augment(images, targets, seed=5, flip_probability=1.0, roll_probability=1.0)
    for n in range(24):
        drawn = torch.zeros(HEIGHT, WIDTH)
        for x1, y1, x2, y2 in moved.boxes_xyxy[n][moved.valid[n]].int().tolist():
            drawn[y1:y2, x1:x2] = 1
        torch.testing.assert_close(moved_images[n, 0], drawn, rtol=0, atol=0)


@pytest.mark.parametrize(
    "values",
    [
        {"flip_probability": 1.0},
        {"roll_probability": 1.0},
        {"crop_probability": 1.0, "crop_min_iou": 0.0},
        {"zoom_max": 1.0, "translate_max": 0.2},
    ],
    ids=["flip", "roll", "crop", "zoom"],
)
def test_padding_rows_stay_padding(values: dict[str, float]) -> None:
    images, targets = painted(16, seed=6)
    padded = Targets(
        torch.cat([torch.zeros(16, 2, 4), targets.boxes_xyxy], dim=1),
        torch.cat([torch.full((16, 2), -1), targets.labels], dim=1),
    )
    _, moved = augment(images, padded, seed=1, **values)
    rows = moved.labels.shape[1]
    for first in range(0, rows, 3):  # a roll doubles the rows
        assert (moved.labels[:, first : first + 2] == -1).all()
        assert (moved.boxes_xyxy[:, first : first + 2] == 0).all()
    assert (moved.boxes_xyxy[~moved.valid] == 0).all()
    assert moved.valid.any()


def test_a_batch_without_any_box_passes() -> None:
    images = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    empty = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    moved_images, moved = augment(
        images, empty, seed=1, flip_probability=1.0, roll_probability=1.0, crop_probability=1.0, zoom_max=0.5
    )
    assert moved_images.shape == (2, 3, HEIGHT, WIDTH)
    assert not moved.valid.any()


@pytest.mark.parametrize("min_iou", [0.0, 0.1, 0.3])
def test_crop_windows_hold_a_centre_and_overlap_enough(min_iou: float) -> None:
    _, targets = painted(64, seed=8, smallest=20, largest=60)
    # the second image's only box is padding, the third has none worth the name
    targets.labels[1] = -1
    windows = draw_crops(targets, HEIGHT, WIDTH, min_iou, generator(7))
    whole = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    assert torch.equal(windows[1], whole)
    cropped = 0
    for n in range(64):
        x1, y1, x2, y2 = windows[n].tolist()
        assert -1e-4 <= x1 < x2 <= WIDTH + 1e-4
        assert -1e-4 <= y1 < y2 <= HEIGHT + 1e-4
        if torch.equal(windows[n], whole):
            continue
        cropped += 1
        box = targets.boxes_xyxy[n]
        cx, cy = ((box[0, :2] + box[0, 2:]) / 2).tolist()
        assert x1 < cx < x2
        assert y1 < cy < y2
        assert float(pairwise_iou(windows[n][None, None], box[None])) >= min_iou
        share = (x2 - x1) * (y2 - y1) / (WIDTH * HEIGHT)
        assert 0.05 <= share <= 1.0
    assert cropped >= 16


def test_a_crop_of_the_default_constraint_acts_on_boxes_of_the_street() -> None:
    box = torch.tensor([[[250.0, 50, 270, 72]]]).repeat(64, 1, 1)  # 20 x 22, the report's median car, on 128 x 512
    targets = Targets(box, torch.zeros(64, 1, dtype=torch.int64))
    windows = draw_crops(targets, 128, 512, DetectorConfig().crop_min_iou, generator(0))
    assert (windows != torch.tensor([0.0, 0.0, 512.0, 128.0])).any()


def test_crop_to_affine_and_move_boxes_by_hand() -> None:
    # the window 32..96 x 16..48 of 128 x 64 is blown up twice: x' = 2 (x - 32), y' = 2 (y - 16)
    affine = crop_to_affine(torch.tensor([[32.0, 16, 96, 48]]), HEIGHT, WIDTH)
    assert [float(part) for part in affine] == [2.0, -64.0, 2.0, -32.0]
    targets = Targets(
        torch.tensor([[[40.0, 20, 50, 30], [20, 20, 60, 40], [0, 0, 30, 10], [26, 20, 36, 40]]]),
        torch.tensor([[0, 1, 2, 3]]),
    )
    moved = move_boxes(targets, affine, HEIGHT, WIDTH)
    assert moved.boxes_xyxy[0, 0].tolist() == [16, 8, 36, 28]
    assert moved.boxes_xyxy[0, 1].tolist() == [0, 8, 56, 48]  # clipped at the left: 2 (20 - 32) = -24
    # outside, and centre at x = 31 outside by one pixel
    assert moved.labels.tolist() == [[0, 1, -1, -1]]


def test_a_crop_and_a_zoom_keep_the_windows_middle_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    # the window 20..60 x 10..40 has its middle at (40, 25); a box there comes to stand about (64, 32) whatever the zoom
    window = torch.tensor([[20.0, 10, 60, 40]]).repeat(16, 1)
    monkeypatch.setattr("detector.data.augment.draw_crops", lambda *_: window)
    targets = Targets(torch.tensor([[[36.0, 21, 44, 29]]]).repeat(16, 1, 1), torch.zeros(16, 1, dtype=torch.int64))
    images = torch.zeros(16, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    _, moved = augment(images, targets, seed=3, crop_probability=1.0, crop_min_iou=0.0, zoom_max=1.0)
    boxes = moved.boxes_xyxy[:, 0]
    middles, widths = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
    torch.testing.assert_close(middles, torch.tensor([[64.0, 32.0]]).repeat(16, 1), rtol=0, atol=1e-3)
    # 8 columns x 128 / 40 x a zoom of 0.5 .. 2
    assert 12.8 - 1e-3 <= float(widths.min()) < 18 < 36 < float(widths.max()) <= 51.2 + 1e-3


def test_what_comes_in_from_outside_is_the_channel_mean() -> None:
    images = torch.ones(1, 3, HEIGHT, WIDTH)
    right = Affine(torch.ones(1), torch.tensor([16.0]), torch.ones(1), torch.zeros(1))
    moved = resample(images, right)
    assert (moved[..., :16] == 0).all()
    torch.testing.assert_close(moved[..., 17:], torch.ones(1, 3, HEIGHT, WIDTH - 17))


def test_a_translation_by_whole_pixels_is_exact() -> None:
    images = torch.rand(1, 3, HEIGHT, WIDTH, generator=generator(3))
    moved = resample(images, Affine(torch.ones(1), torch.tensor([5.0]), torch.ones(1), torch.tensor([-3.0])))
    torch.testing.assert_close(moved[..., : HEIGHT - 3, 5:], images[..., 3:, : WIDTH - 5], rtol=0, atol=1e-4)


def test_normalise_by_hand() -> None:
    images = torch.tensor([[[[51, 102, 255]]]], dtype=torch.uint8)  # 0.2, 0.4, 1.0
    mean, std = torch.tensor([0.1, 0.4, 0.5]), torch.tensor([0.5, 0.25, 0.2])
    plain = normalise(images, mean, std, torch.ones(1, 3), torch.zeros(1))
    # (0.2 - 0.1) / 0.5, (0.4 - 0.4) / 0.25, (1.0 - 0.5) / 0.2
    torch.testing.assert_close(plain, torch.tensor([0.2, 0.0, 2.5]).view(1, 3, 1, 1), rtol=0, atol=1e-6)
    assert torch.equal(normalise(images, mean, std, torch.ones(1, 3), torch.zeros(1), RecycledMemory()), plain)
    gained = normalise(images, mean, std, torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([0.05]))
    # (0.1 x 2 + 0.05) / 0.5, (0 + 0.05) / 0.25, (0.5 x 0.5 + 0.05) / 0.2
    torch.testing.assert_close(gained, torch.tensor([0.5, 0.2, 1.5]).view(1, 3, 1, 1), rtol=0, atol=1e-6)


def test_without_augmentation_a_batch_is_only_normalised() -> None:
    images = torch.randint(0, 256, (4, HEIGHT, WIDTH, 3), generator=generator(2), dtype=torch.uint8)
    _, targets = painted(4, seed=1)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    given, kept = Augmentation(config())(images, whole_content(4), targets, mean, std, generator(0))
    expected = ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)
    assert torch.equal(kept.boxes_xyxy, targets.boxes_xyxy)


def test_jitter_changes_colours_and_leaves_boxes() -> None:
    images = torch.full((8, HEIGHT, WIDTH, 3), 128, dtype=torch.uint8)
    _, targets = painted(8, seed=1)
    jittered, kept = augment(images, targets, seed=4, jitter_strength=0.4)
    assert torch.equal(kept.boxes_xyxy, targets.boxes_xyxy)
    means = jittered.mean(dim=(2, 3))  # (B, 3), 0.502 without jitter
    assert means.std(dim=0).min() > 0.02  # images differ, and so do the channels of one
    assert (means.amax(dim=1) - means.amin(dim=1)).min() > 1e-3
    # gain within 1 +- 0.2, contrast within 1 +- 0.4, brightness +- 0.2
    assert means.max() <= 0.502 * 1.2 * 1.4 + 0.2 + 1e-3
    assert means.min() >= 0.502 * 0.8 * 0.6 - 0.2 - 1e-3


def test_the_same_generator_seed_gives_the_same_batch() -> None:
    images, targets = painted(8, seed=12)
    values = {
        "flip_probability": 0.5, "roll_probability": 0.5, "crop_probability": 0.5, "zoom_max": 0.4,
        "translate_max": 0.1, "jitter_strength": 0.3,
    }  # fmt: skip
    one, two, other = (augment(images, targets, seed=seed, **values) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].boxes_xyxy, two[1].boxes_xyxy)
    assert not torch.equal(one[0], other[0])


def test_augmentation_leaves_torchs_global_random_state_alone() -> None:
    images, targets = painted(4, seed=12)
    before = torch.get_rng_state()
    augment(images, targets, seed=1, flip_probability=0.5, crop_probability=1.0, zoom_max=0.4, jitter_strength=0.3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.3, 0.2, 0.4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_the_flip_probability_is_the_share_that_is_flipped(probability: float, low: float, high: float) -> None:
    # 400 draws at 0.3: standard deviation 0.023
    images = torch.zeros(400, 1, 2, 3, dtype=torch.uint8)
    images[:, :, 0] = 255
    none = Targets(torch.zeros(400, 0, 4), torch.zeros(400, 0, dtype=torch.int64))
    augmentation = Augmentation(config(flip_probability=probability))
    flipped, _ = augmentation(images, torch.tensor([[1, 2]] * 400), none, ZERO, ONE, generator(5))
    assert low <= float(flipped[:, 0, 0, 1].mean()) <= high


@pytest.mark.parametrize("content", [12, 9, 1])
def test_slices_move_columns_as_a_gather_does(content: int) -> None:
    drawn = generator(2)
    images = torch.randint(0, 256, (6, 4, 12, 3), dtype=torch.uint8, generator=drawn)
    flip, width = torch.tensor([True, False, True, False, True, False]), torch.full((6,), content)
    shift = torch.tensor([0, 0, 5, 7, content, content - 1])
    expected = move_columns(images, flip, shift, width)
    assert not torch.equal(expected, images) or content == 1
    assert torch.equal(move_columns_in_place(images, flip, shift, width), expected)
