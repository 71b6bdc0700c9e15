"""Batches: every image once a pass, all draws from (seed, epoch)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.config import ConfigError, DetectorConfig
from detector.data.batches import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TrainingBatches,
    TrainingData,
    load_training_data,
    repeat_factors,
)
from tests.detector.data.conftest import HEIGHT, WIDTH, CocoFolder

CPU = torch.device("cpu")
IMAGES = 8


@pytest.fixture
def data(folder: CocoFolder) -> TrainingData:
    """Eight training images of one grey each, 20 n; image n has n + 1 boxes of class n % 2."""
    folder.train["images"], folder.train["annotations"] = [], []
    for n in range(IMAGES):
        Image.new("RGB", (WIDTH, HEIGHT), (20 * n,) * 3).save(folder.images / f"{n}.png")
        folder.train["images"].append(folder.image_row(n, f"{n}.png"))
        for k in range(n + 1):
            row = folder.box_row(len(folder.train["annotations"]), n, [2 * k, 3, 5, 7], 1 + n % 2)
            folder.train["annotations"].append(row)
    return load_training_data(folder.write(), (64, 64))


def batches(data: TrainingData, seed: int = 0, **values: Any) -> TrainingBatches:
    config = DetectorConfig(**{"image_size_px": (64, 64), "flip_probability": 0.0, "batch_size": 2, **values})
    return TrainingBatches(config, data, seed, CPU)


def image_numbers(made: TrainingBatches, epoch: int) -> list[list[int]]:
    """Which images stand in each batch, told by their grey."""
    numbers = []
    for images, targets in made.epoch(epoch):
        grey = (images * made.std.view(1, 3, 1, 1) + made.mean.view(1, 3, 1, 1))[:, 0, 10, 10] * 255
        found = [round(float(value) / 20) for value in grey]
        assert [int(row.sum()) for row in targets.valid] == [n + 1 for n in found]
        assert [int(row[0]) for row in targets.labels] == [n % 2 for n in found]
        numbers.append(found)
    return numbers


def test_every_image_stands_in_one_batch_a_pass(data: TrainingData) -> None:
    made = batches(data)
    assert made.steps == 4
    for epoch in (1, 2, 3):
        numbers = image_numbers(made, epoch)
        assert [len(batch) for batch in numbers] == [2, 2, 2, 2]
        assert sorted(n for batch in numbers for n in batch) == list(range(IMAGES))


def test_the_order_is_told_by_seed_and_epoch_alone(data: TrainingData) -> None:
    first = image_numbers(batches(data, seed=3), 2)
    made = batches(data, seed=3)
    list(made.epoch(1))  # what came before does not matter
    assert image_numbers(made, 2) == first
    others = [image_numbers(batches(data, seed=seed), epoch) for seed, epoch in ((3, 1), (3, 3), (4, 2))]
    assert first not in others
    assert len({str(order) for order in others}) == 3


def test_augmented_pixels_and_boxes_are_told_by_seed_and_epoch(data: TrainingData) -> None:
    values = {"flip_probability": 0.5, "zoom_max": 0.5, "translate_max": 0.2, "jitter_strength": 0.3}
    one, two, other = ([*batches(data, seed, **values).epoch(epoch)] for seed, epoch in ((1, 1), (1, 1), (1, 2)))
    for (a, boxes_a), (b, boxes_b) in zip(one, two, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(boxes_a.boxes_xyxy, boxes_b.boxes_xyxy)
    assert not torch.equal(one[0][0], other[0][0])


def test_more_steps_than_a_pass_begin_a_fresh_permutation(data: TrainingData) -> None:
    numbers = [
        n for batch in image_numbers(batches(data, steps_per_epoch=10), 1) for n in batch
    ]  # 20 of 8 images: 2.5 passes
    assert len(numbers) == 20
    assert sorted(numbers[:8]) == sorted(numbers[8:16]) == list(range(IMAGES))
    assert len(set(numbers[16:])) == 4
    assert numbers[:8] != numbers[8:16]


def test_fewer_steps_than_a_pass_take_different_images_each_epoch(data: TrainingData) -> None:
    made = batches(data, steps_per_epoch=1)
    seen = {n for epoch in range(1, 25) for n in image_numbers(made, epoch)[0]}
    assert seen == set(range(IMAGES))


def test_batches_are_always_full(data: TrainingData) -> None:
    assert [len(batch) for batch in image_numbers(batches(data, batch_size=3), 1)] == [3, 3]  # two images wait
    assert [len(batch) for batch in image_numbers(batches(data, batch_size=64), 1)] == [8]


def test_targets_are_padded_to_the_fullest_of_the_batch(data: TrainingData) -> None:
    for images, targets in batches(data).epoch(1):
        counts = targets.valid.sum(dim=1)
        assert targets.labels.shape == (2, int(counts.max()))
        assert images.shape == (2, 3, 64, 64)
        # 40 x 30 onto 64 x 64 is times 1.6: [0, 3, 5, 7] becomes 0 4.8 8 16
        torch.testing.assert_close(targets.boxes_xyxy[0, 0], torch.tensor([0, 4.8, 8.0, 16.0]))


def test_normalization_is_the_datasets_or_imagenets(data: TrainingData) -> None:
    own, foreign = batches(data), batches(data, normalization="imagenet")
    assert own.mean.tolist() == pytest.approx(data.train.channel_mean)
    assert own.std.tolist() == pytest.approx(data.train.channel_std)
    assert foreign.mean.tolist() == pytest.approx(IMAGENET_MEAN)
    assert foreign.std.tolist() == pytest.approx(IMAGENET_STD)


def test_roll_is_refused_where_images_are_no_full_turn(data: TrainingData) -> None:
    with pytest.raises(ConfigError, match=r"roll_probability=0\.5 needs images that are a full turn, and set does not"):
        batches(data, roll_probability=0.5)
    data.dataset.full_turn = True
    images, _ = next(iter(batches(data, roll_probability=0.5).epoch(1)))
    assert images.shape == (2, 3, 64, 64)


def test_the_fingerprint_is_of_both_splits(data: TrainingData) -> None:
    assert data.fingerprint == data.train.fingerprint[:8] + data.val.fingerprint[:8]


def test_repeat_factors_by_hand() -> None:
    # Four images; class 0 in all (f = 1), class 1 in one (f = 1/4). threshold 1: sqrt(1 / 0.25) = 2 for that image.
    labels = np.array([[0, -1], [0, 0], [0, 1], [0, -1]])
    assert repeat_factors(labels, 0.0) is None
    assert repeat_factors(labels, 1.0).tolist() == [1.0, 1.0, 2.0, 1.0]
    assert repeat_factors(labels, 0.25).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert repeat_factors(labels, 0.5625).tolist() == [1.0, 1.0, 1.5, 1.0]  # sqrt(0.5625 / 0.25)
    assert repeat_factors(np.full((3, 1), -1), 1.0).tolist() == [1.0, 1.0, 1.0], "images without boxes"


def test_a_rare_class_is_drawn_as_often_as_its_factor_says(data: TrainingData) -> None:
    data.train.labels[:] = np.where(data.train.labels >= 0, 0, -1)
    data.train.labels[5, 0] = 1  # one image of eight: factor sqrt(0.5 / 0.125) = 2
    made = batches(data, repeat_threshold=0.5, steps_per_epoch=900)
    order = made._order(torch.Generator().manual_seed(1))
    counts = np.bincount(order, minlength=IMAGES)
    assert counts[5] == pytest.approx(1800 * 2 / 9, abs=1)  # whole factors: no chance in it but the last pass
    assert set(np.delete(counts, 5)) <= {199, 200, 201}
