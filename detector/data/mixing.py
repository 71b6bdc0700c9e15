"""Augmentation that mixes the images of a batch: mosaic and copy-paste, pixels copied as they are, boxes with them.

Shapes: B images, H W canvas, M boxes (padded). Boxes are xyxy canvas pixels.
Pixels move in two ways: for any device without a shape that depends on data, and for a CPU by copying rectangles, which is
many times cheaper there than choosing for every pixel. A test holds them to the same bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detector.model.detector import Targets

MIN_SIDE_PX = 1.0  # a box cut to less than this is dropped
MOSAIC_CENTRE = (0.25, 0.75)  # the four quarters meet somewhere in this share of the canvas
PASTED_SHARE = 0.5  # of a partner's boxes
MOST_COVERED = 0.7  # a box under pasted pixels by more than this is hidden; a partner's box above it came along


def mosaic(
    images: Tensor,  # (B, H, W, 3) uint8
    content_hw: Tensor,  # (B, 2)
    targets: Targets,
    partners: Tensor,  # (B, 4) positions in the batch: top left, top right, bottom left, bottom right
    centre_yx: Tensor,  # (B, 2) whole pixels where the quarters meet; (H, W) leaves the first partner alone
) -> tuple[Tensor, Tensor, Targets]:
    """(images, content, targets) made of a quarter of each of four images, each at its own place (YOLOv4's mosaic).

    Differs from the paper: nothing is scaled or shifted, so that small objects keep their size and, on a scanner's
    image, their elevation. A box goes with the quarter that holds its centre, cut to it.
    """
    batch, height, width, _ = images.shape
    y, x = centre_yx[:, 0], centre_yx[:, 1]
    zero, high, wide = torch.zeros_like(x), torch.full_like(y, height), torch.full_like(x, width)
    quarters = torch.stack(
        [
            torch.stack([zero, zero, x, y], dim=1),
            torch.stack([x, zero, wide, y], dim=1),
            torch.stack([zero, y, x, high], dim=1),
            torch.stack([x, y, wide, high], dim=1),
        ],
        dim=1,
    ).to(targets.boxes_xyxy.dtype)[:, :, None]  # (B, 4, 1, 4)
    boxes, labels = targets.boxes_xyxy[partners], targets.labels[partners]  # (B, 4, M, 4), (B, 4, M)
    kept = (labels >= 0) & centres_inside(boxes, quarters)
    cut = torch.cat(
        [torch.maximum(boxes[..., :2], quarters[..., :2]), torch.minimum(boxes[..., 2:], quarters[..., 2:])], -1
    )
    kept &= ((cut[..., 2:] - cut[..., :2]) >= MIN_SIDE_PX).all(dim=-1)
    shown = (x < width) | (y < height)
    content = torch.where(shown[:, None], content_hw[partners].amax(dim=1), content_hw)
    mixed = Targets(
        torch.where(kept[..., None], cut, 0.0).reshape(batch, -1, 4), torch.where(kept, labels, -1).reshape(batch, -1)
    )
    joined = join_quarters_by_slices if images.device.type == "cpu" else join_quarters
    return joined(images, partners, centre_yx), content, compact(mixed)


def join_quarters(images: Tensor, partners: Tensor, centre_yx: Tensor) -> Tensor:
    """Images (B, H, W, 3) of the quarters of four partners (B, 4) that meet at centre_yx (B, 2)."""
    height, width = images.shape[1:3]
    y, x = centre_yx[:, 0], centre_yx[:, 1]
    right = (torch.arange(width, device=images.device) >= x[:, None])[:, None, :, None]
    below = (torch.arange(height, device=images.device) >= y[:, None])[:, :, None, None]
    top = torch.where(right, images[partners[:, 1]], images[partners[:, 0]])
    bottom = torch.where(right, images[partners[:, 3]], images[partners[:, 2]])
    return torch.where(below, bottom, top)


def join_quarters_by_slices(images: Tensor, partners: Tensor, centre_yx: Tensor) -> Tensor:
    """`join_quarters` on a CPU."""
    joined = torch.empty_like(images)
    for n, ((y, x), quarters) in enumerate(zip(centre_yx.tolist(), partners.tolist(), strict=True)):
        rows, columns = (slice(0, y), slice(y, None)), (slice(0, x), slice(x, None))
        for quarter, partner in enumerate(quarters):
            place = rows[quarter // 2], columns[quarter % 2]
            joined[n][place] = images[partner][place]
    return joined


def centres_inside(boxes: Tensor, windows: Tensor) -> Tensor:
    """Whether the centres of boxes (.., 4) lie in windows (.., 4), left and top edges included; both xyxy."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    return ((centres >= windows[..., :2]) & (centres < windows[..., 2:])).all(dim=-1)


def copy_paste(
    images: Tensor,  # (B, H, W, 3) uint8
    targets: Targets,
    partner: Tensor,  # (B,) position in the batch of the image that is copied from
    picked: Tensor,  # (B, M) bool: which of the partner's boxes are pasted
) -> tuple[Tensor, Targets]:
    """(images, targets) with boxes of a partner pasted at the place where they stood there.

    Differs from Ghiasi et al. 2021: boxes, not masks, since detection data has no masks. Own boxes that the paste hides
    are dropped; boxes of the partner that came along with a picked one are labelled too.
    """
    theirs, their_labels = targets.boxes_xyxy[partner], targets.labels[partner]
    picked = picked & (their_labels >= 0)
    paste = paste_by_slices if images.device.type == "cpu" else paste_boxes
    pasted, (own_share, their_share) = paste(images, partner, theirs, picked, (targets.boxes_xyxy, theirs))
    own = targets.valid & (own_share <= MOST_COVERED)
    came = (their_labels >= 0) & (their_share > MOST_COVERED)
    boxes = torch.cat(
        [torch.where(own[..., None], targets.boxes_xyxy, 0.0), torch.where(came[..., None], theirs, 0.0)], 1
    )
    labels = torch.cat([torch.where(own, targets.labels, -1), torch.where(came, their_labels, -1)], dim=1)
    return pasted, compact(Targets(boxes, labels))


def paste_boxes(
    images: Tensor, partner: Tensor, theirs: Tensor, picked: Tensor, asked: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """(images with the picked (B, M) of a partner's boxes over them, the covered share (B, M) of each of `asked`)."""
    mask = boxes_to_mask(theirs, picked, *images.shape[1:3])  # (B, H, W)
    cover = mask.int().cumsum(dim=1).cumsum(dim=2)
    cover = torch.nn.functional.pad(cover, (1, 0, 1, 0))
    return torch.where(mask[..., None], images[partner], images), [covered_share(cover, boxes) for boxes in asked]


def paste_by_slices(
    images: Tensor, partner: Tensor, theirs: Tensor, picked: Tensor, asked: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """`paste_boxes` on a CPU."""
    height, width = images.shape[1:3]
    pasted, partners = images.clone(), partner.tolist()
    corners = torch.stack(whole_pixels(theirs, height, width), dim=-1)
    windows = [torch.stack(whole_pixels(boxes, height, width), dim=-1) for boxes in asked]
    covered = [torch.zeros(boxes.shape[:2]) for boxes in asked]
    for n in picked.any(dim=1).nonzero()[:, 0].tolist():
        mask = np.zeros((height, width), dtype=np.uint8)
        for x1, y1, x2, y2 in corners[n][picked[n]].tolist():
            pasted[n, y1:y2, x1:x2] = images[partners[n], y1:y2, x1:x2]
            mask[y1:y2, x1:x2] = 1
        for counts, rows in zip(covered, windows, strict=True):
            counts[n] = torch.tensor([np.count_nonzero(mask[y1:y2, x1:x2]) for x1, y1, x2, y2 in rows[n].tolist()])
    areas = [((w[..., 2] - w[..., 0]) * (w[..., 3] - w[..., 1])).clamp(min=1) for w in windows]
    return pasted, [counts / area for counts, area in zip(covered, areas, strict=True)]


def whole_pixels(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x1, y1, x2, y2) of the pixels that boxes (.., 4) touch, right and bottom exclusive, int64."""
    x1, y1 = boxes[..., 0].floor().long().clamp(0, width), boxes[..., 1].floor().long().clamp(0, height)
    x2, y2 = boxes[..., 2].ceil().long().clamp(0, width), boxes[..., 3].ceil().long().clamp(0, height)
    return x1, y1, x2, y2


def boxes_to_mask(boxes: Tensor, chosen: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W) bool: the pixels under the chosen (B, M) of boxes (B, M, 4), by a two-dimensional difference array."""
    batch = len(boxes)
    x1, y1, x2, y2 = whole_pixels(boxes, height, width)
    steps = torch.zeros(batch, (height + 1) * (width + 1), dtype=torch.int32, device=boxes.device)
    one = chosen.int()
    for y, x, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        steps.scatter_add_(1, y * (width + 1) + x, sign * one)
    depth = steps.view(batch, height + 1, width + 1).cumsum(dim=1).cumsum(dim=2)
    return depth[:, :height, :width] > 0


def covered_share(cover: Tensor, boxes: Tensor) -> Tensor:
    """Share (B, M) of each box's pixels that is covered; cover (B, H+1, W+1) is the mask's integral image."""
    height, width = cover.shape[1] - 1, cover.shape[2] - 1
    x1, y1, x2, y2 = whole_pixels(boxes, height, width)
    flat = cover.flatten(1)

    def at(y: Tensor, x: Tensor) -> Tensor:
        return flat.gather(1, y * (width + 1) + x)

    covered = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    return covered / ((x2 - x1) * (y2 - y1)).clamp(min=1)


def compact(targets: Targets) -> Targets:
    """The same boxes with padding last; on a CPU also no more rows than the fullest image needs.

    Elsewhere the number of rows stays what the shapes say: to look would be to wait for the device.
    """
    order = targets.labels.lt(0).byte().argsort(dim=1, stable=True)
    boxes = targets.boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4))
    labels = targets.labels.gather(1, order)
    if labels.device.type == "cpu":
        most = int((labels >= 0).sum(dim=1).max())
        boxes, labels = boxes[:, :most], labels[:, :most]
    return Targets(boxes, labels)
