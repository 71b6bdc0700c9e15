"""Seconds to score one epoch's detections: ours and pycocotools, in equal numbers.

As a trainer does it: the annotations are indexed already, detections come as rows. One validation split of a study (300
images, 8 classes) and one of COCO's size (5000 images, 80 classes, its 7.3 boxes an image, 100 detections an image).
`python -m benchmarks.evaluation`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.sides import ROUNDS, Claim, in_turn, print_table, seconds_of
from detector.evaluate import METRIC_NAMES, Evaluator, quiet

BAR, SIDE = 6.0, 512
SETS = {"300 images x 8 classes": (300, 8, 17.0), "5000 images x 80 classes": (5000, 80, 7.3)}
DETECTIONS = 100  # an image, COCO's most


def make_set(images: int, classes: int, boxes: float, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, and detections of which half lie near a box of their class."""
    drawn = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = int(drawn.poisson(boxes))
        sides = np.exp(drawn.normal(3.4, 0.8, (count, 2))).clip(2, SIDE)
        corners = drawn.uniform(0, SIDE - sides)
        labels = drawn.integers(1, classes + 1, count)
        for corner, side, label in zip(corners, sides, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": int(label),
                    "bbox": [*corner.tolist(), *side.tolist()], "area": float(side.prod()), "iscrowd": 0,
                }
            )  # fmt: skip
        near = drawn.integers(0, max(1, count), DETECTIONS // 2) if count else np.zeros(0, dtype=int)
        moved = drawn.normal(0, 0.08, (len(near), 2)) * sides[near]  # by a share of the box's own sides
        found_boxes = np.concatenate([corners[near] + moved, sides[near]], axis=1)
        far = drawn.uniform(1, SIDE / 2, (DETECTIONS - len(near), 4))
        rows = np.concatenate([found_boxes, far])
        kinds = np.concatenate([labels[near], drawn.integers(1, classes + 1, len(far))])
        scores = drawn.beta(1, 4, DETECTIONS)
        detections += [
            {"image_id": image, "category_id": int(kind), "bbox": box, "score": float(score)}
            for kind, box, score in zip(kinds, rows.tolist(), scores, strict=True)
        ]
    truth = {
        "info": {},
        "images": [{"id": n, "width": SIDE, "height": SIDE, "file_name": f"{n}.png"} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in range(1, classes + 1)],
    }
    return truth, detections


def pycocotools_numbers(truth: COCO, detections: list[dict[str, Any]]) -> dict[str, float]:
    """The 12 numbers as its users get them."""
    with quiet():
        run = COCOeval(truth, truth.loadRes(detections), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(METRIC_NAMES, run.stats.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    claims = []
    for name, (images, classes, boxes) in SETS.items():
        truth, detections = make_set(images, classes, boxes)
        ours = Evaluator(truth)
        with quiet():
            official = COCO()
            official.dataset = truth
            official.createIndex()
        score, expected = ours(detections).values, pycocotools_numbers(official, copy.deepcopy(detections))
        assert max(abs(score[name] - expected[name]) for name in METRIC_NAMES) < 1e-12, (score, expected)

        def timed(score: Callable[[list[dict[str, Any]]], object], rows: list[dict[str, Any]]) -> float:
            fresh = [dict(row) for row in rows]  # as after every epoch: pycocotools writes into them
            return seconds_of(partial(score, fresh))

        found = in_turn(
            {
                "theirs": partial(timed, partial(pycocotools_numbers, official), detections),
                "ours": partial(timed, ours, detections),
            },
            options.rounds if images < 1000 else min(3, options.rounds),
            warmup=0,
        )
        note = f"mAP {score['mAP']:.4f} on both sides"
        claims.append(Claim(name, "s", BAR, found["theirs"], found["ours"], note=note))
    print_table(claims, "Evaluation of one epoch; theirs: pycocotools.", "pycocotools", "faster-coco-eval")


if __name__ == "__main__":
    main()
