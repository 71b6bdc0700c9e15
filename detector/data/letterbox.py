"""An image file as 8-bit RGB, and fitted into the top left of a canvas with its shape kept; boxes with it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from detector.data.dataset import Split

PADDING_VALUE = 114  # grey, the usual letterbox colour; augmentation never shows more of it than this


def open_rgb(file: Path | BinaryIO, at_least: tuple[int, ...] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The image as 8-bit RGB and its stored (width, height); grey is repeated, alpha dropped, 16 bits scaled to 8.

    `at_least` (height, width) lets JPEG decode at a smaller size that still covers it.
    """
    with Image.open(file) as image:
        size = image.size
        if at_least is not None:
            image.draft("RGB", (at_least[1], at_least[0]))
        image.load()
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image, dtype=np.float64)
            top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1e-9)
            return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB"), size
        return image.convert("RGB"), size


def letterbox(image: Image.Image, size: tuple[int, int], canvas: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits an image into the top left of canvas (H, W, 3) uint8; returns the part of it that was filled, and the scale.

    `size` is the (width, height) of the image on disk: a JPEG may come decoded at a fraction of it.
    """
    height, width, scale = letterbox_size(size[1], size[0], (canvas.shape[0], canvas.shape[1]))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas[:] = PADDING_VALUE
    canvas[:height, :width] = np.asarray(image)
    return canvas[:height, :width], scale


def letterbox_size(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int, float]:
    """(rows, columns, scale) of an image that is fitted into the canvas (height, width) with its shape kept."""
    scale = min(canvas[0] / height, canvas[1] / width)
    return max(1, min(canvas[0], round(height * scale))), max(1, min(canvas[1], round(width * scale))), scale


def canvas_boxes(split: Split, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes xyxy (N, 4) on the canvas, class (N,), root of the annotated area (N,) in the image's pixels); no crowds."""
    boxes, labels, roots = [], [], []
    for n, record in enumerate(split.images):
        keep = ~split.crowd[n]
        scale = letterbox_size(record.height, record.width, canvas)[2]
        boxes.append(split.boxes_xyxy[n][keep] * scale)
        labels.append(split.labels[n][keep])
        roots.append(np.sqrt(split.areas[n][keep]))
    return np.concatenate(boxes), np.concatenate(labels), np.concatenate(roots)
