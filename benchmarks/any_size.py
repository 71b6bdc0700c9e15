"""Data that is not decoded in advance: is the step still fed? And how many copies of decoded data do several trials hold?

20 000 small images, of which decoded ones would take more than the limit that is set. A trial of one thread trains on
them, with one process that decodes: images a second, and the share of the time that its step waits for images. Then
several processes map the decoded images and read all of them. `python -m benchmarks.any_size`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.sides import Claim, Measured, print_table

IMAGES, VAL, HEIGHT, WIDTH, BOXES = 20_000, 64, 64, 128, 3
LIMITS = {"decoded": None, "encoded": 0.2, "off": 0.0}  # GB; decoded they take 0.49 GB
WAIT_BAR, STEPS, TRIALS = 10.0, 200, 4
TRAIN = """
import json, sys, time
import torch
torch.set_num_threads(1)
from detector.config import DetectorConfig
from detector.data.batches import load_training_data
from detector.data.cache_rule import CacheRule
from detector.data.dataset import DataSource
from detector.profile import peak_memory_bytes, reset_peak_memory
from detector.trainer import Trainer
folder, limit, steps, mode = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
source = DataSource.from_folder(folder)
source.cache = CacheRule("auto", limit)
reset_peak_memory(torch.device("cpu"))
before = peak_memory_bytes(torch.device("cpu"))
data = load_training_data(source, (64, 128))
assert data.train.kept.mode == mode, data.train.kept
config = DetectorConfig(image_size_px=(64, 128), neck_levels=(3, 4), neck_channels=48, head_depth=1, head_channels=48,
                        batch_size=8, steps_per_epoch=steps + 10, anchor_sizes=12.0, zoom_max=0.1)
trainer = Trainer(config, data, 0, "cpu")
batches, waited, start = trainer.batches.epoch(1), 0.0, 0.0
for step in range(steps + 10):
    if step == 10:
        waited, start = 0.0, time.perf_counter()
    asked = time.perf_counter()
    images, targets = next(batches)
    waited += time.perf_counter() - asked
    trainer.train_batch(images, targets, 1e-3)
seconds = time.perf_counter() - start
print(json.dumps([8 * steps / seconds, 100 * waited / seconds, (peak_memory_bytes(torch.device("cpu")) - before) / 2**30]))
"""
HOLD = """
import sys
import numpy as np
images = np.load(sys.argv[1], mmap_mode="r")
total = sum(int(images[n:n + 100].sum(dtype="int64")) for n in range(0, len(images), 100))
print("read", flush=True)
sys.stdin.readline()
"""


def make_set(folder: Path) -> None:
    """Small pictures of bright boxes on noise, as JPEG."""
    (folder / "images").mkdir(parents=True)

    def paint(name: str, seed: int) -> list[list[float]]:
        drawn = np.random.default_rng(seed)
        pixels = drawn.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        boxes = []
        for _ in range(BOXES):
            w, h = drawn.integers(8, 40), drawn.integers(8, 30)
            x, y = drawn.integers(0, WIDTH - w), drawn.integers(0, HEIGHT - h)
            pixels[y : y + h, x : x + w] += 120
            boxes.append([float(x), float(y), float(w), float(h)])
        Image.fromarray(pixels).save(folder / "images" / name, quality=85)
        return boxes

    for split, count, first in (("train", IMAGES, 0), ("val", VAL, IMAGES)):
        names = [f"{split}-{n}.jpg" for n in range(count)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = list(pool.map(paint, names, range(first, first + count)))
        boxes = [(n, box) for n, found in enumerate(rows, 1) for box in found]
        content = {
            "images": [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(names, 1)],
            "annotations": [
                {"id": k, "image_id": n, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for k, (n, box) in enumerate(boxes, 1)
            ],
            "categories": [{"id": 1, "name": "box"}],
        }  # fmt: skip
        (folder / f"{split}.json").write_text(json.dumps(content))


def train(folder: Path, mode: str, steps: int) -> tuple[Measured, Measured]:
    """(images a second, share of the time in % that the step waited) of a process of its own."""
    command = [sys.executable, "-c", TRAIN, str(folder), json.dumps(LIMITS[mode]), str(steps), mode]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, waited, gib = json.loads(ran.stdout.splitlines()[-1])
    return Measured(rate, gib), Measured(waited, gib)


def mapped_gib(trials: int) -> tuple[float, float]:
    """(resident, proportional) GiB of the decoded images over processes that have all read them."""
    [pixels] = [path for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("images.npy") if path.stat().st_size > 10**8]
    command = [sys.executable, "-c", HOLD, str(pixels)]
    held = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(trials)]
    try:
        for process in held:
            assert process.stdout is not None
            assert process.stdout.readline() == "read\n"
        shares = [_mapping(process.pid, pixels) for process in held]
    finally:
        for process in held:
            process.communicate("\n")
    return sum(rss for rss, _ in shares) / 2**30, sum(pss for _, pss in shares) / 2**30


def _mapping(pid: int, file: Path) -> tuple[int, int]:
    """(resident, proportional) bytes of a file's mapping in a process (Linux)."""
    found, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name = line.split(":")[0]
        if " " in name:  # the head of a mapping ends with its file
            inside = line.endswith(str(file))
        elif inside and name in found:
            found[name] += int(line.split()[1]) * 1024
    return found["Rss"], found["Pss"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.any_size", description=__doc__.splitlines()[0])
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        folder = Path(scratch) / "set"
        make_set(folder)
        for mode in LIMITS:  # decodes, packs
            train(folder, mode, 1)
        rounds = [{mode: train(folder, mode, STEPS) for mode in LIMITS} for _ in range(3)]
        resident, proportional = mapped_gib(TRIALS)

    def middle(mode: str, which: int) -> Measured:
        return sorted((found[mode][which] for found in rounds), key=lambda side: side.value)[1]

    images = partial(Claim, unit="images/s", theirs=middle("decoded", 0), more_is_better=True)
    waits = partial(Claim, unit="%", at_most=WAIT_BAR)
    claims = [
        images("trained, encoded (theirs: decoded)", ours=middle("encoded", 0)),
        images("trained, off (theirs: decoded)", ours=middle("off", 0)),
        *(waits(f"of the time the step waits for images, {mode}", ours=middle(mode, 1)) for mode in LIMITS),
        Claim(
            f"decoded images in memory, {TRIALS} trials (theirs: if each had its own)", "GiB", bar=TRIALS * 0.95,
            theirs=Measured(resident), ours=Measured(proportional),
        ),
    ]  # fmt: skip
    print_table(
        claims,
        f"{IMAGES} images of {HEIGHT} x {WIDTH}, --cache-limit 0.2 and 0 GB; one thread trains, one process decodes.",
        "pillow",
    )


if __name__ == "__main__":
    main()
