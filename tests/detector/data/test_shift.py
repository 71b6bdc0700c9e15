"""Shift between splits: statistics by hand, no alarm where there is none, and sequences that keep it so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from detector.data.dataset import DataError, ImageRecord, Split
from detector.data.shift import box_measures, compare_splits, groups_of, holm


def split(name: str, widths: list[list[float]], labels: list[list[int]], files: list[str] | None = None) -> Split:
    """Images of 100 x 50 whose boxes are 10 high and so wide, in their top left corner."""
    files = files or [f"{name}_{n}.png" for n in range(len(widths))]
    boxes = [np.array([[0, 0, w, 10] for w in row], dtype=np.float32).reshape(-1, 4) for row in widths]
    return Split(
        name,
        Path(f"{name}.json"),
        [ImageRecord(n, file, Path(file), 100, 50) for n, file in enumerate(files)],
        boxes,
        [np.array(row, dtype=np.int64) for row in labels],
        [np.zeros(len(row), dtype=bool) for row in widths],
        [row[:, 2] * 10.0 for row in boxes],
        ["car", "person"],
        {},
    )


def random_split(name: str, rng: np.random.Generator, images: int, cars: float, width: float) -> Split:
    counts = rng.integers(1, 8, images)
    return split(
        name,
        [rng.uniform(1, width, n).tolist() for n in counts],
        [(rng.random(n) > cars).astype(int).tolist() for n in counts],
    )


def by_name(shifts: list) -> dict:
    return {shift.what: shift for shift in shifts}


def test_measures_of_a_box_by_hand() -> None:
    found = box_measures(split("train", [[40.0]], [[0]]))
    assert found.tolist() == [[40.0, 10.0, 20.0, 0.25, 0.2, 0.1]]  # sqrt(400); 10/40; centre (20, 5) of 100 x 50


def test_statistics_are_those_of_the_splits_and_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = random_split("train", rng, 40, 0.8, 30), random_split("val", rng, 30, 0.3, 60)
    found = by_name(compare_splits(first, second))
    a, b = np.concatenate(first.labels), np.concatenate(second.labels)
    shares = found["share of car"]
    assert (shares.first, shares.second) == pytest.approx(((a == 0).mean(), (b == 0).mean()))
    assert shares.distance == pytest.approx(shares.second - shares.first)
    widths = [box_measures(s)[:, 0] for s in (first, second)]
    assert found["width"].distance == pytest.approx(ks_2samp(*widths).statistic)
    assert found["width"].first == pytest.approx(np.median(widths[0]))
    heights = found["height"]
    assert heights.distance == pytest.approx(0, abs=1e-12), "equal heights: nothing to find"
    assert heights.chance == 1.0
    assert found["share of car"].adjusted <= 0.05
    assert found["width"].adjusted <= 0.05


def test_where_both_come_from_one_source_hardly_any_comparison_is_below_five_percent() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(12):
        first, second = random_split("train", rng, 40, 0.6, 40), random_split("val", rng, 30, 0.6, 40)
        alarms += any(shift.adjusted <= 0.05 for shift in compare_splits(first, second))
    assert alarms <= 3  # family-wise 5 %: more than 3 of 12 has a chance of 0.3 %


def test_frames_of_few_drives_are_no_shift_once_their_sequences_are_named() -> None:
    rng = np.random.default_rng(2)

    def drives(name: str, numbers: range) -> Split:
        widths, labels, files = [], [], []
        for number in numbers:
            typical, cars = rng.uniform(5, 60), rng.uniform(0.1, 0.9)
            for frame in range(25):
                widths.append(rng.normal(typical, 1, 4).clip(1, 99).tolist())
                labels.append((rng.random(4) > cars).astype(int).tolist())
                files.append(f"drive{number}_{frame}.png")
        return split(name, widths, labels, files)

    first, second = drives("train", range(4)), drives("val", range(4, 8))
    apart = by_name(compare_splits(first, second))["width"]
    together = by_name(compare_splits(first, second, r"(drive\d+)_"))["width"]
    assert apart.adjusted <= 0.05, "single frames call the drives' own differences a shift"
    assert together.chance > 0.05
    assert together.distance == apart.distance


def test_groups_come_from_the_file_names() -> None:
    made = split("train", [[1.0], [2.0]], [[0], [0]], ["a_1.png", "b_2.png"])
    assert groups_of(made, r"^(\w)_") == ["a", "b"]
    assert groups_of(made, r"\d") == ["1", "2"]
    assert groups_of(made, None) == ["a_1.png", "b_2.png"]
    with pytest.raises(DataError, match="must be found in every file name; it is not in .*b_2"):
        groups_of(made, "a_")
    with pytest.raises(DataError, match="must be a regular expression"):
        groups_of(made, "(")


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1; never below the one before.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
