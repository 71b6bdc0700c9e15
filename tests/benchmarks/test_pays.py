"""benchmarks.pays: what is held out, and the table that is made of its results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.pays import table, with_test_split
from detector.data.lidar import make_dataset


def names(file: Path) -> set[str]:
    return {image["file_name"] for image in json.loads(file.read_text())["images"]}


def test_a_third_of_the_validation_images_is_held_out_and_the_same_one_each_time(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", {"train": 2, "val": 24}, seed=1, processes=1)
    first, again = (with_test_split(tmp_path / "data", tmp_path / name) for name in ("one", "two"))
    whole = names(tmp_path / "data" / "val.json")
    one, two = Path(first[1]), Path(again[1])
    test, val = names(one / "test.json"), names(one / "val.json")
    assert test | val == whole
    assert not test & val
    assert 3 <= len(test) <= 14
    assert names(two / "test.json") == test
    assert (one / "train.json").read_text() == (tmp_path / "data" / "train.json").read_text()
    boxes = json.loads((one / "test.json").read_text())
    assert {row["image_id"] for row in boxes["annotations"]} <= {image["id"] for image in boxes["images"]}


def test_a_folder_with_a_test_split_is_taken_as_it_is(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", {"train": 2, "val": 2, "test": 2}, seed=1, processes=1)
    assert with_test_split(tmp_path / "data", tmp_path / "scratch") == ["--data", str(tmp_path / "data")]


def test_the_table_has_medians_over_seeds_a_row_a_dataset_and_side() -> None:
    rows = [
        {
            "data": "boards",
            "seed": seed,
            "side": side,
            "test_mAP": score,
            "test_AP50": 0.9,
            "val_mAP": 0.6,
            "worker_minutes": 30.0,
        }
        for side, scores in (("a", (0.5, 0.7, 0.6)), ("b", (0.4, 0.4, 0.5)))
        for seed, score in enumerate(scores)
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert "| boards | (a) the default study | 3 | 0.600 | 0.500 / 0.700 / 0.600 |" in lines[2]
    assert "| boards | (b) the base alone | 3 | 0.400 | 0.400 / 0.400 / 0.500 |" in lines[3]
