"""Seconds until a study's data is ready: the first time on a machine, and for every process and study after it.

As many images as the student report's set has (1604 and 301, 128 x 1024): read and checked, fingerprints taken, decoded or
found decoded, statistics known, the first batch made. Each time in a process of its own; what it imports is not counted.
`python -m benchmarks.second_study`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.sides import Claim, Measured, print_table
from detector.data.lidar import make_dataset

TRAIN, VAL, DISTINCT, CANVAS, TIMES = 1604, 301, 60, (128, 1024), 5
SETTLED_S = 3.0  # files younger than two seconds are read again (detector/data/fingerprint.py)
READY = """
import json, sys, time
import numpy, torch
from detector.config import DetectorConfig
from detector.data.batches import TrainingBatches, load_training_data
from detector.data.dataset import DataSource
from detector.profile import peak_memory_bytes, reset_peak_memory
device = torch.device("cpu")
reset_peak_memory(device)
before, start = peak_memory_bytes(device), time.perf_counter()
data = load_training_data(DataSource.from_folder(sys.argv[1]), (128, 1024))
next(TrainingBatches(DetectorConfig(image_size_px=(128, 1024), batch_size=32), data, 0, device).epoch(1))
seconds = time.perf_counter() - start
print(json.dumps([seconds, (peak_memory_bytes(device) - before) / 2**30]))
"""


def make_set(folder: Path) -> None:
    """A street of the report's size; its pictures repeat, its files do not."""
    make_dataset(folder, {"train": DISTINCT, "val": DISTINCT}, seed=0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        content = json.loads((folder / f"{split}.json").read_text())
        by_image: dict[int, list[dict[str, object]]] = {}
        for row in content["annotations"]:
            by_image.setdefault(row["image_id"], []).append(row)
        images, annotations = [], []
        for n in range(count):
            source = content["images"][n % DISTINCT]
            name = f"{split}-copy-{n}{Path(source['file_name']).suffix}"
            shutil.copyfile(folder / "images" / source["file_name"], folder / "images" / name)
            images.append({**source, "id": n + 1, "file_name": name})
            for row in by_image.get(source["id"], []):
                annotations.append({**row, "id": len(annotations) + 1, "image_id": n + 1})
        (folder / f"{split}.json").write_text(json.dumps({**content, "images": images, "annotations": annotations}))


def ready(folder: Path) -> Measured:
    """Seconds and memory of a process of its own."""
    ran = subprocess.run([sys.executable, "-c", READY, str(folder)], check=True, capture_output=True, text=True)
    seconds, gib = json.loads(ran.stdout.splitlines()[-1])
    return Measured(seconds, gib)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_study", description=__doc__.splitlines()[0])
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        folder = Path(scratch) / "street"
        make_set(folder)
        time.sleep(SETTLED_S)
        first = ready(folder)
        later = sorted((ready(folder) for _ in range(TIMES)), key=lambda side: side.value)[TIMES // 2]
    claims = [
        Claim("the second study on the same data (theirs: the first)", "s", at_most=1.0, theirs=first, ours=later)
    ]
    about = f"Data ready for the first batch of 32: {TRAIN} + {VAL} images of 128 x 1024, decoded and mapped."
    print_table(claims, about, "pillow")


if __name__ == "__main__":
    main()
