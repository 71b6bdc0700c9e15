"""Random boxes and detections as COCO has them, for tests of what is made from matches."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 100.0


def scene(
    seed: int, images: int = 12, classes: int = 3, crowds: bool = True, ties: bool = True
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes and detections: most are boxes moved a little, some are anywhere; scores in steps, so that they tie, or not."""
    rng = np.random.default_rng(seed)
    digits = 1 if ties else 12
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 7))):
            category = int(rng.integers(1, classes + 1))
            bbox = [float(v) for v in (*rng.uniform(0, SIDE / 2, 2), *rng.uniform(5, SIDE / 2, 2))]
            crowd = int(crowds and rng.random() < 0.15)
            truths.append({
                "id": len(truths) + 1, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3],
                "iscrowd": crowd,
            })  # fmt: skip
            for _ in range(int(rng.integers(0, 4))):
                moved = [float(v) for v in np.array(bbox) + rng.normal(0, rng.choice([0.3, 2.0, 6.0]), 4)]
                moved[2:] = [max(1.0, v) for v in moved[2:]]
                label = category if rng.random() < 0.8 else int(rng.integers(1, classes + 1))
                found.append(
                    {
                        "image_id": image,
                        "category_id": label,
                        "bbox": moved,
                        "score": round(float(rng.random()), digits),
                    }
                )
        for _ in range(int(rng.integers(0, 3))):
            anywhere = [float(v) for v in (*rng.uniform(0, SIDE / 2, 2), *rng.uniform(5, SIDE / 2, 2))]
            found.append({
                "image_id": image, "category_id": int(rng.integers(1, classes + 1)), "bbox": anywhere,
                "score": round(float(rng.random()), digits),
            })  # fmt: skip
    truth = {
        "images": [{"id": n} for n in range(1, images + 1)],
        "annotations": truths,
        "categories": [{"id": n, "name": f"c{n}"} for n in range(1, classes + 1)],
    }
    return truth, found
