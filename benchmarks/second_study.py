"""Seconds until a study's data is ready: the first time on a machine, and for every study and process after it.

As many images as the student report's set has (1604 and 301, 128 x 1024). A study: read and checked, the space fitted,
fingerprints taken, decoded or found decoded, the plan made (`search.plan.make_plan`). A trial's process: the same data
opened and its first batch of 32 made. Each time in a process of its own; what it imports is not counted.
`python -m benchmarks.second_study`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.sides import Claim, Measured, print_table, scratch_folder
from detector.data.lidar import make_dataset

TRAIN, VAL, DISTINCT, TIMES = 1604, 301, 60, 5
SETTLED_S = 3.0  # files younger than two seconds are read again (detector/data/fingerprint.py)
PLAN = """
import sys, time
import search.plan, search.resources
from search.options import Options
from detector.profile import peak_memory_bytes, reset_peak_memory
import torch
search.resources.count_gpus()
device = torch.device("cpu")
reset_peak_memory(device)
before, start = peak_memory_bytes(device), time.perf_counter()
search.plan.make_plan(Options(data=sys.argv[1], runs_dir=sys.argv[2], profile="gpu"), lambda line: None)
print(time.perf_counter() - start, (peak_memory_bytes(device) - before) / 2**30)
"""
OPEN = """
import sys, time
import numpy, torch
from detector.config import DetectorConfig
from detector.data.batches import TrainingBatches, load_training_data
from detector.profile import peak_memory_bytes, reset_peak_memory
device = torch.device("cpu")
reset_peak_memory(device)
before, start = peak_memory_bytes(device), time.perf_counter()
data = load_training_data(sys.argv[1], (128, 1024))
next(TrainingBatches(DetectorConfig(image_size_px=(128, 1024), batch_size=32), data, 0, device).epoch(1))
print(time.perf_counter() - start, (peak_memory_bytes(device) - before) / 2**30)
"""


def make_set(folder: Path) -> None:
    """A street of the report's size; its pictures repeat, its files do not."""
    make_dataset(folder, {"train": DISTINCT, "val": DISTINCT}, seed=0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        content = json.loads((folder / f"{split}.json").read_text())
        by_image: dict[int, list[dict[str, object]]] = {}
        for row in content["annotations"]:
            by_image.setdefault(row["image_id"], []).append(row)
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for n in range(count):
            source = content["images"][n % DISTINCT]
            name = f"{split}-copy-{n}{Path(source['file_name']).suffix}"
            shutil.copyfile(folder / "images" / source["file_name"], folder / "images" / name)
            images.append({**source, "id": n + 1, "file_name": name})
            for row in by_image.get(source["id"], []):
                annotations.append({**row, "id": len(annotations) + 1, "image_id": n + 1})
        (folder / f"{split}.json").write_text(json.dumps({**content, "images": images, "annotations": annotations}))


def ready(code: str, folder: Path) -> Measured:
    """Seconds and memory of a process of its own."""
    words = [str(folder), str(folder.with_name("runs"))]
    ran = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    seconds, gib = ran.stdout.splitlines()[-1].split()
    return Measured(float(seconds), float(gib))


def middle(code: str, folder: Path) -> Measured:
    """The median of several."""
    return sorted((ready(code, folder) for _ in range(TIMES)), key=lambda side: side.value)[TIMES // 2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_study", description=__doc__.splitlines()[0])
    parser.parse_args()
    with scratch_folder() as scratch:
        folder = scratch / "street"
        make_set(folder)
        time.sleep(SETTLED_S)
        first = ready(PLAN, folder)
        claims = [
            Claim(
                "a second study planned (theirs: the first)", "s", at_most=1.0, theirs=first, ours=middle(PLAN, folder)
            ),
            Claim("data opened by a trial's process, first batch made", "s", at_most=1.0, ours=middle(OPEN, folder)),
        ]
    about = f"Data ready: {TRAIN} + {VAL} images of 128 x 1024, decoded and mapped."
    print_table(
        claims,
        about,
        "pillow",
        how=f"ours the median of {TIMES}, the first study once",
        memory="GiB: peak memory beyond what imports took",
    )


if __name__ == "__main__":
    main()
