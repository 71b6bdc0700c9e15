"""What a study's parts cost an image, and what that comes to for COCO 2017 and for a million images, on one node and sixteen.

Measured here, on sets whose images are one photograph-sized JPEG under many names (hard links) with COCO's 7.3 boxes an
image: annotations read and checked, fingerprints the first time and after, decoding, memory of a process that holds the
annotations. A few files being behind all names, the first fingerprint is hashing alone: reading comes on top, at the disk's own
rate. Computed from those: the tables of docs/scaling.md. `python -m benchmarks.growth`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.sides import machine, scratch_folder
from search.forecast import SECONDS_PER_LEG, simulate
from search.rungs import make_scheduler, rung_levels

WIDTH, HEIGHT, BOXES, CLASSES = 640, 480, 7.3, 80
SIZES = (2_000, 20_000, 118_287)  # the last is COCO 2017's training split
MILLION, NODES, CORES, GPUS = 1_000_000, (1, 16), 16, 8  # cores and GPUs of a node
RATES = (100, 400)  # images/s of a GPU, assumed: no GPU was measured
LINKS = 50_000
DECODED = 400  # images that are decoded for the time of one
PART = """
import json, sys, time
import numpy
from detector.data.coco import load_dataset
from detector.data.dataset import DataSource
from detector.data.fingerprint import split_fingerprint
memory_now = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096
before, start = memory_now(), time.perf_counter()
dataset = load_dataset(DataSource.from_folder(sys.argv[1]))
read = time.perf_counter()
split_fingerprint(dataset.train)
print(json.dumps([read - start, time.perf_counter() - read, memory_now() - before]))
"""


def make_set(folder: Path, images: int) -> int:
    """A set of links to one JPEG; returns the bytes of that file."""
    (folder / "images").mkdir(parents=True)
    drawn = np.random.default_rng(0)
    coarse = Image.fromarray(drawn.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
    noise = drawn.integers(-30, 30, (HEIGHT, WIDTH, 3))
    pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int) + noise
    photograph = folder / "photograph.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(photograph, quality=85)
    os.utime(photograph, (time.time() - 3600,) * 2)
    for split, count in (("train", images), ("val", 100)):
        names = [f"{split}-{n}.jpg" for n in range(count)]
        for n, name in enumerate(names):
            if n and n % LINKS == 0:  # a file system allows so many names of one file
                shutil.copy2(photograph, photograph.with_name(f"{split}-{n}.copy"))
                photograph = photograph.with_name(f"{split}-{n}.copy")
            os.link(photograph, folder / "images" / name)
        of = drawn.integers(1, count + 1, int(count * BOXES))
        boxes = np.concatenate([drawn.uniform(0, 300, (len(of), 2)), drawn.uniform(10, 150, (len(of), 2))], axis=1)
        kinds = drawn.integers(1, CLASSES + 1, len(of))
        content: dict[str, Any] = {
            "images": [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names, 1)],
            "annotations": [
                {"id": n, "image_id": int(image), "category_id": int(kind), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for n, (image, kind, box) in enumerate(zip(of, kinds, boxes.round(1).tolist(), strict=True), 1)
            ],
            "categories": [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)],
        }  # fmt: skip
        (folder / f"{split}.json").write_text(json.dumps(content))
    return photograph.stat().st_size


def measure(folder: Path) -> tuple[float, float, int]:
    """(seconds to read and check, seconds of the fingerprint, bytes held) in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", PART, str(folder)], check=True, capture_output=True, text=True)
    read, digest, held = json.loads(ran.stdout.splitlines()[-1])
    return read, digest, held


def decode_seconds(folder: Path) -> float:
    """Of one image onto a canvas of its own size, on one core."""
    from detector.data.letterbox import letterbox, open_rgb

    canvas = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    start = time.perf_counter()
    for n in range(DECODED):
        letterbox(open_rgb(folder / "images" / f"train-{n}.jpg", (HEIGHT, WIDTH))[0], (WIDTH, HEIGHT), canvas)
    return (time.perf_counter() - start) / DECODED


def hours(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_computed(each: dict[str, float]) -> None:
    """The costs of data and the whole default study, by size and nodes."""
    print(f"\n**Computed** from the last row: one node of {CORES} cores.\n")
    print(
        "| images | read and checked, each process | fingerprint: first (hashing), later | decoded once | disk decoded | disk encoded | memory of a process |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in (SIZES[-1], MILLION):
        cells = [
            f"{count:,}", hours(count * each["read"]),
            f"{hours(count * each['first'] * (os.cpu_count() or 1) / CORES)}, {hours(count * each['later'])}",
            hours(count * each["decode"] / CORES), f"{count * WIDTH * HEIGHT * 3 / 1e9:.0f} GB",
            f"{count * each['file'] / 1e9:.0f} GB", f"{count * each['held'] / 2**30:.2f} GiB",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
    print(
        f"\n**Computed**: the default study on GPUs (32 trials, rungs 4, 12, 36 epochs), {GPUS} GPUs a node, at an assumed rate of each.\n"
    )
    print("| images | GPU's images/s | epochs trained | 1 node | 16 nodes |\n|---:|---:|---:|---:|---:|")
    scheduler = make_scheduler("asha", rung_levels(4, 36, 3), 3)
    for count in (1_604, SIZES[-1], MILLION):
        for rate in RATES:
            found = [simulate(scheduler, 32, min(32, GPUS * nodes), [count / rate]) for nodes in NODES]
            walls = " | ".join(hours(forecast.seconds) for forecast in found)
            print(f"| {count:,} | {rate} | {found[0].epochs:.0f} | {walls} |")
    print(
        f"\nA leg's turnaround is taken as {SECONDS_PER_LEG} s; evaluation is left out. More than 32 GPUs find no more than 32 trials to train."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.parse_args()
    print(
        f"{machine('pillow')}\n\n**Measured**, an image being {WIDTH} x {HEIGHT} with {BOXES} boxes, each size in processes of its own:\n"
    )
    print(
        "| images | read and checked | fingerprint: first (hashing) | later | memory of a process |\n|---:|---:|---:|---:|---:|"
    )
    each: dict[str, float] = {}
    for count in SIZES:
        with scratch_folder() as scratch:
            folder = scratch / "set"
            size = make_set(folder, count)
            time.sleep(3)  # links made just now are not trusted
            first, later = measure(folder), measure(folder)
            decode = decode_seconds(folder)
        each = {
            "read": later[0] / count, "first": first[1] / count, "later": later[1] / count, "held": later[2] / count,
            "decode": decode, "file": size,
        }  # fmt: skip
        print(
            f"| {count:,} | {later[0]:.2f} s | {first[1]:.2f} s | {later[1]:.2f} s | {later[2] / 2**30:.2f} GiB |",
            flush=True,
        )
    print(
        f"\nDecoding: {1000 * decode:.2f} ms of a core an image; a file has {size / 1e3:.0f} kB, decoded {WIDTH * HEIGHT * 3 / 1e3:.0f} kB."
    )
    print_computed(each)


if __name__ == "__main__":
    main()
