"""Data that is not decoded in advance: is the step still fed? And how many copies of decoded data do several trials hold?

20 000 small images, of which decoded ones would take more than the limit that is set. As many trials as there are cores train
on them at a time, of one thread and one decoding process each: images a second of all, and the share of their time that
their steps wait for images, the start of the decoding processes at each epoch included. Then several processes read all
decoded images through our loader. `python -m benchmarks.any_size`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.sides import Claim, Measured, print_table, scratch_folder

IMAGES, VAL, HEIGHT, WIDTH, BOXES = 20_000, 64, 64, 128, 3
LIMITS = {"decoded": None, "encoded": 0.2, "off": 0.0}  # GB; decoded they take 0.49 GB
DECODED_GIB = IMAGES * HEIGHT * WIDTH * 3 / 2**30
WAIT_BAR, STEPS, TRIALS = 10.0, 150, 4  # steps of an epoch, of which there are two
TRAIN = """
import json, sys, time
import torch
torch.set_num_threads(1)
import detector.data.batches as batches_module
from detector.config import DetectorConfig
from detector.data.cache_rule import CacheRule
from detector.data.dataset import DataSource
from detector.memory import keep_freed_memory
from detector.profile import peak_memory_bytes, reset_peak_memory
from detector.trainer import Trainer
folder, limit, steps, mode = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
source = DataSource.from_folder(folder)
source.cache = CacheRule("auto", limit)
device = torch.device("cpu")
reset_peak_memory(device)
before = peak_memory_bytes(device)
data = batches_module.load_training_data(source, (64, 128))
assert data.train.kept.mode == mode, data.train.kept
keep_freed_memory()
config = DetectorConfig(image_size_px=(64, 128), neck_levels=(3, 4), neck_channels=48, head_depth=1, head_channels=48,
                        batch_size=8, steps_per_epoch=steps, anchor_sizes=12.0, zoom_max=0.1)
trainer = Trainer(config, data, 0, "cpu")
waited, plain = 0.0, batches_module.stream
def timed(*given):
    global waited
    asked = time.perf_counter()
    for pixels in plain(*given):
        waited += time.perf_counter() - asked
        yield pixels
        asked = time.perf_counter()
for images, targets in trainer.batches.epoch(9):  # warm
    trainer.train_batch(images, targets, 1e-3)
batches_module.stream = timed
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for epoch in (1, 2):
    for images, targets in trainer.batches.epoch(epoch):
        trainer.train_batch(images, targets, 1e-3)
seconds = time.perf_counter() - start
print(json.dumps([16 * steps / seconds, 100 * waited / seconds, (peak_memory_bytes(device) - before) / 2**30]), flush=True)
"""
HOLD = """
import sys
import numpy as np
import torch
from detector.data.batches import load_batches, load_training_data
from detector.memory import give_back_freed_memory
data = load_training_data(sys.argv[1], (64, 128))
parts = np.split(np.arange(len(data.train)), range(100, len(data.train), 100))
total = sum(int(images.sum()) for images, _, _ in load_batches(data.train, parts, torch.device("cpu")))
give_back_freed_memory()  # what it holds is asked for, not what lies free
print(total > 0, flush=True)
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
    """(images a second of all, mean share of the time in % that steps waited) of a process a core, in step."""
    command = [sys.executable, "-c", TRAIN, str(folder), json.dumps(LIMITS[mode]), str(steps), mode]
    with _held([command] * len(os.sched_getaffinity(0))) as running:
        for process in running:
            _say(process)
        told = [json.loads(_line(process)) for process in running]
    rates, waits, peaks = zip(*told, strict=True)
    return Measured(sum(rates), max(peaks)), Measured(statistics.fmean(waits), max(peaks))


def mapped_gib(folder: Path, trials: int) -> tuple[float, float, float]:
    """(resident, proportional) GiB of the decoded images over processes that have all read them, and the most that one of
    these processes holds of its own."""
    [pixels] = [path for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("images.npy") if path.stat().st_size > 10**8]
    with _held([[sys.executable, "-c", HOLD, str(folder)]] * trials) as held:
        shares = [_mapping(process.pid, pixels) for process in held]
        own = max(_private_bytes(process.pid) for process in held)
    return sum(rss for rss, _ in shares) / 2**30, sum(pss for _, pss in shares) / 2**30, own / 2**30


@contextlib.contextmanager
def _held(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have all said a first line, and go on once they are told to."""
    held = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    try:
        for process in held:
            _line(process)
        yield held
    finally:
        for process in held:
            process.communicate("\n")


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{process.args!r} ended"
    return line


def _private_bytes(pid: int) -> int:
    """What a process shares with no other (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


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
    with scratch_folder() as scratch:
        folder = scratch / "set"
        make_set(folder)
        for mode in LIMITS:  # decodes, packs
            train(folder, mode, 1)
        rounds = [{mode: train(folder, mode, STEPS) for mode in LIMITS} for _ in range(3)]
        resident, proportional, own = mapped_gib(folder, TRIALS)

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
        Claim("all that one of them holds of its own, freed memory given back", "GiB", at_most=DECODED_GIB, ours=Measured(own)),
    ]  # fmt: skip
    print_table(
        claims,
        f"{IMAGES} images of {HEIGHT} x {WIDTH}, --cache-limit 0.2 and 0 GB; a trial a core, of one thread and one decoding process.",
        "pillow",
        memory="GiB: peak memory of the largest trial's process beyond what its imports took",
    )


if __name__ == "__main__":
    main()
