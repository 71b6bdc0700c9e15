"""Detections -> the COCO numbers: mAP, AP50, AP75, by size, AR and per class; and the score of best F1 per class.

As a command: `python -m detector.evaluate --annotations A --detections D --json`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.coco import is_id, is_number
from detector.data.dataset import COCO_AREA_RANGES_PX, DataError

METRIC_NAMES = (
    "mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
COUNTED_AS_INFINITE = 1e5**2  # COCO's own upper area bound


@dataclass
class Metrics:
    """The 12 COCO numbers in 0..1 (-1 where COCO says -1: nothing of that kind in the annotations)."""

    values: dict[str, float]
    per_class: dict[str, float]
    best_f1_scores: dict[str, float] = field(default_factory=dict)  # score threshold of best F1 at IoU 0.5

    def to_dict(self) -> dict[str, Any]:
        """The 12 numbers and `per_class`, ready for JSON."""
        return {**self.values, "per_class": self.per_class}


class Evaluator:
    """Scores detections against one COCO annotation object, which is indexed once.

    `official` uses pycocotools; the default is faster-coco-eval, equal to it in all 12 numbers.
    """

    def __init__(
        self,
        ground_truth: dict[str, Any],
        area_ranges_px: tuple[float, float] = COCO_AREA_RANGES_PX,
        official: bool = False,
    ) -> None:
        self.official = official
        self.area_ranges_px = area_ranges_px
        self.class_names = {row["id"]: row["name"] for row in ground_truth["categories"]}
        self.image_ids = {row["id"] for row in ground_truth["images"]}
        with quiet():
            self.coco = _coco_api(official)(ground_truth)

    def __call__(self, detections: list[dict[str, Any]]) -> Metrics:
        """detections: COCO rows {image_id, category_id, bbox xywh in original pixels, score}.

        No detection at all is mAP 0, not an error. Raises: DataError for a row that is not of that form.
        """
        self._check(detections)
        with quiet():
            run = _evaluator_class(self.official)(self.coco, self._as_results(detections), "bbox")
            small, medium = (side**2 for side in self.area_ranges_px)
            run.params.areaRng = [
                [0, COUNTED_AS_INFINITE], [0, small], [small, medium], [medium, COUNTED_AS_INFINITE],
            ]  # fmt: skip
            run.evaluate()
            run.accumulate()
            run.summarize()
        precision = np.asarray(run.eval["precision"])  # (T, R, K, areas, max detections)
        scores = np.asarray(run.eval["scores"])
        names = [self.class_names[key] for key in run.params.catIds]
        per_class = {name: _mean_or_minus_one(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
        values = {name: float(value) for name, value in zip(METRIC_NAMES, run.stats[:12], strict=True)}
        return Metrics(values, per_class, _best_f1_scores(names, precision, scores, np.asarray(run.params.recThrs)))

    def _as_results(self, detections: list[dict[str, Any]]) -> Any:
        if detections:
            # The evaluators write into the rows; a segmentation that is there is not built from the box, and not read.
            return self.coco.loadRes([{**row, "segmentation": ()} for row in detections])
        empty = _coco_api(self.official)()
        empty.dataset = {**self.coco.dataset, "annotations": []}
        empty.createIndex()
        return empty

    def _all_sound(self, detections: list[dict[str, Any]]) -> bool:
        """Whether all rows are as a trainer writes them, a column at a time: five times as fast as row by row.

        False says nothing yet: rows may be sound in another form.
        """
        try:
            boxes, scores, images, classes = (
                list(map(itemgetter(name), detections)) for name in ("bbox", "score", "image_id", "category_id")
            )
        except (TypeError, LookupError):
            return False
        if not (set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}):
            return False
        numbers = [*chain.from_iterable(boxes), *scores]
        plain = set(map(type, numbers)) <= {int, float} and set(map(type, [*images, *classes])) <= {int}
        known = plain and set(images) <= self.image_ids and set(classes) <= self.class_names.keys()
        return known and bool(np.isfinite(np.array(numbers, dtype=np.float64)).all())

    def _check(self, detections: list[dict[str, Any]]) -> None:
        if self._all_sound(detections):
            return
        for position, row in enumerate(detections):
            if not isinstance(row, dict) or not {"image_id", "category_id", "bbox", "score"} <= set(row):
                raise DataError(
                    f"detection {position} must have image_id, category_id, bbox [x, y, width, height] and score, "
                    f"got {str(row)[:80]}"
                )
            numbers = [*row["bbox"], row["score"]] if isinstance(row["bbox"], (list, tuple)) else []
            if len(numbers) != 5 or not all(is_number(value) for value in numbers):
                raise DataError(
                    f"detection {position} must have a bbox of four finite numbers and a finite score, got "
                    f"bbox {row['bbox']!r}, score {row['score']!r}"
                )
            if not is_id(row["category_id"]) or row["category_id"] not in self.class_names:
                raise DataError(
                    f"detection {position} names category_id {row['category_id']!r}, which the annotations lack"
                )
            if not is_id(row["image_id"]) or row["image_id"] not in self.image_ids:
                raise DataError(f"detection {position} names image_id {row['image_id']!r}, which the annotations lack")


def _coco_api(official: bool) -> Any:
    """A constructor of an indexed COCO object from an annotation dict (pycocotools itself only takes a file)."""
    if not official:
        import faster_coco_eval

        return faster_coco_eval.COCO
    from pycocotools.coco import COCO

    def indexed(content: dict[str, Any] | None = None) -> Any:
        coco = COCO()
        if content is not None:
            coco.dataset = content
            coco.createIndex()
        return coco

    return indexed


def _evaluator_class(official: bool) -> Any:
    if official:
        from pycocotools.cocoeval import COCOeval

        return COCOeval
    from faster_coco_eval import COCOeval_faster

    return COCOeval_faster


@contextlib.contextmanager
def quiet() -> Any:
    """COCO's code prints its progress to standard output, where our JSON goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _mean_or_minus_one(values: np.ndarray) -> float:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else -1.0


def _best_f1_scores(
    names: list[str], precision: np.ndarray, scores: np.ndarray, recall: np.ndarray
) -> dict[str, float]:
    """Per class, the score at which F1 at IoU 0.5 is highest over COCO's 101 recall points; 0.5 where nothing was found."""
    best = {}
    for k, name in enumerate(names):
        p = precision[0, :, k, 0, -1]
        f1 = np.where(p > 0, 2 * p * recall / np.maximum(p + recall, 1e-12), 0.0)
        best[name] = float(scores[0, int(f1.argmax()), k, 0, -1]) if f1.max() > 0 else 0.5
    return best


NEEDED_KEYS = {"images": ("id",), "annotations": ("image_id", "category_id", "bbox"), "categories": ("id", "name")}


def check_ground_truth(path: Path, content: dict[str, Any]) -> None:
    """Fills in what may be missing (id, area, iscrowd) of an annotation object's boxes.

    Raises: DataError where it lacks a list, or a row of one lacks what evaluation reads.
    """
    for key, needed in NEEDED_KEYS.items():
        if not isinstance(content.get(key), list):
            raise DataError(f'{path}: a COCO file must have a list "{key}"')
        for position, row in enumerate(content[key]):
            if not isinstance(row, dict) or not set(needed) <= set(row):
                raise DataError(f"{path}: {key}[{position}] must have {', '.join(needed)}, got {str(row)[:60]}")
    for position, row in enumerate(content["annotations"]):
        bbox = row["bbox"]
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
            raise DataError(f"{path}: annotations[{position}] must have a bbox of four finite numbers, got {bbox!r}")
        if not is_id(row["image_id"]) or not is_id(row["category_id"]):
            raise DataError(f"{path}: annotations[{position}] must name its image and category by number or text")
        # What the two evaluators disagree about needing.
        row.setdefault("id", position + 1)
        row.setdefault("area", bbox[2] * bbox[3])
        row.setdefault("iscrowd", 0)


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    from detector.commands import command, read_json_file

    parser = argparse.ArgumentParser(
        prog="python -m detector.evaluate", description="COCO numbers of a detection file."
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO annotation file")
    parser.add_argument("--detections", type=Path, required=True, help="COCO results file")
    parser.add_argument(
        "--area-ranges", type=float, nargs=2, default=COCO_AREA_RANGES_PX, metavar=("SMALL", "MEDIUM"),
        help="sides in pixels that part small | medium | large (default: 32 96)",
    )  # fmt: skip
    parser.add_argument("--official-eval", action="store_true", help="use pycocotools (default: faster-coco-eval)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args(arguments)
    with command():
        if not 0 < options.area_ranges[0] < options.area_ranges[1]:
            raise DataError(f"--area-ranges must be two increasing sides in pixels, got {options.area_ranges}")
        ground_truth = read_json_file(options.annotations, dict)
        check_ground_truth(options.annotations, ground_truth)
        evaluator = Evaluator(ground_truth, tuple(options.area_ranges), options.official_eval)
        metrics = evaluator(read_json_file(options.detections, list))
        if options.json:
            print(json.dumps(metrics.to_dict()))
            return
        for name, value in metrics.values.items():
            print(f"{name:>10} {value:.4f}")
        for name, value in metrics.per_class.items():
            print(f"{name:>10} {value:.4f}")


if __name__ == "__main__":
    main()
