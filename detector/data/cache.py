"""A dataset's images on one canvas, kept once per machine for all trials: as pixels, as packed files, or where they lie."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detector.data.dataset import DataError, ImageRecord, NoRoomError, Split, problem_message
from detector.data.fingerprint import split_fingerprint
from detector.data.images import PackedFiles, StreamedImages
from detector.data.letterbox import letterbox, open_rgb
from detector.data.places import cache_home, exclusive_lock
from detector.data.progress_lines import Tell, silent, told

FORMAT = 1  # goes up when the files below change meaning


@dataclass
class CachedSplit:
    """A split on one canvas (H, W). N images, M boxes of the fullest one."""

    split: Split
    fingerprint: str
    images: np.ndarray | StreamedImages  # (N, H, W, 3) uint8: memory-mapped, read-only; or decoded when asked for
    scales: np.ndarray  # (N,) float64: canvas pixels per original pixel
    content_hw: np.ndarray  # (N, 2) int64: rows and columns that the image covers, from the top left corner
    boxes_xyxy: np.ndarray  # (N, M, 4) float32 canvas pixels, 0 in padding; crowd boxes are left out
    labels: np.ndarray  # (N, M) int64, -1 in padding
    channel_mean: list[float]  # 0..1
    channel_std: list[float]
    kept: HowKept

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class HowKept:
    """How a split's images are kept, and what that costs."""

    mode: str  # decoded, encoded or off
    disk_bytes: int  # in the cache folder
    decode_ms: float  # of one image, on one core; 0 where it is not known


@dataclass(frozen=True)
class Places:
    """Where a split's parts lie in the cache folder."""

    decoded: Path  # of one canvas: pixels and meta.json
    streamed: Path  # of one canvas: meta.json alone
    encoded: Path  # of any canvas: the packed files

    @classmethod
    def of(cls, fingerprint: str, canvas: tuple[int, int]) -> Places:
        own = f"{fingerprint}-{canvas[0]}x{canvas[1]}-v{FORMAT}"
        home = cache_home()
        return cls(home / "decoded" / own, home / "streamed" / own, home / "encoded" / f"{fingerprint}-v{FORMAT}")

    def is_whole(self, mode: str) -> bool:
        """Whether all is there that a mode needs."""
        if mode == "decoded":
            return (self.decoded / "meta.json").is_file()
        return self.meta() is not None and (mode == "off" or self.encoded.is_dir())

    def meta(self) -> dict[str, Any] | None:
        """What was found out when the images were decoded, into whichever form."""
        for folder in (self.decoded, self.streamed):
            if (folder / "meta.json").is_file():
                meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
                return meta
        return None


def cached_split(
    split: Split, canvas: tuple[int, int], skip_bad: bool = False, mode: str = "decoded", tell: Tell = silent
) -> CachedSplit:
    """The split on `canvas` (height, width), kept as `mode` says, from the cache where it is there already.

    Every image is decoded once in any mode: that it can be, and the channels' statistics, do not depend on the mode. One
    process builds, others wait; a build that died half-way is thrown away by the next. `tell` hears how far it is.

    Raises: DataError naming the images that cannot be read or differ from their annotated size; NoRoomError.
    """
    fingerprint = split_fingerprint(split, tell)
    places = Places.of(fingerprint, canvas)
    if not places.is_whole(mode):
        with telling_no_room(cache_home()), exclusive_lock(places.decoded.with_suffix(".lock")):
            _build(mode, split, canvas, places, tell)
    meta = places.meta()
    assert meta is not None, places
    if meta["bad"]:
        found: dict[str, list[str]] = {}
        for _, rule, offender in meta["bad"]:
            found.setdefault(rule, []).append(offender)
        if not skip_bad:
            raise DataError(problem_message(str(split.annotations), found, droppable=True))
        good = split.without_images({position: rule for position, rule, _ in meta["bad"]})
        return cached_split(good, canvas, True, mode, tell)
    return _open(split, fingerprint, places, meta, canvas, mode)


def _build(mode: str, split: Split, canvas: tuple[int, int], places: Places, tell: Tell) -> None:
    """Makes what a mode needs and is not there."""
    if mode == "decoded" and not places.is_whole("decoded"):
        _make(places.decoded, lambda folder: _decode_all(split, canvas, folder, True, tell))
    elif mode != "decoded" and places.meta() is None:
        _make(places.streamed, lambda folder: _decode_all(split, canvas, folder, False, tell))
    meta = places.meta()
    if mode == "encoded" and meta is not None and not meta["bad"] and not places.encoded.is_dir():
        with exclusive_lock(places.encoded.with_suffix(".lock")):  # another canvas may want it at the same time
            if not places.encoded.is_dir():
                paths = told(
                    (record.path for record in split.images), len(split.images), f"packing the images of {split.annotations.name}", tell
                )  # fmt: skip
                _make(places.encoded, lambda folder: PackedFiles.pack(paths, folder))


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is there whole or not at all; what half of it had taken is free again."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        fill(unfinished)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def telling_no_room(place: Path) -> Iterator[None]:
    """Raises: NoRoomError for a disk that is too full for what happens inside."""
    try:
        yield
    except NoRoomError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoomError(
            error.errno,
            f"the disk must hold the kept images ({error.strerror}). Free some, set XDG_CACHE_HOME to another disk, or keep less "
            "with --cache encoded or off",
            str(place),
        ) from None


def _decode_all(split: Split, canvas: tuple[int, int], folder: Path, keep: bool, tell: Tell) -> None:
    """Decodes every image once; leaves meta.json and, with `keep`, the pixels."""
    count = len(split.images)
    file = folder / "images.npy"
    pixels = None
    if keep:
        pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, *canvas, 3))
        _take_room(file)

    def decode(position: int) -> dict[str, Any]:
        row = pixels[position] if pixels is not None else np.empty((*canvas, 3), dtype=np.uint8)
        return _decode_onto(row, split.images[position])

    # PIL decodes and resizes outside the interpreter lock: threads use all cores without a copy of anything.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(
            told(pool.map(decode, range(count)), count, f"decoding the images of {split.annotations.name}", tell)
        )
    if pixels is not None:
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
        "decode_ms": 1000 * float(np.mean([row["seconds"] for row in good])) if good else 0.0,
    }
    if bad:  # nobody trains on these; --skip-bad makes a map of the others
        file.unlink(missing_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))


def _take_room(file: Path) -> None:
    """Has the file system keep room for a whole file: a map onto a full disk would end the process by a signal."""
    with file.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _decode_onto(canvas: np.ndarray, record: ImageRecord) -> dict[str, Any]:
    """Writes one letterboxed image into canvas (H, W, 3); returns its scale and channel moments, or what is bad."""
    start = time.thread_time()
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
    seconds = time.thread_time() - start
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
        "seconds": seconds,
        "square": (counts @ bins**2 / count).tolist(),
    }


def _open(
    split: Split, fingerprint: str, places: Places, meta: dict[str, Any], canvas: tuple[int, int], mode: str
) -> CachedSplit:  # fmt: skip
    scales = np.array(meta["scales"], dtype=np.float64)
    kept = [~crowd for crowd in split.crowd]
    most = max(1, max(int(mask.sum()) for mask in kept))
    boxes = np.zeros((len(split.images), most, 4), dtype=np.float32)
    labels = np.full((len(split.images), most), -1, dtype=np.int64)
    for n, mask in enumerate(kept):
        count = int(mask.sum())
        boxes[n, :count] = split.boxes_xyxy[n][mask] * scales[n]
        labels[n, :count] = split.labels[n][mask]
    images: np.ndarray | StreamedImages
    if mode == "decoded":
        images = np.load(places.decoded / "images.npy", mmap_mode="r")
        kept_in: Path | None = places.decoded
    else:
        kept_in = places.encoded if mode == "encoded" else None
        images = StreamedImages(split.images, canvas, PackedFiles(places.encoded) if mode == "encoded" else None)
    disk = sum(file.stat().st_size for file in kept_in.iterdir()) if kept_in else 0
    return CachedSplit(
        split,
        fingerprint,
        images,
        scales,
        np.array(meta["content_hw"], dtype=np.int64),
        boxes,
        labels,
        meta["channel_mean"],
        meta["channel_std"],
        HowKept(mode, disk, meta.get("decode_ms", 0.0)),
    )
