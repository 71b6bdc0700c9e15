"""Which detection found which box: COCO's matching, image by image, and mAP from it for any choice of images.

The matching is that of pycocotools' COCOeval (area "all", at most 100 detections an image and class); a test compares
them to 1e-10. It is done once a trial and stored; a bootstrap then only counts.

Shapes: N images, K classes, D detections of a class, T = 10 IoU thresholds, R replicates.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 100  # of an image and class
AT_ONCE = 60_000  # counts of detections worked on together: what a core's cache holds
ABSENT = -1  # the box of a detection that found none


@dataclass
class ClassMatches:
    """The detections of one class, by falling score."""

    image: np.ndarray  # (D,) position of the detection's image
    score: np.ndarray  # (D,)
    row: np.ndarray  # (D,) position in the detection file
    matched: np.ndarray  # (T, D) bool: true positives
    ignored: np.ndarray  # (T, D) bool: on a crowd, neither true nor false
    truth: np.ndarray  # (D,) position of the box in the annotations that it found at IoU 0.5, else ABSENT
    boxes: np.ndarray  # (N,) boxes of the class that count, by image

    def counts_at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(true, false) positives at IoU 0.5 among detections that score at least each threshold, crowds left out."""
        told = np.logical_not(self.ignored[0])
        scores, true = self.score[told], self.matched[0][told]
        among = np.searchsorted(-scores, -thresholds, side="right")
        found = np.concatenate([[0], np.cumsum(true)])[among]
        return found, among - found


@dataclass
class Matches:
    """A detection file against the ground truth."""

    class_names: tuple[str, ...]
    classes: list[ClassMatches]  # (K,)
    num_images: int

    def to_bytes(self) -> bytes:
        """As a compressed npz."""
        arrays: dict[str, Any] = {"num_images": self.num_images, "class_names": np.array(self.class_names, dtype=str)}
        for k, found in enumerate(self.classes):
            arrays |= {f"{name}_{k}": value for name, value in vars(found).items()}
        out = io.BytesIO()
        np.savez_compressed(out, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Matches:
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(content)) as arrays:
            names = tuple(str(name) for name in arrays["class_names"])
            fields = ClassMatches.__dataclass_fields__
            classes = [ClassMatches(**{name: arrays[f"{name}_{k}"] for name in fields}) for k in range(len(names))]
            return cls(names, classes, int(arrays["num_images"]))

    def of_images(self, images: np.ndarray) -> Matches:
        """The matches of some images alone (distinct positions, in rising order), which are counted anew from 0."""
        new = np.full(self.num_images, ABSENT)
        new[images] = np.arange(len(images))
        classes = []
        for found in self.classes:
            kept = new[found.image] != ABSENT
            row, truth = found.row[kept], found.truth[kept]
            flags = found.matched[:, kept], found.ignored[:, kept]
            classes.append(
                ClassMatches(new[found.image[kept]], found.score[kept], row, *flags, truth, found.boxes[images])
            )
        return Matches(self.class_names, classes, len(images))

    def per_class(self, weights: np.ndarray) -> np.ndarray:
        """AP averaged over IoU thresholds (R, K) where image n counts weights[r, n] times; NaN for a class without a box."""
        return np.stack([average_precision(found, weights).mean(axis=1) for found in self.classes], axis=1)

    def mAP(self, weights: np.ndarray | None = None) -> np.ndarray:  # noqa: N802  the field's word
        """mAP (R,) of R choices of images; of all images once (1,) where none is given. NaN without any box.

        A class that is absent from a choice drops out, as in COCO.
        """
        weights = np.ones((1, self.num_images), dtype=np.int64) if weights is None else weights
        values = self.per_class(weights)
        there = ~np.isnan(values)
        counted = there.sum(axis=1)
        mean: np.ndarray = np.where(there, values, 0.0).sum(axis=1) / np.maximum(counted, 1)
        return np.where(counted > 0, mean, np.nan)


def match(ground_truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> Matches:
    """COCO's matching of detections (rows image_id, category_id, bbox xywh, score) to a COCO object's boxes."""
    images = sorted(row["id"] for row in ground_truth["images"])
    position = {identity: n for n, identity in enumerate(images)}
    categories = sorted(ground_truth["categories"], key=lambda row: row["id"])
    boxes_of: dict[tuple[Any, Any], list[int]] = defaultdict(list)
    for n, row in enumerate(ground_truth["annotations"]):
        boxes_of[row["image_id"], row["category_id"]].append(n)
    found_of: dict[tuple[Any, Any], list[int]] = defaultdict(list)
    for n, row in enumerate(detections):
        found_of[row["image_id"], row["category_id"]].append(n)
    classes = []
    for category in categories:
        parts = []
        boxes = np.zeros(len(images), dtype=np.int64)
        for image in images:
            truths, rows = boxes_of[image, category["id"]], found_of[image, category["id"]]
            boxes[position[image]] = sum(not ground_truth["annotations"][n].get("iscrowd", 0) for n in truths)
            if rows:
                part = _match_image([ground_truth["annotations"][n] for n in truths], [detections[n] for n in rows])
                order, matched, ignored, truth = part
                found = np.where(truth == ABSENT, ABSENT, np.array([*truths, ABSENT])[truth])
                parts.append((np.full(len(order), position[image]), np.array(rows)[order], matched, ignored, found))
        classes.append(_joined(parts, boxes, detections))
    return Matches(tuple(row["name"] for row in categories), classes, len(images))


def _joined(parts: list[Any], boxes: np.ndarray, detections: Sequence[dict[str, Any]]) -> ClassMatches:
    """The images' detections of one class in one list by falling score, ties in order of the images."""
    if not parts:
        none, no = np.zeros(0, dtype=np.int64), np.zeros((len(IOU_THRESHOLDS), 0), dtype=bool)
        return ClassMatches(none, np.zeros(0), none, no, no, none, boxes)
    image, row, matched, ignored, truth = (np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True))
    score = np.array([detections[n]["score"] for n in row], dtype=np.float64)
    order = np.argsort(-score, kind="mergesort")
    return ClassMatches(
        image[order], score[order], row[order], matched[:, order], ignored[:, order], truth[order], boxes
    )


def _match_image(truths: list[dict[str, Any]], found: list[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    """(order (D,) by falling score, matched (T, D), ignored (T, D), the truth found at IoU 0.5 (D,)) of one image and class.

    Greedy by falling score: the free box of highest IoU at or above the threshold, the last of equals; a crowd only
    where no box is left, and as often as it likes.
    """
    order = np.argsort([-row["score"] for row in found], kind="mergesort")[:MOST_DETECTIONS]
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    matched = np.zeros((len(thresholds), len(order)), dtype=bool)
    ignored = np.zeros_like(matched)
    truth = np.full(len(order), ABSENT)
    if not truths:
        return order, matched, ignored, truth
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in truths])
    ious = iou_xywh(np.array([found[n]["bbox"] for n in order]), np.array([row["bbox"] for row in truths]), crowd)
    free = np.ones((len(thresholds), len(truths)), dtype=bool)
    for d in np.flatnonzero((ious >= thresholds[0]).any(axis=1)):
        reached = free & (ious[d] >= thresholds[:, None])  # (T, G)
        for kind in (~crowd, crowd):
            open_ = reached & kind & ~(matched[:, d] | ignored[:, d])[:, None]
            if not open_.any():
                continue
            overlaps = np.where(open_, ious[d], -1.0)
            best = overlaps.shape[1] - 1 - overlaps[:, ::-1].argmax(axis=1)
            hit = np.flatnonzero(open_.any(axis=1))
            (ignored if kind is crowd else matched)[hit, d] = True
            free[hit, best[hit]] = crowd[best[hit]]
            if hit[0] == 0:
                truth[d] = best[0]
    return order, matched, ignored, truth


def iou_xywh(found: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (D, G) of boxes xywh; against a crowd the share of the detection that lies in it, as pycocotools has it."""
    low = np.maximum(found[:, None, :2], truths[None, :, :2])
    high = np.minimum(found[:, None, :2] + found[:, None, 2:], truths[None, :, :2] + truths[None, :, 2:])
    sides = high - low
    inside = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
    area, area_of_truths = found[:, 2] * found[:, 3], truths[:, 2] * truths[:, 3]
    union = np.where(crowd, area[:, None], area[:, None] + area_of_truths - inside)
    overlap: np.ndarray = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return overlap


def average_precision(found: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """AP (R, T) at every IoU threshold where image n counts weights[r, n] times (integers); NaN without a box.

    As COCOeval.accumulate of an annotation file in which image n stands that often, beside itself.
    """
    starts, lengths = _ties(found.image, found.score)
    if len(lengths) and lengths.max() > 1:
        return _by_repetition(found, weights, starts, lengths)
    most = max(1, AT_ONCE // max(1, len(found.image)))
    parts = [_by_counting(found, weights[first : first + most]) for first in range(0, len(weights), most)]
    return np.concatenate(parts) if parts else np.empty((0, len(IOU_THRESHOLDS)))


def _by_counting(found: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """`average_precision` where no image has two detections of one score: a repeated detection then counts so often where
    it stands, since between its copies precision is not above that behind the last."""
    num_boxes = weights @ found.boxes
    result = np.where(num_boxes[:, None] > 0, np.zeros((len(weights), len(IOU_THRESHOLDS))), np.nan)
    times = weights[:, found.image]
    seen = np.cumsum(times, axis=1)
    reached = _thresholds_reached(num_boxes)
    row_starts = (np.arange(len(weights)) * reached.shape[1])[:, None]
    for t in range(len(IOU_THRESHOLDS)):
        hits = np.flatnonzero(found.matched[t])  # recall and the highest precision behind are those of true positives
        if not len(hits):
            continue
        true = np.cumsum(times[:, hits], axis=1)
        is_ignored = found.ignored[t]
        told = np.cumsum(times * ~is_ignored, axis=1)[:, hits] if is_ignored.any() else seen[:, hits]
        precision = true / (told + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        fresh = np.diff(
            reached.take(row_starts + true), axis=1, prepend=0
        )  # recall thresholds that are reached there first
        result[:, t] += (envelope * fresh).sum(axis=1) / len(RECALL_THRESHOLDS)
    return result


def _thresholds_reached(num_boxes: np.ndarray) -> np.ndarray:
    """[r, x]: how many recall thresholds x found boxes of num_boxes[r] reach."""
    needed = _boxes_needed(np.maximum(num_boxes, 1)[:, None])
    width = int(num_boxes.max(initial=0)) + 2
    cells = np.arange(len(num_boxes))[:, None] * width + needed
    counts = np.bincount(cells.ravel(), minlength=len(num_boxes) * width).reshape(len(num_boxes), width)
    return np.cumsum(counts, axis=1)


def _by_repetition(found: ClassMatches, weights: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`average_precision` by literally repeating detections: those of one score in one image repeat as a whole."""
    result = np.full((len(weights), len(IOU_THRESHOLDS)), np.nan)
    is_hit: np.ndarray = np.asarray(found.matched.any(axis=0))
    any_ignored = bool(found.ignored.any())
    if is_hit.any():  # behind the last true positive nothing changes
        used = int(np.searchsorted(starts, np.flatnonzero(is_hit)[-1], side="right"))
        starts, lengths = starts[:used], lengths[:used]
    for r, times in enumerate(weights):
        num_boxes = int(times @ found.boxes)
        if not num_boxes:
            continue
        order = _repeated(starts, lengths, times[found.image[starts]])
        hits = np.flatnonzero(is_hit[order])  # recall and the highest precision behind are those of true positives
        true = np.cumsum(found.matched[:, order[hits]], axis=1, dtype=np.int32)
        told = np.cumsum(np.logical_not(found.ignored[:, order]), axis=1)[:, hits] if any_ignored else hits + 1
        precision = np.zeros((len(IOU_THRESHOLDS), len(hits) + 1))  # its last column: a recall that is never reached
        precision[:, :-1] = true / (told + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        needed = _boxes_needed(np.array(num_boxes))
        for t in range(len(IOU_THRESHOLDS)):
            result[r, t] = envelope[t, true[t].searchsorted(needed)].mean()
    return result


def _ties(image: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start, length) of each run of equally scored detections of one image.

    Where an image is repeated such a run is repeated whole: a, b, a, b and not a, a, b, b.
    """
    new = np.ones(len(image), dtype=bool)
    new[1:] = (image[1:] != image[:-1]) | (score[1:] != score[:-1])
    starts = np.flatnonzero(new)
    return starts, np.diff(np.append(starts, len(image)))


def _repeated(starts: np.ndarray, lengths: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Positions of detections where each run stands so often."""
    runs = np.repeat(np.arange(len(starts)), times)
    if len(starts) == 0 or lengths.max() == 1:
        return np.asarray(starts[runs])
    of_run = lengths[runs]
    before = np.cumsum(of_run) - of_run
    positions: np.ndarray = np.arange(int(of_run.sum())) + np.repeat(starts[runs] - before, of_run)
    return positions


def _boxes_needed(num_boxes: np.ndarray) -> np.ndarray:
    """The fewest boxes found (.., 101) whose recall, as a float, is at or above each recall threshold."""
    fewest = np.ceil(RECALL_THRESHOLDS * num_boxes)
    fewest -= (fewest - 1) / num_boxes >= RECALL_THRESHOLDS
    fewest += fewest / num_boxes < RECALL_THRESHOLDS
    return np.asarray(fewest, dtype=np.int32)
