"""Validation images with a trial's detections drawn in, for TensorBoard."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

BOX_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")
LEAST_SCORE = 0.3  # of a detection that is drawn


def drawn_detections(folder: Path, plan: dict[str, Any], trial: str) -> list[tuple[bytes, int, int]]:
    """(PNG, height, width) of a few validation images with a trial's best detections: truth thin white, found coloured."""
    from PIL import Image, ImageDraw

    try:
        rows = json.loads((folder / "trials" / trial / "detections.json").read_bytes())
    except (OSError, ValueError):
        return []  # the trial never scored
    drawn: list[tuple[bytes, int, int]] = []
    for shown in plan["shown_images"]:
        with contextlib.suppress(OSError):  # the data has moved: scores stand without pictures
            with Image.open(shown["path"]) as image:
                canvas = image.convert("RGB")
            pen = ImageDraw.Draw(canvas)
            for box in shown["boxes"]:
                pen.rectangle(box, outline="#FFFFFF")
            found = [row for row in rows if row["image_id"] == shown["position"] + 1 and row["score"] >= LEAST_SCORE]
            for row in found:
                pen.rectangle(
                    _corners(row["bbox"]), outline=BOX_COLOURS[row["category_id"] % len(BOX_COLOURS)], width=2
                )
            out = io.BytesIO()
            canvas.save(out, format="PNG")
            drawn.append((out.getvalue(), canvas.height, canvas.width))
    return drawn


def _corners(bbox: list[float]) -> list[float]:
    return [bbox[0], bbox[1], bbox[0] + max(bbox[2], 0), bbox[1] + max(bbox[3], 0)]
