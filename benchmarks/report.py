"""How long a report takes as a study grows, how much memory, and how large the page is.

`python -m benchmarks.report` writes two synthetic studies into a temporary folder and runs `python -m results.report` on each:
200 trials all trained for 30 epochs, and 10 000 trials under ASHA; each with 300 validation images and the detections of its
twenty best. Prints seconds, peak memory of the process and size of the page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from results.records import GROUND_TRUTH_NAME, JOURNAL_NAME, PLAN_NAME
from search.curves import SyntheticCurves
from search.provenance import versions
from search.simulation import simulate_study

EPOCHS, IMAGES, BEST_KEPT = 30, 300, 20
CLASSES = ("car", "truck", "bus", "motorcycle", "bicycle", "scooter", "person", "rider")
OTHERS = ("AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
WIDTH, HEIGHT = 512, 128  # pixels of an image


def write_study(folder: Path, trials: int, scheduler: str) -> None:
    """A study folder as a search leaves it, its scores being synthetic curves."""
    curves = SyntheticCurves(epochs=EPOCHS)
    state = simulate_study(curves, scheduler=scheduler, sampler="random", workers=8, seed=0, trials=trials).state
    rng = random.Random(0)
    session = {
        "event": "session_started",
        "time": 0.0,
        "started": 0.0,
        "resumed": False,
        "slots": 8,
        "threads": 1,
        "device": "CPU",
    }
    with (folder / JOURNAL_NAME).open("w") as journal:
        for record in [
            session,
            *state.records,
            {"event": "study_ended", "time": state.records[-1]["time"], "reason": "done"},
        ]:
            journal.write(json.dumps(_whole(record, rng) if record["event"] == "epoch" else record) + "\n")
    plan = {
        "format": 1, "name": folder.name, "space": curves.space.to_dict(), "profile": "cpu", "metric": "mAP", "objectives": ["mAP"], "seed": 0,
        "sampler": "random", "scheduler": scheduler, "levels": state.levels, "eta": 3, "grace": 1, "epochs": EPOCHS, "trials": trials,
        "max_hours": None, "official_eval": False, "skip_bad": False, "space_option": "retinanet", "shown_images": [], "dropped": [],
        "source": {"name": "noise", "train": ["", ""], "val": ["", str(folder / "images")], "test": None},
        "dataset": {
            "name": "noise", "fingerprint": "0" * 16, "train_images": 1600, "val_images": IMAGES, "test_images": 0, "train_boxes": 18000,
            "val_boxes": 0, "classes": list(CLASSES), "full_turn": True, "area_ranges_px": [16.0, 32.0],
        },
        "versions": versions(), "commit": "", "command": "python -m benchmarks.report",
    }  # fmt: skip
    (folder / PLAN_NAME).write_text(json.dumps(plan))
    truth, detections = _scene(np.random.default_rng(0), folder / "images")
    (folder / GROUND_TRUTH_NAME).write_text(json.dumps(truth))
    best = sorted(state.trials.values(), key=lambda t: -t.ranked_score("mAP"))[:BEST_KEPT]
    for trial in [next(iter(state.trials.values())), *best]:
        (folder / "trials" / trial.id).mkdir(parents=True, exist_ok=True)
        (folder / "trials" / trial.id / "detections.json").write_text(json.dumps(detections))


def _whole(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """An epoch's record with all that a real one holds."""
    score = record["metrics"]["mAP"]
    metrics = {"mAP": score, "AP50": min(1.0, 1.6 * score), **dict.fromkeys(OTHERS, score)}
    per_class = {name: max(0.0, score + rng.gauss(0, 0.05)) for name in CLASSES}
    return {
        **record, "metrics": metrics, "per_class": per_class, "best_f1_scores": dict.fromkeys(CLASSES, 0.4), "train_loss": 1 - score,
        "classification_loss": 0.6, "box_loss": 0.4, "lr": 1e-3, "train_seconds": 0.8 * record["seconds"],
        "eval_seconds": 0.2 * record["seconds"], "leg": 1, "threads": 1,
    }  # fmt: skip


def _scene(rng: np.random.Generator, images: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes as dense as the report's validation split has them, a detector's output, and pictures of noise."""
    images.mkdir(parents=True)
    noise = images / "noise.png"
    Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(noise)
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, IMAGES + 1):
        os.link(noise, images / f"{image}.png")
        for _ in range(rng.poisson(18)):
            bbox = [float(v) for v in (*rng.uniform(0, [WIDTH - 40, HEIGHT - 40]), *rng.uniform(6, 40, 2))]
            category = int(rng.integers(1, len(CLASSES) + 1))
            truths.append({"id": len(truths) + 1, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0})  # fmt: skip
            for _ in range(int(rng.integers(0, 5))):
                moved = [float(v) for v in np.array(bbox) + rng.normal(0, 3, 4)]
                moved[2:] = [max(1.0, side) for side in moved[2:]]
                found.append({"image_id": image, "category_id": category, "bbox": moved, "score": float(rng.random())})
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(1, IMAGES + 1)],
        "annotations": truths, "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
    }, found  # fmt: skip


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="write the studies into this folder and leave them there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.keep or Path(temporary)
        print("| study | journal lines | seconds | peak GiB | page MB |\n|---|---|---|---|---|")
        for name, trials, scheduler in (
            ("200 trials x 30 epochs", 200, "none"),
            ("10 000 trials, asha", 10_000, "asha"),
        ):
            folder = place / f"{trials}"
            folder.mkdir(parents=True)
            write_study(folder, trials, scheduler)
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "results.report", str(folder)], check=True, stderr=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20
            lines = sum(1 for _ in (folder / JOURNAL_NAME).open())
            size = (folder / "results" / "report.html").stat().st_size / 1e6
            print(f"| {name} | {lines} | {seconds:.1f} | {peak:.2f} | {size:.1f} |", flush=True)


if __name__ == "__main__":
    main()
