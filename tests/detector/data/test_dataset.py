"""What a dataset is: its ground truth for evaluators, its source as plain values, its fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, coco_ground_truth, split_fingerprint
from tests.detector.data.conftest import CocoFolder


def test_ground_truth_numbers_images_by_position_and_classes_by_index(folder: CocoFolder) -> None:
    folder.train["images"][0]["id"] = 77
    folder.train["annotations"][0].update(image_id=77, area=55)
    truth = coco_ground_truth(folder.load().train)
    assert [(row["id"], row["file_name"]) for row in truth["images"]] == [(1, "a.png"), (2, "b.png"), (3, "c.png")]
    assert truth["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "platelet"}]
    assert truth["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [4.0, 6.0, 10.0, 8.0], "area": 55.0, "iscrowd": 0,
    }  # fmt: skip


def test_a_source_goes_through_plain_values_and_back(folder: CocoFolder) -> None:
    source = folder.write()
    plain = json.loads(json.dumps(source.to_dict()))
    assert plain["train"] == [str(folder.root / "train.json"), str(folder.images)]
    assert plain["test"] is None
    again = DataSource.from_dict(plain)
    assert load_dataset(again).train.num_boxes == 3
    assert again.to_dict() == plain


def test_options_name_a_source_and_a_source_its_options(folder: CocoFolder, tmp_path: Path) -> None:
    source = folder.write()
    words = source.to_options()
    assert words == ["--data", str(folder.root)]
    moved = folder.root / "train.json"
    moved = moved.rename(folder.root / "instances.json")
    four = (str(moved), str(folder.images), str(folder.root / "val.json"), str(folder.images))
    named = DataSource.from_options(None, *four)
    assert named is not None
    assert named.to_options()[::2] == ["--train-annotations", "--train-images", "--val-annotations", "--val-images"]
    assert tuple(named.to_options()[1::2]) == four
    assert DataSource.from_options(None, None, None, None, None) is None
    with pytest.raises(DataError, match="not both"):
        DataSource.from_options(str(folder.root), *four)
    with pytest.raises(DataError, match="some are missing"):
        DataSource.from_options(None, four[0], None, None, None)


def test_the_fingerprint_is_the_same_for_the_same_content_elsewhere(folder: CocoFolder, tmp_path: Path) -> None:
    other = CocoFolder(tmp_path / "copy")
    assert split_fingerprint(folder.load().train) == split_fingerprint(other.load().train)
    assert len(split_fingerprint(folder.load().train)) == 16
