"""Boxes drawn on pictures: colours that the colour-blind tell apart, captions, rows of pictures on one sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Okabe and Ito's colour-blind-safe colours, one per class in turn.
BOX_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")
SHOWN_WIDTH_PX = 600  # smaller pictures are enlarged by a whole factor
CAPTION_PX = 14


def draw(pixels: np.ndarray, detections: Iterable[dict[str, Any]], class_names: Sequence[str]) -> Any:
    """The image (height, width, 3) uint8 with a box and a caption per detection, at least 600 pixels wide.

    A detection has label, bbox xywh in the image's pixels and, unless it is ground truth, score.
    """
    from PIL import Image, ImageDraw

    enlarge = max(1, -(-SHOWN_WIDTH_PX // pixels.shape[1]))
    picture = Image.fromarray(pixels).resize((pixels.shape[1] * enlarge, pixels.shape[0] * enlarge))
    pen = ImageDraw.Draw(picture)
    for row in detections:
        x, y, w, h = (value * enlarge for value in row["bbox"])
        colour = BOX_COLOURS[row["label"] % len(BOX_COLOURS)]
        pen.rectangle([x, y, x + w, y + h], outline=colour, width=2)
        score = f" {row['score']:.2f}" if "score" in row else ""
        pen.text((x + 2, max(0, y - 11)), f"{class_names[row['label']]}{score}", fill=colour)
    return picture


def sheet(pictures: Sequence[Any], captions: Sequence[str]) -> Any:
    """Pictures of one width below one another, each under its caption."""
    from PIL import Image, ImageDraw

    width = max(picture.width for picture in pictures)
    page = Image.new("RGB", (width, sum(picture.height + CAPTION_PX for picture in pictures)), "#FFFFFF")
    pen = ImageDraw.Draw(page)
    top = 0
    for picture, caption in zip(pictures, captions, strict=True):
        pen.text((3, top + 1), caption, fill="#000000")
        page.paste(picture, (0, top + CAPTION_PX))
        top += picture.height + CAPTION_PX
    return page
