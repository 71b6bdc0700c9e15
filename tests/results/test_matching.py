"""Matching and weighted mAP against pycocotools: on random scenes with crowds and ties, and on files resampled literally."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from results.matching import ABSENT, Matches, _by_repetition, _ties, average_precision, iou_xywh, match
from results.resampling import (
    HALVES,
    LEAST_OF_CLASS,
    LEAST_UNITS,
    class_difference_intervals,
    class_intervals,
    difference_interval,
    draw_halves,
    draw_weights,
    mAP_interval,
)  # fmt: skip
from tests.results.scenes import scene


def official(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    """pycocotools' evaluation, accumulated."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(row) for row in found]), "bbox")
        run.evaluate()
        run.accumulate()
    return run


def official_mAP(truth: dict[str, Any], found: list[dict[str, Any]]) -> float:  # noqa: N802
    precision = official(truth, found).eval["precision"][:, :, :, 0, 2]
    return float(precision[precision > -1].mean())


def resampled(
    truth: dict[str, Any], found: list[dict[str, Any]], weights: np.ndarray
) -> tuple[dict[str, Any], list[Any]]:
    """An annotation file in which image n stands weights[n] times, each time as a new image with its own boxes."""
    images: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image, times in zip(truth["images"], weights, strict=True):
        for _ in range(int(times)):
            new = len(images) + 1
            images.append({"id": new})
            truths += [{**row, "image_id": new} for row in truth["annotations"] if row["image_id"] == image["id"]]
            rows += [{**row, "image_id": new} for row in found if row["image_id"] == image["id"]]
    truths = [{**row, "id": n} for n, row in enumerate(truths, 1)]
    return {**truth, "images": images, "annotations": truths}, rows


@pytest.mark.parametrize("seed", range(15))
def test_every_match_is_pycocotools(seed: int) -> None:
    truth, found = scene(seed)
    run, mine = official(truth, found), match(truth, found)
    by_image = [row for row in run.evalImgs if row is not None and row["aRng"] == run.params.areaRng[0]]
    for k, name in enumerate(mine.class_names):
        ours = mine.classes[k]
        for row in (r for r in by_image if f"c{r['category_id']}" == name):
            here = ours.image == row["image_id"] - 1
            matched = (row["dtMatches"] > 0) & ~row["dtIgnore"].astype(bool)
            assert (ours.matched[:, here] == matched).all()
            assert (ours.ignored[:, here] == row["dtIgnore"].astype(bool)).all()
            assert ours.boxes[row["image_id"] - 1] == (np.asarray(row["gtIgnore"]) == 0).sum()


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_the_identity_resample_is_pycocotools_mAP(seed: int, ties: bool) -> None:  # noqa: N802
    truth, found = scene(seed, ties=ties)
    assert match(truth, found).mAP()[0] == pytest.approx(official_mAP(truth, found), abs=1e-10)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_a_resample_is_pycocotools_on_a_file_resampled_literally(seed: int, ties: bool) -> None:
    """Repeated images are new ones; classes may be absent from the draw."""
    truth, found = scene(seed, images=8, classes=4, ties=ties)
    weights = draw_weights(range(8), 6, seed)
    mine = match(truth, found).mAP(weights)
    for row, value in zip(weights, mine, strict=True):
        assert value == pytest.approx(official_mAP(*resampled(truth, found, row)), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_counting_and_repeating_come_to_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way for scores without ties, in parts that do not divide the draws, against the literal one."""
    monkeypatch.setattr("results.matching.AT_ONCE", 500)
    weights = draw_weights(range(30), 50, seed)
    for found in match(*scene(seed, images=30, ties=False)).classes:
        starts, lengths = _ties(found.image, found.score)
        assert lengths.max() == 1
        literally = _by_repetition(found, weights, starts, lengths)
        assert average_precision(found, weights) == pytest.approx(literally, abs=1e-12, nan_ok=True)


def test_more_than_100_detections_of_an_image_are_cut_as_in_coco() -> None:
    truth, found = scene(1, images=3, classes=1)
    rng = np.random.default_rng(0)
    found += [
        {"image_id": 1, "category_id": 1, "bbox": [*map(float, rng.uniform(0, 50, 2)), 10.0, 10.0], "score": float(s)}
        for s in rng.random(150)
    ]
    assert match(truth, found).mAP()[0] == pytest.approx(official_mAP(truth, found), abs=1e-10)


def test_a_case_worked_by_hand() -> None:
    """Two boxes, one found at IoU 1 by the best detection, one missed, a false alarm between: precision 1 up to recall 0.5.

    51 of the 101 recall points (0, .01, .., .50) have precision 1: AP 51/101 at every threshold.
    """
    truth = {
        "images": [{"id": 1}], "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 50, 10, 10], "area": 100, "iscrowd": 0},
        ],
    }  # fmt: skip
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [20, 20, 10, 10], "score": 0.8},
    ]
    matches = match(truth, found)
    assert matches.mAP()[0] == pytest.approx(51 / 101)
    assert matches.classes[0].truth.tolist() == [0, ABSENT]


def test_nothing_found_is_0_and_nothing_to_find_is_nan() -> None:
    truth, _ = scene(2)
    assert match(truth, []).mAP()[0] == 0.0
    assert np.isnan(match({**truth, "annotations": []}, []).mAP()[0])


def test_iou_by_hand() -> None:
    found, truths = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 10, 10], [5.0, 0, 10, 10], [10.0, 0, 10, 10]])
    # half of it overlaps: 50 / 150; against a crowd 50 / 100; edges that touch do not overlap
    assert iou_xywh(found, truths, np.array([False, True, False]))[0] == pytest.approx([1 / 3, 0.5, 0.0])


def test_stored_matches_come_back() -> None:
    matches = match(*scene(3))
    back = Matches.from_bytes(matches.to_bytes())
    weights = draw_weights(range(12), 20, 0)
    assert back.class_names == matches.class_names
    assert (back.mAP(weights) == matches.mAP(weights)).all()


def test_some_images_alone_are_an_annotation_file_of_them() -> None:
    truth, found = scene(9)
    some = np.array([1, 4, 5, 10])
    kept = {"images": [truth["images"][n] for n in some], "categories": truth["categories"]}
    rows = [row for row in truth["annotations"] if row["image_id"] - 1 in some]
    alone = official_mAP({**kept, "annotations": rows}, [row for row in found if row["image_id"] - 1 in some])
    assert match(truth, found).of_images(some).mAP()[0] == pytest.approx(alone, abs=1e-10)


class TestResampling:
    def test_groups_are_drawn_whole(self) -> None:
        weights = draw_weights(["a", "a", "b", "c", "c"], 50, 0)
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, 3] == weights[:, 4]).all()
        assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()

    def test_a_detector_does_not_differ_from_itself(self) -> None:
        matches = match(*scene(4, images=48))
        found = difference_interval(matches, matches)
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)

    def test_the_interval_repeats_for_a_seed_and_is_moved_by_the_bias(self) -> None:
        matches = match(*scene(5, images=40))
        found = mAP_interval(matches, replicates=200, seed=1)
        assert found == mAP_interval(matches, replicates=200, seed=1)
        assert found.groups == 40
        drawn = matches.mAP(draw_weights(range(40), 200, 1))
        halves = matches.mAP(draw_halves(range(40), HALVES, 1))
        assert found.bias == pytest.approx((halves.mean() - found.value) / (2 ** (2 / 3) - 1))
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found.high - found.low == pytest.approx(high - low)
        assert found.low - low == pytest.approx(found.value - found.bias - drawn.mean())

    def test_a_half_is_a_half(self) -> None:
        halves = draw_halves(["a", "a", "b", "c", "d"], 30, 0)
        assert (halves[:, 0] == halves[:, 1]).all()
        assert (halves[:, [0, 2, 3, 4]].sum(axis=1) == 2).all()

    def test_a_class_without_a_box_has_no_interval(self) -> None:
        truth, found = scene(5, classes=2)
        truth["categories"].append({"id": 3, "name": "none"})
        assert np.isnan(class_intervals(match(truth, found))[2].low)

    def test_few_images_or_groups_have_no_interval(self) -> None:
        few, many = match(*scene(5, images=LEAST_UNITS - 1)), match(*scene(5, images=LEAST_UNITS))
        assert np.isnan(mAP_interval(few).low)
        assert mAP_interval(few).value == pytest.approx(few.mAP()[0])
        assert not np.isnan(mAP_interval(many).low)
        assert np.isnan(mAP_interval(many, [n // 2 for n in range(LEAST_UNITS)]).low), "groups count, not images"

    def test_a_class_that_few_images_hold_has_no_interval(self) -> None:
        truth, found = scene(5, images=60, classes=2)
        kept = {row["image_id"] for row in truth["annotations"] if row["category_id"] == 2}
        some = set(sorted(kept)[: LEAST_OF_CLASS - 1])
        truth["annotations"] = [r for r in truth["annotations"] if r["category_id"] == 1 or r["image_id"] in some]
        common, rare = class_intervals(match(truth, found))
        assert not np.isnan(common.low)
        assert np.isnan(rare.low)
        assert np.isnan(class_difference_intervals(match(truth, found), match(truth, found))[1].low)

    def test_an_interval_of_a_score_lies_where_scores_do(self) -> None:
        truth, found = scene(5, images=60, classes=1)
        poor = match(truth, [row for row in found if row["score"] < 0.3])
        interval = mAP_interval(poor)
        assert 0 <= interval.low <= interval.high <= 1

    def test_images_that_come_in_sequences_make_the_interval_wider(self) -> None:
        """Each image stands four times: by images it looks four times as sure as it is."""
        truth, found = scene(6, images=40)
        truth, found = resampled(truth, found, np.full(40, 4))
        matches = match(truth, found)
        apart = mAP_interval(matches, replicates=400)
        together = mAP_interval(matches, [n // 4 for n in range(160)], replicates=400)
        assert together.groups == 40
        assert together.sd == pytest.approx(2 * apart.sd, rel=0.3)  # sqrt(4)

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same images"):
            difference_interval(match(*scene(1, images=5)), match(*scene(1, images=6)))
