"""Mosaic and copy-paste on images of one grey each: which pixels come from where, and which boxes with them."""

from __future__ import annotations

import torch
from torch import Tensor

from detector.config import DetectorConfig
from detector.data.augment import Augmentation
from detector.data.mixing import (
    boxes_to_mask,
    compact,
    copy_paste,
    covered_share,
    join_quarters,
    join_quarters_by_slices,
    mosaic,
    paste_boxes,
    paste_by_slices,
)
from detector.model.detector import Targets

HEIGHT, WIDTH = 8, 12


def greys(count: int) -> Tensor:
    """(count, 8, 12, 3): image n is 10 n everywhere."""
    return (torch.arange(count, dtype=torch.uint8) * 10)[:, None, None, None].expand(-1, HEIGHT, WIDTH, 3).contiguous()


def targets(*images: list[tuple[list[float], int]]) -> Targets:
    most = max(len(rows) for rows in images)
    boxes, labels = torch.zeros(len(images), most, 4), torch.full((len(images), most), -1)
    for n, rows in enumerate(images):
        for k, (box, label) in enumerate(rows):
            boxes[n, k], labels[n, k] = torch.tensor(box), label
    return Targets(boxes, labels)


def rows(found: Targets, image: int) -> list[tuple[list[float], int]]:
    keep = found.valid[image]
    return list(zip(found.boxes_xyxy[image][keep].tolist(), found.labels[image][keep].tolist(), strict=True))


# One image a corner of the canvas; all meet at x = 5, y = 3.
FOUR = targets(
    [([0.0, 0.0, 4.0, 2.0], 0), ([6.0, 4.0, 9.0, 7.0], 1)],  # the first inside the top left quarter, the second not
    [([4.0, 1.0, 10.0, 3.0], 2)],  # centre (7, 2): top right, cut at x = 5
    [([1.0, 2.0, 3.0, 6.0], 3)],  # centre (2, 4): bottom left, cut at y = 3
    [([4.5, 2.5, 5.5, 3.5], 4)],  # centre exactly (5, 3): bottom right, cut to half a pixel and so dropped
)
CONTENT = torch.tensor([[8, 12], [6, 12], [8, 10], [8, 12]])


def test_a_mosaic_takes_each_quarter_from_its_image_and_the_boxes_whose_centres_lie_in_it() -> None:
    centre = torch.tensor([[3, 5]] + [[HEIGHT, WIDTH]] * 3)
    partners = torch.tensor([[0, 1, 2, 3]] + [[n, 0, 0, 0] for n in (1, 2, 3)])
    images, content, found = mosaic(greys(4), CONTENT, FOUR, partners, centre)
    assert images[0, :3, :5].unique().tolist() == [0]
    assert images[0, :3, 5:].unique().tolist() == [10]
    assert images[0, 3:, :5].unique().tolist() == [20]
    assert images[0, 3:, 5:].unique().tolist() == [30]
    assert rows(found, 0) == [([0.0, 0.0, 4.0, 2.0], 0), ([5.0, 1.0, 10.0, 3.0], 2), ([1.0, 3.0, 3.0, 6.0], 3)]
    assert content.tolist() == [[8, 12], [6, 12], [8, 10], [8, 12]], "the whole canvas has content where images mix"


def test_an_image_whose_quarters_meet_at_the_far_corner_stays_itself() -> None:
    centre = torch.tensor([[HEIGHT, WIDTH]] * 4)
    partners = torch.tensor([[n, (n + 1) % 4, (n + 2) % 4, (n + 3) % 4] for n in range(4)])
    images, content, found = mosaic(greys(4), CONTENT, FOUR, partners, centre)
    assert torch.equal(images, greys(4))
    assert torch.equal(content, CONTENT)
    assert [rows(found, n) for n in range(4)] == [rows(FOUR, n) for n in range(4)]


def test_copy_paste_brings_the_picked_pixels_and_boxes_and_hides_what_they_cover() -> None:
    both = targets(
        [([2.0, 2.0, 6.0, 6.0], 0), ([9.0, 0.0, 12.0, 2.0], 1)],
        [([1.0, 1.0, 7.0, 7.0], 2), ([2.0, 2.0, 4.0, 4.0], 3), ([8.0, 5.0, 11.0, 8.0], 4)],
    )
    picked = torch.tensor([[True, False, False], [False, False, False]])
    images, found = copy_paste(greys(2), both, torch.tensor([1, 0]), picked)
    assert images[0, 1:7, 1:7].unique().tolist() == [10]
    assert (images[0] == 10).sum() == 6 * 6 * 3
    # Own box 0 is covered whole; the partner's box 3 lies inside the pasted one and came along; 4 did not.
    assert rows(found, 0) == [([9.0, 0.0, 12.0, 2.0], 1), ([1.0, 1.0, 7.0, 7.0], 2), ([2.0, 2.0, 4.0, 4.0], 3)]
    assert torch.equal(images[1], greys(2)[1])
    assert rows(found, 1) == rows(both, 1)


def test_a_box_half_under_the_paste_stays() -> None:
    both = targets([([0.0, 0.0, 4.0, 4.0], 0)], [([2.0, 0.0, 8.0, 8.0], 1)])
    _, found = copy_paste(greys(2), both, torch.tensor([1, 0]), torch.tensor([[True], [False]]))
    assert rows(found, 0) == [([0.0, 0.0, 4.0, 4.0], 0), ([2.0, 0.0, 8.0, 8.0], 1)]


def test_the_mask_of_boxes_is_their_union_of_whole_pixels() -> None:
    boxes = torch.tensor([[[1.2, 0.0, 3.0, 2.0], [2.0, 1.0, 5.0, 3.5], [0.0, 0.0, 12.0, 8.0]]])
    mask = boxes_to_mask(boxes, torch.tensor([[True, True, False]]), HEIGHT, WIDTH)[0]
    wanted = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    wanted[0:2, 1:3] = True
    wanted[1:4, 2:5] = True
    assert torch.equal(mask, wanted)
    cover = torch.nn.functional.pad(mask[None].int().cumsum(1).cumsum(2), (1, 0, 1, 0))
    assert covered_share(cover, torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])).item() == 0.5  # x 1 of 0..1, both rows


def test_compact_puts_padding_last_and_trims_to_the_fullest_image() -> None:
    loose = Targets(torch.arange(24.0).reshape(2, 3, 4), torch.tensor([[-1, 5, -1], [-1, -1, 7]]))
    made = compact(loose)
    assert made.labels.tolist() == [[5], [7]]
    assert made.boxes_xyxy.tolist() == [[[4.0, 5.0, 6.0, 7.0]], [[20.0, 21.0, 22.0, 23.0]]]


def test_through_the_augmentation_every_pixel_and_box_comes_from_the_batch_and_a_seed_gives_the_same() -> None:
    config = DetectorConfig(mosaic_probability=1.0, copy_paste_probability=1.0, flip_probability=0.0)
    augmentation = Augmentation(config)

    def run(seed: int) -> tuple[Tensor, Targets]:
        generator = torch.Generator().manual_seed(seed)
        content = torch.full((4, 2), 8)
        return augmentation(greys(4), content, FOUR, torch.zeros(3), torch.ones(3), generator)

    images, found = run(3)
    again, found_again = run(3)
    other, _ = run(4)
    assert torch.equal(images, again)
    assert torch.equal(found.boxes_xyxy, found_again.boxes_xyxy)
    assert not torch.equal(images, other)
    assert set((images * 255).round().int().unique().tolist()) <= {0, 10, 20, 30}
    assert len((images[0] * 255).round().int().unique()) > 1, "mixed"
    boxes = found.boxes_xyxy[found.valid]
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
    assert boxes.max() <= WIDTH


def test_a_batch_without_a_box_is_mixed_too() -> None:
    config = DetectorConfig(mosaic_probability=1.0, copy_paste_probability=1.0)
    none = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    _, found = Augmentation(config)(
        greys(2), torch.full((2, 2), 8), none, torch.zeros(3), torch.ones(3), torch.Generator().manual_seed(0)
    )
    assert found.labels.shape[1] == 0


def test_a_paste_from_a_wider_image_widens_the_content_that_a_flip_turns_about() -> None:
    both = targets([([0.0, 0.0, 2.0, 2.0], 0)], [([8.0, 0.0, 12.0, 4.0], 1)])
    config = DetectorConfig(copy_paste_probability=1.0, flip_probability=1.0)
    content = torch.tensor([[8, 6], [8, 12]])
    for seed in range(8):  # which boxes are picked is drawn: until it is the wide image's
        images, found = Augmentation(config)(
            greys(2), content, both, torch.zeros(3), torch.ones(3), torch.Generator().manual_seed(seed)
        )
        if found.valid[0].sum() == 2:
            break
    assert rows(found, 0)[1] == ([0.0, 0.0, 4.0, 4.0], 1), "mirrored about twelve columns, not six"
    assert (images[0, 0, :4, :4] * 255).round().unique().tolist() == [10.0]


def test_slices_paste_and_join_the_bytes_that_masks_do() -> None:
    drawn = torch.Generator().manual_seed(11)
    batch, boxes, height, width = 6, 5, 24, 40
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=drawn)
    low = torch.rand(batch, boxes, 2, generator=drawn) * torch.tensor([width, height]) - 2
    theirs = torch.cat([low, low + torch.rand(batch, boxes, 2, generator=drawn) * 14], dim=-1)
    theirs[0, 0] = 0.0  # a padding row
    own = theirs.flip(0)
    picked = torch.rand(batch, boxes, generator=drawn) < 0.5
    picked[2] = False
    partner = torch.randperm(batch, generator=drawn)
    before = images.clone()
    pasted, shares = paste_by_slices(images, partner, theirs, picked, (own, theirs))
    expected, expected_shares = paste_boxes(images, partner, theirs, picked, (own, theirs))
    assert torch.equal(pasted, expected)
    assert not torch.equal(pasted, images)
    for found, wanted in zip(shares, expected_shares, strict=True):
        assert torch.equal(found, wanted)
        assert 0 < float(found.max()) <= 1

    partners = torch.randint(batch, (batch, 4), generator=drawn)
    centres = torch.stack([torch.randint(0, height + 1, (batch,), generator=drawn), torch.randint(0, width + 1, (batch,), generator=drawn)], dim=1)  # fmt: skip
    centres[0] = torch.tensor([height, width])
    assert torch.equal(join_quarters_by_slices(images, partners, centres), join_quarters(images, partners, centres))
    assert torch.equal(images, before), "partners are read from it"
