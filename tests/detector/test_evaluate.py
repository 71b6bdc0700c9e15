"""COCO numbers: against published ones, against pycocotools, by hand, and at the command line."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.data.dataset import DataError
from detector.evaluate import METRIC_NAMES, Evaluator, Metrics, main

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_oracle" / "fake100"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason="../shared/data/coco_oracle/fake100 is not here")
PUBLISHED_NAMES = {
    "mAP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "APs", "AP_medium": "APm", "AP_large": "APl",
    "AR_1": "AR1", "AR_10": "AR10", "AR_100": "AR100", "AR_small": "ARs", "AR_medium": "ARm", "AR_large": "ARl",
}  # fmt: skip
EITHER = pytest.mark.parametrize("official", [False, True], ids=["faster", "official"])


def truth(boxes: list[tuple[int, int, list[float]]], num_images: int = 2, num_classes: int = 2) -> dict[str, Any]:
    """COCO ground truth of (image id, category id, bbox xywh) rows; classes are called a, b, .."""
    return {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.png", "width": 640, "height": 480} for n in range(1, num_images + 1)],
        "categories": [{"id": n, "name": "abcdef"[n - 1]} for n in range(1, num_classes + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, kind, box) in enumerate(boxes, 1)
        ],
    }


def found(image: int, kind: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": kind, "bbox": box, "score": score}


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """12 images of 4 classes with about 60 boxes, and detections that jitter, miss, invent and mistake classes."""
    rng = np.random.default_rng(seed)
    boxes, detections = [], []
    for image in range(1, 13):
        for _ in range(rng.integers(1, 9)):
            side = float(np.exp(rng.uniform(np.log(10), np.log(180))))
            box = [float(rng.uniform(0, 400)), float(rng.uniform(0, 250)), side, side * float(rng.uniform(0.5, 2))]
            kind = int(rng.integers(1, 4))  # the fourth class has no box
            boxes.append((image, kind, box))
            if rng.random() < 0.85:
                moved = (np.array(box) + rng.normal(0, 0.06 * side, 4)).tolist()
                guess = kind if rng.random() < 0.9 else int(rng.integers(1, 5))
                detections.append(found(image, guess, moved, float(rng.uniform(0.2, 1))))
        for _ in range(rng.integers(0, 5)):
            box = [*rng.uniform(0, 300, 2).tolist(), *rng.uniform(10, 120, 2).tolist()]
            detections.append(found(image, int(rng.integers(1, 5)), box, float(rng.uniform(0, 0.7))))
    content = truth(boxes, num_images=12, num_classes=4)
    content["annotations"][3]["iscrowd"] = 1
    return content, detections


def by_pycocotools(content: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    """pycocotools itself: the 12 numbers and AP by class (-1 where there is none)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(content))
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(json.loads(json.dumps(detections))), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, 2]
    per_class = [p[p > -1].mean() if (p > -1).any() else -1.0 for p in np.moveaxis(precision, 2, 0)]
    return run.stats.tolist(), np.array(per_class)


@needs_oracle
@EITHER
def test_the_published_numbers_of_a_hundred_coco_images(official: bool) -> None:
    expected = json.loads((ORACLE / "expected.json").read_text())["results"]["bbox"]["expected"]
    evaluator = Evaluator(json.loads((ORACLE / "gt.json").read_text()), official=official)
    metrics = evaluator(json.loads((ORACLE / "dets_bbox.json").read_text()))
    assert tuple(metrics.values) == METRIC_NAMES
    for name, published in PUBLISHED_NAMES.items():
        assert metrics.values[name] == pytest.approx(expected[published], abs=1e-10), name


@EITHER
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_numbers_and_every_class_equal_pycocotools(seed: int, official: bool) -> None:
    content, detections = random_case(seed)
    stats, per_class = by_pycocotools(content, detections)
    assert 0.1 < stats[0] < 0.9  # neither empty nor perfect
    metrics = Evaluator(content, official=official)(detections)
    np.testing.assert_allclose(list(metrics.values.values()), stats, rtol=0, atol=1e-12)
    assert list(metrics.per_class) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(list(metrics.per_class.values()), per_class, rtol=0, atol=1e-12)
    assert metrics.per_class["d"] == -1  # no such box in the annotations
    assert len(set(per_class)) == 4
    assert metrics.values["mAP"] == pytest.approx(per_class[:3].mean(), abs=1e-12)


@EITHER
def test_an_evaluator_can_be_used_again_and_leaves_its_inputs_alone(official: bool) -> None:
    content, detections = random_case(5)
    before = json.dumps(detections)
    evaluator = Evaluator(content, official=official)
    first, none, again = evaluator(detections), evaluator([]), evaluator(detections)
    assert first == again
    assert none.values["mAP"] == 0
    assert json.dumps(detections) == before


@EITHER
def test_no_detection_is_zero_and_not_an_error(official: bool) -> None:
    metrics = Evaluator(truth([(1, 1, [10, 10, 20, 20])]), official=official)([])
    assert metrics.values["mAP"] == metrics.values["AP50"] == metrics.values["AR_100"] == 0
    assert metrics.values["AP_large"] == -1  # the only box is small
    assert metrics.per_class == {"a": 0.0, "b": -1.0}
    assert metrics.best_f1_scores == {"a": 0.5, "b": 0.5}


@EITHER
def test_perfect_detections_are_one(official: bool) -> None:
    boxes = [(1, 1, [10.0, 10, 20, 20]), (2, 2, [50.0, 40, 200, 100])]
    metrics = Evaluator(truth(boxes), official=official)([found(i, k, box, 0.9) for i, k, box in boxes])
    assert metrics.values["mAP"] == pytest.approx(1)
    assert metrics.per_class == pytest.approx({"a": 1, "b": 1})


@EITHER
def test_the_overlap_decides_at_which_thresholds_a_box_counts(official: bool) -> None:
    # 20 x 20 against 20 x 16 inside it: IoU 320 / 400 = 0.8, found at .50 .55 .. .80, which is 7 of 10 thresholds
    metrics = Evaluator(truth([(1, 1, [10, 10, 20, 20])]), official=official)([found(1, 1, [10, 10, 20, 16], 0.9)])
    assert metrics.values["mAP"] == pytest.approx(0.7)
    assert metrics.values["AP50"] == metrics.values["AP75"] == pytest.approx(1)


@EITHER
def test_area_ranges_can_be_set(official: bool) -> None:
    # 20 x 20 is found, 50 x 50 is not. COCO: small, medium. Sides 16 and 32: medium, large. Sides 60 and 70: both small.
    content = truth([(1, 1, [10, 10, 20, 20]), (2, 1, [10, 10, 50, 50])])
    detections = [found(1, 1, [10, 10, 20, 20], 0.9)]
    cases = {(32.0, 96.0): (1, 0, -1), (16.0, 32.0): (-1, 1, 0), (60.0, 70.0): (None, -1, -1)}
    for sides, (small, medium, large) in cases.items():
        values = Evaluator(content, sides, official)(detections).values
        if small is None:  # recall of one half: 51 of 101 recall points at precision 1
            assert values["AP_small"] == pytest.approx(51 / 101)
        else:
            assert values["AP_small"] == pytest.approx(small)
        assert values["AP_medium"] == pytest.approx(medium)
        assert values["AP_large"] == pytest.approx(large)
        assert values["mAP"] == pytest.approx(51 / 101)  # all sizes: not touched by the ranges


@EITHER
def test_a_crowd_box_is_neither_missed_nor_a_false_alarm(official: bool) -> None:
    content = truth([(1, 1, [10, 10, 20, 20]), (1, 1, [100, 100, 200, 200])])
    content["annotations"][1]["iscrowd"] = 1
    detections = [found(1, 1, [10, 10, 20, 20], 0.5), found(1, 1, [120, 120, 40, 40], 0.9)]
    assert Evaluator(content, official=official)(detections).values["mAP"] == pytest.approx(1)
    content["annotations"][1]["iscrowd"] = 0  # the same detection is wrong now, and a box is missed
    assert Evaluator(content, official=official)(detections).values["mAP"] < 0.5


@EITHER
def test_the_score_of_best_f1_by_hand(official: bool) -> None:
    boxes = [
        (1, 1, [10.0, 10, 20, 20]),
        (1, 1, [100.0, 10, 20, 20]),
        (1, 2, [10.0, 200, 20, 20]),
        (1, 2, [100.0, 200, 20, 20]),
    ]
    wrong = [400.0, 400, 20, 20]
    detections = [
        # a: hit, miss, hit. F1 at 0.9: 2 x 1 x 1/2 / (3/2) = 0.667; at 0.7: 2 x 2/3 x 1 / (5/3) = 0.8 -> 0.7
        found(1, 1, boxes[0][2], 0.9), found(1, 1, wrong, 0.8), found(1, 1, boxes[1][2], 0.7),
        # b: hit, eight misses, hit. F1 at 0.95: 0.667; at 0.1: 2 x 2/10 x 1 / (12/10) = 0.333 -> 0.95
        found(1, 2, boxes[2][2], 0.95), *[found(1, 2, wrong, 0.6 - 0.05 * n) for n in range(8)],
        found(1, 2, boxes[3][2], 0.1),
    ]  # fmt: skip
    metrics = Evaluator(truth(boxes), official=official)(detections)
    assert metrics.best_f1_scores == pytest.approx({"a": 0.7, "b": 0.95})


@EITHER
def test_the_score_of_best_f1_is_that_at_iou_one_half(official: bool) -> None:
    # the second hit overlaps by 12 / 20 only: it counts at IoU 0.5 (F1 1 from score 0.4 on), not at 0.75
    boxes = [(1, 1, [10.0, 10, 20, 20]), (1, 1, [100.0, 10, 20, 20])]
    detections = [found(1, 1, boxes[0][2], 0.9), found(1, 1, [100.0, 10, 20, 12], 0.4)]
    metrics = Evaluator(truth(boxes), official=official)(detections)
    assert metrics.best_f1_scores["a"] == pytest.approx(0.4)


MALFORMED = [
    {"category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5},
    {"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5},
    {"image_id": 1, "category_id": 1, "score": 0.5},
    {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]},
    {},
    [1, 1, 0, 0, 1, 1],
    "car",
    None,
]


@EITHER
@pytest.mark.parametrize("row", MALFORMED)
def test_a_malformed_detection_is_named_by_its_position(row: Any, official: bool) -> None:
    evaluator = Evaluator(truth([(1, 1, [10, 10, 20, 20])]), official=official)
    with pytest.raises(DataError, match="detection 1 must have image_id, category_id, bbox"):
        evaluator([found(1, 1, [10, 10, 20, 20], 0.5), row])


@EITHER
def test_a_detection_of_an_unknown_image_is_refused(official: bool) -> None:
    evaluator = Evaluator(truth([(1, 1, [10, 10, 20, 20])]), official=official)
    with pytest.raises(DataError, match="detection 0 names image_id 77, which the annotations lack"):
        evaluator([found(77, 1, [10, 10, 20, 20], 0.5)])


BAD_VALUES = [
    {"bbox": [0, 0, 10]}, {"bbox": None}, {"bbox": ["a", 0, 1, 1]}, {"bbox": [0, 0, math.nan, 1]},
    {"score": "high"}, {"score": None}, {"score": math.nan}, {"image_id": [1]},
]  # fmt: skip


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_a_detection_with_a_bad_value_is_refused(values: dict[str, Any]) -> None:
    evaluator = Evaluator(truth([(1, 1, [10, 10, 20, 20])]))
    good = found(1, 1, [10, 10, 20, 20], 0.5)
    with pytest.raises(DataError, match="detection 1"):
        evaluator([good, {**good, **values}])


def test_metrics_as_json_have_the_promised_keys() -> None:
    metrics = Metrics(dict.fromkeys(METRIC_NAMES, 0.5), {"a": 0.1}, {"a": 0.3})
    assert set(metrics.to_dict()) == {*METRIC_NAMES, "per_class"}


# The command

INTERFACE_KEYS = {
    "mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium",
    "AR_large", "per_class",
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The first random case as annotation and detection files."""
    content, detections = random_case(0)
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(detections))
    return tmp_path / "gt.json", tmp_path / "found.json"


def call(files: tuple[Path, Path], *more: str) -> None:
    main(["--annotations", str(files[0]), "--detections", str(files[1]), *more])


@EITHER
def test_json_is_one_object_and_nothing_else(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], official: bool
) -> None:
    call(files, "--json", *(["--official-eval"] if official else []))
    printed = capsys.readouterr().out
    told = json.loads(printed)  # refuses anything before or after
    assert printed.count("\n") == 1
    assert set(told) == INTERFACE_KEYS
    stats, per_class = by_pycocotools(*random_case(0))
    assert [told[name] for name in METRIC_NAMES] == pytest.approx(stats, abs=1e-12)
    assert told["per_class"] == pytest.approx(dict(zip("abcd", per_class, strict=True)), abs=1e-12)


def test_without_json_a_line_a_number_is_printed(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    call(files)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*METRIC_NAMES, "a", "b", "c", "d"]
    assert lines[0].split()[1] == f"{by_pycocotools(*random_case(0))[0][0]:.4f}"


def test_area_ranges_are_an_option(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    call(files, "--json", "--area-ranges", "1", "2")
    told = json.loads(capsys.readouterr().out)
    assert (told["AP_small"], told["AP_medium"]) == (-1, -1)
    assert told["AP_large"] == pytest.approx(told["mAP"])  # every box is larger than 2 x 2


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        (0, None, "must be a readable file"),
        (1, None, "must be a readable file"),
        (0, "{", "must be JSON"),
        (1, "{}", "must hold JSON an array, not a dict"),
        (0, "[]", "must hold JSON an object, not a list"),
        (0, '{"images": [], "annotations": []}', 'a COCO file must have a list "categories"'),
        (1, '[{"image_id": 1}]', "detection 0 must have image_id"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_two(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], which: int, content: str | None, message: str
) -> None:
    if content is None:
        files[which].unlink()
    else:
        files[which].write_text(content)
    with pytest.raises(SystemExit) as left:
        call(files, "--json")
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


@pytest.mark.parametrize(("part", "key"), [("categories", "name"), ("images", "id"), ("annotations", "image_id")])
def test_an_annotation_file_whose_rows_lack_a_key_is_refused(files: tuple[Path, Path], part: str, key: str) -> None:
    content, _ = random_case(0)
    del content[part][0][key]
    files[0].write_text(json.dumps(content))
    with pytest.raises(SystemExit) as left:
        call(files, "--json")
    assert left.value.code == 2
