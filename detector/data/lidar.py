"""The simulated LiDAR street: depth, ambient and intensity images of a spinning scanner, with COCO boxes.

As a command: `python -m detector.data.lidar --out DIR --train N --val M [--test T] [--extended E] --seed K`.

A 128 x 1024 image is a full turn, +-22.5 degrees up and down. Every ray is cast against the ground and the solids of
`lidar_scene`; a box is the extent of an object's visible pixels, so occlusion is real. Class mix, boxes per image and
box sizes follow the report that this project reproduces (tests/detector/data/test_lidar.py holds them against it).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detector.data.lidar_scene import CLASS_NAMES, Solid, Street, random_street

ROWS, COLUMNS = 128, 1024
VERTICAL_DEGREES = 45.0
RANGE_M = 80.0  # beyond it nothing returns
RANGE_NOISE_M = 0.03
MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE = 12, 0.15  # less of an object than this is not annotated
AREA_RANGES_PX = (16.0, 32.0)  # the report's small and medium
SPLIT_SEEDS = {"train": 1, "val": 2, "test": 3, "extended": 4}


@dataclass
class Annotated:
    """One visible object: class name and box xyxy in pixels (right and bottom edges exclusive)."""

    label: str
    box_xyxy: tuple[int, int, int, int]


@dataclass
class Rays:
    """Directions of the scanner's rays: azimuth of each column, elevation of each row, in radians."""

    azimuth: np.ndarray  # (W,)
    elevation: np.ndarray  # (H,), top row first

    @classmethod
    def of(cls, degrees: int) -> Rays:
        columns = COLUMNS * degrees // 360
        azimuth = np.radians(((np.arange(columns) + 0.5) / columns - 0.5) * degrees)
        elevation = np.radians((0.5 - (np.arange(ROWS) + 0.5) / ROWS) * VERTICAL_DEGREES)
        return cls(azimuth, elevation)

    @property
    def full_turn(self) -> bool:
        return len(self.azimuth) == COLUMNS


@dataclass
class Hits:
    """What the rays meet, (H, W) each."""

    distance: np.ndarray  # metres, inf for nothing
    facing: np.ndarray  # cosine between ray and surface normal, 0..1
    albedo: np.ndarray
    reflectivity: np.ndarray
    thing: np.ndarray  # index into the street's things, -1 for ground and sky


def render(street: Street, rays: Rays, rng: np.random.Generator) -> tuple[np.ndarray, list[Annotated]]:
    """(image (H, W, 3) uint8: depth, ambient, intensity; the visible road users)."""
    hits = _cast_ground(street, rays, rng)
    cast_pixels = np.zeros(len(street.things), dtype=np.int64)
    for index, thing in enumerate(street.things):
        cast_pixels[index] = _cast_thing(hits, index, thing.parts, street.scanner_height, rays, rng)
    image = _to_channels(hits, rng)
    return image, _visible_boxes(street, hits.thing, cast_pixels, rays.full_turn)


def _cast_ground(street: Street, rays: Rays, rng: np.random.Generator) -> Hits:
    shape = (len(rays.elevation), len(rays.azimuth))
    down = -np.sin(rays.elevation)[:, None]
    with np.errstate(divide="ignore"):
        distance = np.where(down > 0, street.scanner_height / down, np.inf) * np.ones(shape)
    # Asphalt has patches: low-frequency changes of albedo over the turn and over distance.
    log_near = np.log(np.minimum(distance, RANGE_M) + 1)
    phase = rng.uniform(0, 2 * math.pi, 4)
    waves = sum(np.sin((n + 2) * rays.azimuth[None, :] + phase[n] + n * log_near) for n in range(4))
    patches = street.road_albedo * (1 + 0.12 * waves)
    return Hits(distance, np.abs(down) * np.ones(shape), patches, 0.8 * patches, np.full(shape, -1, dtype=np.int32))


def _cast_thing(
    hits: Hits, index: int, parts: list[Solid], scanner_height: float, rays: Rays, rng: np.random.Generator
) -> int:
    """Casts one thing's parts into `hits`; returns how many pixels it would cover if nothing stood before it."""
    touched = np.zeros(hits.distance.size, dtype=bool)
    width = hits.distance.shape[1]
    for part in parts:
        rows, columns = _window(part, scanner_height, rays)
        if not len(rows) or not len(columns):
            continue
        distance, facing = _intersect(part, scanner_height, rays.azimuth[columns], rays.elevation[rows])
        if part.porosity:
            distance = np.where(rng.random(distance.shape) < part.porosity, np.inf, distance)
        r, c = np.nonzero(np.isfinite(distance))
        d, f = distance[r, c], facing[r, c]
        row, column = rows[r], columns[c]
        touched[row * width + column] = True
        nearer = d < hits.distance[row, column]
        row, column = row[nearer], column[nearer]
        hits.distance[row, column], hits.facing[row, column] = d[nearer], f[nearer]
        hits.albedo[row, column], hits.reflectivity[row, column] = part.albedo, part.reflectivity
        hits.thing[row, column] = index
    return int(touched.sum())


def _window(part: Solid, scanner_height: float, rays: Rays) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the rays that can meet a part, from its bounding cylinder; empty where there are none."""
    x, y, z = part.centre
    radius = math.hypot(part.size[0], part.size[1]) if part.kind == "box" else max(part.size[0], part.size[1])
    half_height = part.size[0] if part.kind == "disc" else part.size[2]
    if part.kind == "cylinder":
        radius = part.size[0]
    away = math.hypot(x, y)
    near = max(away - radius, 0.3)
    far = away + radius
    bottom, top = z - half_height - scanner_height, z + half_height - scanner_height
    low = min(math.atan2(bottom, near), math.atan2(bottom, far))
    high = max(math.atan2(top, near), math.atan2(top, far))
    rows = np.nonzero((rays.elevation >= low) & (rays.elevation <= high))[0]
    if away <= radius:
        columns = np.arange(len(rays.azimuth))
    else:
        half = math.asin(radius / away)
        turned = np.abs((rays.azimuth - math.atan2(y, x) + math.pi) % (2 * math.pi) - math.pi)
        columns = np.nonzero(turned <= half)[0]
    return rows, columns


def _intersect(
    part: Solid, scanner_height: float, azimuth: np.ndarray, elevation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(distance, cosine of incidence), each (rows, columns), of rays against one solid; inf where they miss.

    Worked in the part's own frame; the horizontal direction has length 1, so `t` is horizontal distance and the
    ray's height at t is scanner_height + t * tan(elevation).
    """
    c, s = math.cos(-part.yaw), math.sin(-part.yaw)
    dx = np.cos(azimuth) * c - np.sin(azimuth) * s
    dy = np.cos(azimuth) * s + np.sin(azimuth) * c
    ox = -(part.centre[0] * c - part.centre[1] * s)
    oy = -(part.centre[0] * s + part.centre[1] * c)
    oz = scanner_height - part.centre[2]
    slope = np.tan(elevation)[:, None]
    t, facing = _SHAPES[part.kind](part.size, (ox, oy, oz), (dx[None, :], dy[None, :], slope))
    cosine = np.cos(elevation)[:, None]
    return np.where(t > 0.3, t / cosine, np.inf), np.clip(facing * cosine, 0.02, 1.0)


def _meet_box(size: Any, origin: Any, ray: Any) -> tuple[np.ndarray, np.ndarray]:
    """Slab method (Kay and Kajiya 1986): the latest entry before the earliest exit."""
    entry, leave, facing = -np.inf, np.inf, np.zeros((1, 1))
    for half, o, d in zip(size, origin, ray, strict=True):
        safe = np.where(np.abs(d) < 1e-9, 1e-9, d)
        a, b = (-half - o) / safe, (half - o) / safe
        first, last = np.minimum(a, b), np.maximum(a, b)
        facing = np.where(first > entry, np.abs(d), facing)
        entry, leave = np.maximum(entry, first), np.minimum(leave, last)
    return np.where((entry <= leave) & (entry > 0), entry, np.inf), facing


def _meet_cylinder(size: Any, origin: Any, ray: Any) -> tuple[np.ndarray, np.ndarray]:
    """Side of an upright cylinder; its thin caps are left out."""
    (radius, _, half), (ox, oy, oz), (dx, dy, slope) = size, origin, ray
    closest = -(ox * dx + oy * dy)
    gap = radius**2 - (ox**2 + oy**2 - closest**2)
    t = closest - np.sqrt(np.maximum(gap, 0))
    height = oz + t * slope
    return np.where((gap > 0) & (np.abs(height) <= half), t, np.inf), np.sqrt(np.maximum(gap, 0)) / radius + 0 * slope


def _meet_disc(size: Any, origin: Any, ray: Any) -> tuple[np.ndarray, np.ndarray]:
    """An upright ring in the plane y = 0 of its own frame, given a tyre's breadth of 5 cm when seen from its edge."""
    (outer, inner, _), (ox, oy, oz), (dx, dy, slope) = size, origin, ray
    across, _ = _meet_box((outer, 0.025, outer), origin, ray)
    t = np.where(np.abs(dy) > 0.15, -oy / np.where(np.abs(dy) < 1e-9, 1e-9, dy), across)
    t = np.where(np.isfinite(t), t, 1e9)
    off = np.hypot(ox + t * dx, oz + t * slope)
    return np.where((off <= outer) & (off >= inner) & (t < 1e8), t, np.inf), np.abs(dy) + 0 * slope


def _meet_ellipsoid(size: Any, origin: Any, ray: Any) -> tuple[np.ndarray, np.ndarray]:
    o = [value / half for value, half in zip(origin, size, strict=True)]
    d = [value / half for value, half in zip(ray, size, strict=True)]
    a = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    gap = b**2 - a * (o[0] ** 2 + o[1] ** 2 + o[2] ** 2 - 1)
    t = (-b - np.sqrt(np.maximum(gap, 0))) / a
    return np.where(gap > 0, t, np.inf), np.sqrt(np.clip(gap / a, 0, 1))


_SHAPES = {"box": _meet_box, "cylinder": _meet_cylinder, "disc": _meet_disc, "ellipsoid": _meet_ellipsoid}


def _to_channels(hits: Hits, rng: np.random.Generator) -> np.ndarray:
    """Depth (near is bright, logarithmic), ambient light and laser intensity, 8 bits each."""
    shape = hits.distance.shape
    returned = hits.distance < RANGE_M
    distance = np.where(returned, hits.distance, RANGE_M)
    strength = hits.reflectivity * hits.facing
    lost = rng.random(shape) < np.clip(0.015 + 0.25 * (distance / RANGE_M) ** 2 + 0.2 * (strength < 0.03), 0, 0.9)
    measured = returned & ~lost
    noisy = np.clip(distance + rng.normal(0, RANGE_NOISE_M, shape), 0.5, RANGE_M)
    depth = np.where(measured, 1.0 - np.log(noisy / 1.2) / math.log(RANGE_M / 1.2), 0.0)
    light = rng.uniform(0.75, 1.15)
    sky = 0.62 * light * (1 + 0.15 * np.linspace(1, 0, shape[0])[:, None])
    ambient = np.where(returned, light * (0.15 + 0.95 * hits.albedo * (0.55 + 0.45 * hits.facing)), sky)
    ambient = ambient + rng.normal(0, 0.035, shape)
    falloff = np.minimum(1.0, 14.0 / distance) ** 0.7  # the scanner's own gain takes most of the square law away
    intensity = np.where(measured, np.sqrt(np.maximum(strength, 0)) * falloff * 0.75 + rng.normal(0, 0.03, shape), 0.0)
    channels = np.stack([depth, ambient, intensity], axis=-1)
    return (channels.clip(0, 1) * 255).astype(np.uint8)


def _visible_boxes(street: Street, thing: np.ndarray, cast_pixels: np.ndarray, full_turn: bool) -> list[Annotated]:
    found: list[Annotated] = []
    rows, columns = np.nonzero(thing >= 0)
    order = np.argsort(thing[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    ids = thing[rows, columns]
    for index in np.unique(ids):
        label = street.things[index].label
        start, stop = np.searchsorted(ids, [index, index + 1])
        r, c = rows[start:stop], columns[start:stop]
        if not label or len(r) < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * cast_pixels[index]):
            continue
        width = thing.shape[1]
        across_seam = full_turn and c.min() == 0 and c.max() == width - 1
        for half in [c < width // 2, c >= width // 2] if across_seam else [np.ones_like(c, dtype=bool)]:
            if half.sum() >= MIN_VISIBLE_PIXELS:
                box = (int(c[half].min()), int(r[half].min()), int(c[half].max()) + 1, int(r[half].max()) + 1)
                found.append(Annotated(label, box))
    return found


def simulate(seed: int, split: str, number: int, degrees: int) -> tuple[np.ndarray, list[Annotated]]:
    """Image `number` of a split, the same for the same arguments."""
    rng = np.random.default_rng([seed, SPLIT_SEEDS[split], number])
    return render(random_street(rng, degrees), Rays.of(degrees), rng)


def _make_image(job: tuple[int, str, int, int, str]) -> list[tuple[str, tuple[int, int, int, int]]]:
    seed, split, number, degrees, path = job
    image, objects = simulate(seed, split, number, degrees)
    Image.fromarray(image).save(path, compress_level=1)
    return [(thing.label, thing.box_xyxy) for thing in objects]


def make_dataset(
    out: Path, counts: dict[str, int], seed: int, degrees: int = 360, processes: int | None = None
) -> None:
    """Writes images/ and a COCO file per split with at least one image. Deterministic by (seed, split, number)."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    columns = COLUMNS * degrees // 360
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes or os.cpu_count()) as pool:
        for split, count in counts.items():
            if not count:
                continue
            names = [f"{split}_{number:05d}.png" for number in range(count)]
            jobs = [(seed, split, number, degrees, str(out / "images" / name)) for number, name in enumerate(names)]
            objects = pool.map(_make_image, jobs, chunksize=4)
            (out / f"{split}.json").write_text(json.dumps(_coco(names, objects, columns, seed, degrees)))


def _coco(names: list[str], objects: list[Any], columns: int, seed: int, degrees: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, boxes in enumerate(objects, 1):
        for label, (x1, y1, x2, y2) in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASS_NAMES.index(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {
            "description": "simulated 128-channel LiDAR street: depth, ambient, intensity",
            "detector_search": {"full_turn": degrees == 360, "area_ranges_px": AREA_RANGES_PX, "seed": seed},
        },
        "images": [{"id": n, "file_name": name, "width": columns, "height": ROWS} for n, name in enumerate(names, 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASS_NAMES, 1)],
    }


def make_dataset_once(out: Path, counts: dict[str, int], seed: int, degrees: int) -> Path:
    """`make_dataset` into `out` unless it lies there already; one process makes it, others wait."""
    from detector.data.places import exclusive_lock

    with exclusive_lock(out.with_suffix(".lock")):
        if not out.is_dir():
            unfinished = out.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make_dataset(unfinished, counts, seed, degrees)
            unfinished.rename(out)
    return out


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    from detector.commands import CommandError, command

    parser = argparse.ArgumentParser(
        prog="python -m detector.data.lidar", description="Makes a simulated LiDAR street as a COCO-format folder."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    for split, default in (("train", 400), ("val", 100), ("test", 0), ("extended", 0)):
        parser.add_argument(f"--{split}", type=int, default=default, help=f"{split} images (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same data (default: 0)")
    parser.add_argument(
        "--degrees",
        type=int,
        default=360,
        choices=(360, 180, 90),
        help="field of view; 180 gives 128 x 512 (default: 360)",
    )
    parser.add_argument("--processes", type=int, default=None, help="worker processes (default: all cores)")
    options = parser.parse_args(arguments)
    counts = {split: getattr(options, split) for split in SPLIT_SEEDS}
    with command():
        if min(counts.values()) < 0 or not sum(counts.values()):
            raise CommandError(f"--train, --val, --test and --extended must be counts of images, got {counts}")
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise CommandError(f"--out must be a new or empty folder; {options.out} holds something already")
        make_dataset(options.out, counts, options.seed, options.degrees, options.processes)
    made = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    print(f"{options.out}: {made} images of {ROWS} x {COLUMNS * options.degrees // 360} pixels", file=sys.stderr)


if __name__ == "__main__":
    main()
