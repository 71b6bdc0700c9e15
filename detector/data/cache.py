"""Images decoded and letterboxed once per machine, in a memory-mapped uint8 file that all trials share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detector.data.dataset import DataError, ImageRecord, Split, problem_message, split_fingerprint

PADDING_VALUE = 114  # grey, the usual letterbox colour; augmentation never shows more of it than this
FORMAT = 1  # goes up when the files below change meaning


@dataclass
class CachedSplit:
    """A split on one canvas (H, W). N images, M boxes of the fullest one."""

    split: Split
    fingerprint: str
    images: np.ndarray  # (N, H, W, 3) uint8, memory-mapped, read-only
    scales: np.ndarray  # (N,) float64: canvas pixels per original pixel
    content_hw: np.ndarray  # (N, 2) int64: rows and columns that the image covers, from the top left corner
    boxes_xyxy: np.ndarray  # (N, M, 4) float32 canvas pixels, 0 in padding; crowd boxes are left out
    labels: np.ndarray  # (N, M) int64, -1 in padding
    channel_mean: list[float]  # 0..1
    channel_std: list[float]

    def __len__(self) -> int:
        return len(self.images)


def cache_home() -> Path:
    """Where made and decoded data lies: $XDG_CACHE_HOME/detector-search, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detector-search"


def cached_split(split: Split, canvas: tuple[int, int], skip_bad: bool = False) -> CachedSplit:
    """The split decoded onto `canvas` (height, width), from the cache where it is there already.

    One process builds, others wait; a build that died half-way is thrown away by the next.

    Raises: DataError naming the images that cannot be read or differ from their annotated size.
    """
    fingerprint = split_fingerprint(split)
    folder = cache_home() / "decoded" / f"{fingerprint}-{canvas[0]}x{canvas[1]}-v{FORMAT}"
    if not (folder / "meta.json").is_file():
        with exclusive_lock(folder.with_suffix(".lock")):
            if not (folder / "meta.json").is_file():
                _build(split, canvas, folder)
    meta = json.loads((folder / "meta.json").read_text())
    if meta["bad"]:
        found: dict[str, list[str]] = {}
        for _, rule, offender in meta["bad"]:
            found.setdefault(rule, []).append(offender)
        if not skip_bad:
            raise DataError(problem_message(str(split.annotations), found, droppable=True))
        return cached_split(split.without_images({position: rule for position, rule, _ in meta["bad"]}), canvas, True)
    return _open(split, fingerprint, folder, meta)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds an advisory lock that the kernel drops when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(split: Split, canvas: tuple[int, int], folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    shape = (len(split.images), *canvas, 3)
    pixels = np.lib.format.open_memmap(unfinished / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    # PIL decodes and resizes outside the interpreter lock: threads use all cores without a copy of anything.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda n: _decode_onto(pixels[n], split.images[n]), range(len(split.images))))
    pixels.flush()
    bad = [[n, *row["bad"]] for n, row in enumerate(rows) if "bad" in row]
    good = [row for row in rows if "bad" not in row]
    weight = np.array([row["count"] for row in good], dtype=np.float64)
    total = max(weight.sum(), 1.0)
    mean = sum((np.array(row["mean"]) * row["count"] for row in good), np.zeros(3)) / total
    square = sum((np.array(row["square"]) * row["count"] for row in good), np.zeros(3)) / total
    meta = {
        "bad": bad,
        "scales": [row.get("scale", 1.0) for row in rows],
        "content_hw": [row.get("content_hw", [0, 0]) for row in rows],
        "channel_mean": mean.tolist(),
        "channel_std": np.sqrt(np.maximum(square - mean**2, 1e-6)).tolist(),
    }
    (unfinished / "meta.json").write_text(json.dumps(meta))
    unfinished.rename(folder)


def _decode_onto(canvas: np.ndarray, record: ImageRecord) -> dict[str, Any]:
    """Writes one letterboxed image into canvas (H, W, 3); returns its scale and channel moments, or what is bad."""
    try:
        image = open_rgb(record.path, canvas.shape[:2])
        size = image[1]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return {"bad": ["an image file must be readable", f"{record.file_name} ({error})"]}
    if size != (record.width, record.height):
        return {
            "bad": [
                "an image must have the size that its annotation says (EXIF rotation is ignored)",
                f"{record.file_name} is {size[0]}x{size[1]}, annotated {record.width}x{record.height}",
            ]
        }
    pixels, scale = letterbox(image[0], (record.width, record.height), canvas)
    height, width = pixels.shape[:2]
    # Moments per image through 256-bin histograms: exact, and no float copy of the pixels.
    bins = np.arange(256) / 255.0
    counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])
    count = height * width
    return {
        "scale": scale,
        "content_hw": [height, width],
        "count": count,
        "mean": (counts @ bins / count).tolist(),
        "square": (counts @ bins**2 / count).tolist(),
    }


def open_rgb(path: Path, at_least: tuple[int, ...] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The image as 8-bit RGB and its stored (width, height); grey is repeated, alpha dropped, 16 bits scaled to 8.

    `at_least` (height, width) lets JPEG decode at a smaller size that still covers it.
    """
    with Image.open(path) as image:
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


def _open(split: Split, fingerprint: str, folder: Path, meta: dict[str, Any]) -> CachedSplit:
    scales = np.array(meta["scales"], dtype=np.float64)
    kept = [~crowd for crowd in split.crowd]
    most = max(1, max(int(mask.sum()) for mask in kept))
    boxes = np.zeros((len(split.images), most, 4), dtype=np.float32)
    labels = np.full((len(split.images), most), -1, dtype=np.int64)
    for n, mask in enumerate(kept):
        count = int(mask.sum())
        boxes[n, :count] = split.boxes_xyxy[n][mask] * scales[n]
        labels[n, :count] = split.labels[n][mask]
    return CachedSplit(
        split,
        fingerprint,
        np.load(folder / "images.npy", mmap_mode="r"),
        scales,
        np.array(meta["content_hw"], dtype=np.int64),
        boxes,
        labels,
        meta["channel_mean"],
        meta["channel_std"],
    )
