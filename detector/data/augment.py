"""Augmentation of whole batches, boxes moving with the pixels.

Shapes: B images, H W canvas, M boxes (padded). Boxes are xyxy canvas pixels. Two passes over the pixels at most:
one gather along the width (flip and azimuth roll, exact), one bilinear resampling (crop, zoom, translation).
Draws come from a generator on the CPU, so that a seed gives the same batch on every device. Pixels move in two ways: for any
device without a shape that depends on data, and for a CPU by copying slices; a test holds them to the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.config import DetectorConfig
from detector.data.mixing import MIN_SIDE_PX, MOSAIC_CENTRE, PASTED_SHARE, copy_paste, mosaic
from detector.data.recycled import RecycledMemory
from detector.model.box_coding import pairwise_iou
from detector.model.detector import Targets

CROP_CANDIDATES = 12  # windows drawn per image, the first that meets the constraint is taken
CROP_AREA = (0.3, 1.0)  # share of the canvas; Liu et al. 2016 (SSD), section 2.2
CROP_ASPECT = (0.5, 2.0)


class Affine(NamedTuple):
    """Axis-aligned map of canvas points, per image: x_new = scale_x * x + shift_x; all (B,)."""

    scale_x: Tensor
    shift_x: Tensor
    scale_y: Tensor
    shift_y: Tensor


class Augmentation:
    """uint8 images and boxes of a batch -> normalised float images and the boxes where they now are."""

    def __init__(self, config: DetectorConfig) -> None:
        self.flip_probability, self.roll_probability = config.flip_probability, config.roll_probability
        self.crop_probability = config.crop_probability
        self.crop_min_iou = config.crop_min_iou if config.crop_probability > 0 else 0.0
        self.zoom_max, self.translate_max = config.zoom_max, config.translate_max
        self.jitter_strength = config.jitter_strength
        self.mosaic_probability = config.mosaic_probability
        self.copy_paste_probability = config.copy_paste_probability
        self.memory = RecycledMemory()  # clearing fresh pages took 3 of 11 ms of a batch of 50 MB

    def __call__(
        self,
        images: Tensor,  # (B, H, W, 3) uint8; given away: they may be changed
        content_hw: Tensor,  # (B, 2) rows and columns that the picture covers
        targets: Targets,
        mean: Tensor,  # (3,) of the channels, 0..1
        std: Tensor,  # (3,)
        generator: torch.Generator,
    ) -> tuple[Tensor, Targets]:
        """(images (B, 3, H, W) float32 normalised and channels_last, targets)."""
        batch, height, width, _ = images.shape
        device = images.device

        def chance(probability: float) -> Tensor:
            return (torch.rand(batch, generator=generator) < probability).to(device)

        def uniform(low: float, high: float) -> Tensor:
            return (torch.rand(batch, generator=generator) * (high - low) + low).to(device)

        images, content_hw, targets = self._mix(images, content_hw, targets, chance, generator)
        if self.flip_probability > 0 or self.roll_probability > 0:
            content_width = content_hw[:, 1]
            flip = chance(self.flip_probability)
            shift = (uniform(0, 1) * chance(self.roll_probability) * content_width).long()
            images = flip_and_roll_images(images, flip, shift, content_width)
            targets = flip_boxes(targets, flip, content_width)
            if self.roll_probability > 0:
                targets = roll_boxes(targets, shift, content_width)
        gain = 1 + self.jitter_strength * torch.stack([uniform(-1, 1) for _ in range(3)], dim=1) / 2
        contrast = 1 + self.jitter_strength * uniform(-1, 1)
        brightness = self.jitter_strength * uniform(-1, 1) / 2
        normalised = normalise(images, mean, std, gain * contrast[:, None], brightness, self.memory)
        affine = self._draw_affine(targets, height, width, chance, uniform, generator)
        if affine is None:
            return normalised, targets
        return resample(normalised, affine), move_boxes(targets, affine, height, width)

    def _mix(  # type: ignore[no-untyped-def]
        self, images: Tensor, content_hw: Tensor, targets: Targets, chance, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Targets]:
        batch, height, width, _ = images.shape
        device = images.device
        own = torch.arange(batch)
        if self.copy_paste_probability > 0 and targets.labels.shape[1]:
            partner = (own + torch.randint(1, max(2, batch), (batch,), generator=generator)) % batch
            picked = torch.rand(targets.labels.shape, generator=generator) < PASTED_SHARE
            picked = picked.to(device) & chance(self.copy_paste_probability)[:, None]
            partner = partner.to(device)
            pasted = (picked & targets.valid[partner]).any(dim=1, keepdim=True)
            content_hw = torch.where(pasted, torch.maximum(content_hw, content_hw[partner]), content_hw)
            images, targets = copy_paste(images, targets, partner, picked)
        if self.mosaic_probability > 0:
            others = torch.randint(batch, (batch, 3), generator=generator)
            low, high = MOSAIC_CENTRE
            share = torch.rand(batch, 2, generator=generator) * (high - low) + low
            size = torch.tensor([height, width])
            chosen = torch.rand(batch, generator=generator) < self.mosaic_probability
            centre = torch.where(chosen[:, None], (share * size).long(), size)
            partners = torch.cat([own[:, None], others], dim=1)
            return mosaic(images, content_hw, targets, partners.to(device), centre.to(device))
        return images, content_hw, targets

    def _draw_affine(  # type: ignore[no-untyped-def]
        self, targets: Targets, height: int, width: int, chance, uniform, generator: torch.Generator
    ) -> Affine | None:
        if self.crop_probability == 0 and self.zoom_max == 0 and self.translate_max == 0:
            return None
        ones, zeros = uniform(1, 1), uniform(0, 0)
        crop = Affine(ones, zeros, ones, zeros)
        if self.crop_probability > 0:
            chosen = chance(self.crop_probability)
            windows = draw_crops(targets, height, width, self.crop_min_iou, generator)
            crop = Affine(
                *(
                    torch.where(chosen, value, kept)
                    for value, kept in zip(crop_to_affine(windows, height, width), crop, strict=True)
                )
            )
        limit = torch.tensor(1 + self.zoom_max).log().item()
        zoom = uniform(-limit, limit).exp()
        shift_x = uniform(-1, 1) * self.translate_max * width + (1 - zoom) * width / 2
        shift_y = uniform(-1, 1) * self.translate_max * height + (1 - zoom) * height / 2
        return Affine(
            zoom * crop.scale_x, zoom * crop.shift_x + shift_x, zoom * crop.scale_y, zoom * crop.shift_y + shift_y
        )


def normalise(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    gain: Tensor,
    brightness: Tensor,
    memory: RecycledMemory | None = None,
) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels_last: ((x / 255 - mean) * gain + brightness) / std.

    gain (B, 3) and brightness (B,) are the photometric jitter; 1 and 0 leave plain normalisation. `memory`: where the
    result goes, on a CPU.
    """
    batch, height, width, channels = images.shape
    scale = (gain / std / 255.0).expand(batch, -1)  # (B, 3)
    shift = ((brightness[:, None] - mean * gain) / std).expand(batch, -1)
    # Whole rows of pixels at a time: an inner dimension of three would keep vector units idle (four times slower).
    rows = images.reshape(batch, height, width * channels)
    rows = memory.take(*rows.shape).copy_(rows) if memory and rows.device.type == "cpu" else rows.float()
    torch.addcmul(shift.repeat(1, width)[:, None], rows, scale.repeat(1, width)[:, None], out=rows)
    return rows.view(images.shape).permute(0, 3, 1, 2)


def normalise_plainly(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), channels_last: (x / 255 - mean) / std, as evaluation sees it."""
    return normalise(images, mean, std, torch.ones_like(mean)[None], torch.zeros_like(mean)[:1])


def flip_and_roll_images(images: Tensor, flip: Tensor, shift: Tensor, content_width: Tensor) -> Tensor:
    """Mirrors the images (B, H, W, 3) in `flip` (B,), then rolls each to the right by `shift` columns within its content.

    On a CPU the images themselves are changed.
    """
    moved = move_columns_in_place if images.device.type == "cpu" else move_columns
    return moved(images, flip, shift, content_width)


def move_columns(images: Tensor, flip: Tensor, shift: Tensor, content_width: Tensor) -> Tensor:
    """`flip_and_roll_images` on any device: a gather, without a shape that depends on data."""
    batch, height, width, channels = images.shape
    column = torch.arange(width, device=images.device).expand(batch, -1)
    inside = content_width[:, None]
    source = (column - shift[:, None]) % inside.clamp(min=1)
    source = torch.where(flip[:, None], inside - 1 - source, source)
    source = torch.where(column < inside, source, column)
    return images.gather(2, source[:, None, :, None].expand(-1, height, -1, channels))


def move_columns_in_place(images: Tensor, flip: Tensor, shift: Tensor, content_width: Tensor) -> Tensor:
    """`flip_and_roll_images` on a CPU: only what moves is copied, which is several times cheaper than a gather."""
    moves = zip(flip.tolist(), shift.tolist(), content_width.tolist(), strict=True)
    for n, (mirrored, by, inside) in enumerate(moves):
        if mirrored or by:
            content = images[n, :, :inside]
            turned = content.flip(1) if mirrored else content
            content.copy_(turned.roll(by, dims=1) if by else turned)
    return images


def flip_boxes(targets: Targets, flip: Tensor, content_width: Tensor) -> Targets:
    """Mirrors the boxes of the images in `flip` (B,) about the middle of their content."""
    x1, y1, x2, y2 = targets.boxes_xyxy.unbind(dim=-1)
    inside = content_width[:, None].to(x1.dtype)
    mirrored = torch.stack([inside - x2, y1, inside - x1, y2], dim=-1)
    chosen = flip[:, None] & targets.valid
    return Targets(torch.where(chosen[..., None], mirrored, targets.boxes_xyxy), targets.labels)


def roll_boxes(targets: Targets, shift: Tensor, content_width: Tensor) -> Targets:
    """Boxes after a roll; one that now crosses the seam becomes two, as an annotator of that image would draw it.

    M doubles: the second half holds the pieces that wrapped around.
    """
    x1, y1, x2, y2 = targets.boxes_xyxy.unbind(dim=-1)
    inside = content_width[:, None].to(x1.dtype)
    start = (x1 + shift[:, None]) % inside
    end = start + (x2 - x1)
    near = torch.stack([start, y1, torch.minimum(end, inside), y2], dim=-1)
    far = torch.stack([torch.zeros_like(end), y1, end - inside, y2], dim=-1)
    boxes = torch.cat([near, far], dim=1)
    valid = torch.cat([targets.valid, targets.valid], dim=1) & (boxes[..., 2] - boxes[..., 0] >= MIN_SIDE_PX)
    labels = torch.cat([targets.labels, targets.labels], dim=1)
    return Targets(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, labels, -1))


def draw_crops(targets: Targets, height: int, width: int, min_iou: float, generator: torch.Generator) -> Tensor:
    """A window xyxy (B, 4) per image that holds the centre of a box and overlaps it by at least `min_iou`.

    The whole canvas where none of the candidates does, or the image has no box.
    """
    device = targets.labels.device
    batch = len(targets.labels)
    u = torch.rand(4, batch, CROP_CANDIDATES, generator=generator).to(device)
    area = u[0] * (CROP_AREA[1] - CROP_AREA[0]) + CROP_AREA[0]
    low, high = torch.tensor(CROP_ASPECT).log()
    aspect = (u[1] * (high - low) + low).exp()
    w = (area * aspect).sqrt().clamp(max=1.0) * width
    h = (area / aspect).sqrt().clamp(max=1.0) * height
    x, y = u[2] * (width - w), u[3] * (height - h)
    windows = torch.stack([x, y, x + w, y + h], dim=-1)  # (B, T, 4)
    meets = pairwise_iou(windows, targets.boxes_xyxy) >= min_iou  # (B, T, M)
    centres = (targets.boxes_xyxy[..., :2] + targets.boxes_xyxy[..., 2:]) / 2
    holds = ((centres[:, None] > windows[:, :, None, :2]) & (centres[:, None] < windows[:, :, None, 2:])).all(dim=-1)
    good = (meets & holds & targets.valid[:, None]).any(dim=-1)  # (B, T)
    first = good.int().argmax(dim=1)
    chosen = windows.gather(1, first[:, None, None].expand(-1, 1, 4)).squeeze(1)
    whole = torch.tensor([0.0, 0.0, width, height], device=device)
    return torch.where(good.any(dim=1)[:, None], chosen, whole)


def crop_to_affine(windows_xyxy: Tensor, height: int, width: int) -> Affine:
    """The map that blows each window (B, 4) up to the whole canvas."""
    x1, y1, x2, y2 = windows_xyxy.unbind(dim=-1)
    scale_x, scale_y = width / (x2 - x1), height / (y2 - y1)
    return Affine(scale_x, -x1 * scale_x, scale_y, -y1 * scale_y)


def resample(images: Tensor, affine: Affine) -> Tensor:
    """Images (B, 3, H, W) moved by `affine`, bilinear; what comes in from outside is the channel mean (0)."""
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5 - affine.shift_x[:, None]) / affine.scale_x[:, None]
    y = (torch.arange(height, device=images.device) + 0.5 - affine.shift_y[:, None]) / affine.scale_y[:, None]
    grid = torch.stack(
        [
            (x * (2 / width) - 1)[:, None, :].expand(-1, height, -1),
            (y * (2 / height) - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def move_boxes(targets: Targets, affine: Affine, height: int, width: int) -> Targets:
    """Boxes after `affine`, clipped; a box whose centre left the canvas, or that is now a sliver, is dropped."""
    scale = torch.stack([affine.scale_x, affine.scale_y] * 2, dim=-1)[:, None]
    shift = torch.stack([affine.shift_x, affine.shift_y] * 2, dim=-1)[:, None]
    boxes = targets.boxes_xyxy * scale + shift
    limit = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centres > 0) & (centres < limit)).all(dim=-1)
    boxes = torch.minimum(boxes.clamp(min=0), limit.repeat(2))
    big_enough = ((boxes[..., 2:] - boxes[..., :2]) >= MIN_SIDE_PX).all(dim=-1)
    valid = targets.valid & inside & big_enough
    return Targets(torch.where(valid[..., None], boxes, 0.0), torch.where(valid, targets.labels, -1))
