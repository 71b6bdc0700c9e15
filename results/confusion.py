"""What a detector takes for what: boxes and detections paired whatever their class."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np

from results.evidence import DETECTIONS_NAME, Evidence
from results.matching import iou_xywh
from results.state import Trial

IOU = 0.5
FALLBACK_SCORE = 0.5  # of a class of which no best F1 is known


def shown_detections(evidence: Evidence, trial: Trial) -> list[dict[str, Any]] | None:
    """A trial's detections from the score of best F1 of each class on; None where none were kept."""
    try:
        rows = json.loads((evidence.folder / "trials" / trial.id / DETECTIONS_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    names = evidence.plan["dataset"]["classes"]
    epoch = trial.ranked_epoch(evidence.state.metric)
    scores = trial.epochs[epoch].get("best_f1_scores", {}) if epoch is not None else {}
    return [row for row in rows if row["score"] >= scores.get(names[row["category_id"] - 1], FALLBACK_SCORE)]


def pair(truths: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(truth, detection) pairs of one image at IoU 0.5 or more, the highest overlap first, each at most once."""
    if not truths or not found:
        return []
    ious = iou_xywh(np.array([row["bbox"] for row in found], dtype=float), np.array([row["bbox"] for row in truths], dtype=float), np.zeros(len(truths), dtype=bool))  # fmt: skip
    pairs = []
    free_found, free_truths = set(range(len(found))), set(range(len(truths)))
    for flat in np.argsort(-ious, axis=None, kind="stable"):
        d, g = divmod(int(flat), len(truths))
        if ious[d, g] < IOU:
            break
        if d in free_found and g in free_truths:
            pairs.append((g, d))
            free_found.discard(d)
            free_truths.discard(g)
    return pairs


def by_image(rows: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """Rows by image id."""
    parted: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        parted[row["image_id"]].append(row)
    return parted


def confusion_of(evidence: Evidence, trial: Trial) -> np.ndarray | None:
    """Counts (K + 1, K + 1): rows what it is, columns what it was taken for; the last of each is nothing."""
    detections = shown_detections(evidence, trial)
    if detections is None or evidence.ground_truth is None:
        return None
    classes = len(evidence.plan["dataset"]["classes"])
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    truths_of = by_image([row for row in evidence.ground_truth["annotations"] if not row.get("iscrowd", 0)])
    found_of = by_image(detections)
    for image in {**truths_of, **found_of}:
        truths, found = truths_of.get(image, []), found_of.get(image, [])
        pairs = pair(truths, found)
        for g, d in pairs:
            counts[truths[g]["category_id"] - 1, found[d]["category_id"] - 1] += 1
        for g in set(range(len(truths))) - {g for g, _ in pairs}:
            counts[truths[g]["category_id"] - 1, classes] += 1
        for d in set(range(len(found))) - {d for _, d in pairs}:
            counts[classes, found[d]["category_id"] - 1] += 1
    return counts
