"""What a dataset is: its ground truth for evaluators, its source as plain values, its fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, coco_ground_truth
from detector.data.fingerprint import split_fingerprint
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


def with_extended(folder: CocoFolder, *names: str) -> DataSource:
    """The folder's source with an extended split of images of these names, a box each."""
    source = folder.write()
    content = {
        "images": [folder.image_row(n, name) for n, name in enumerate(names)],
        "annotations": [folder.box_row(n, n, [1, 2, 5, 6], 2) for n in range(len(names))],
        "categories": folder.train["categories"],
    }
    for seed, name in enumerate(names):
        if not (folder.images / name).exists():
            folder.paint(name, seed + 50)
    (folder.root / "more.json").write_text(json.dumps(content))
    return source.with_extended(str(folder.root / "more.json"))


def test_the_extended_split_joins_the_training_images_each_once(folder: CocoFolder) -> None:
    source = with_extended(folder, "e.png", "b.png", "f.png")
    plain, extended = load_dataset(source).train, load_dataset(source, train_split="extended").train
    assert [record.file_name for record in plain.images] == ["a.png", "b.png", "c.png"]
    assert [record.file_name for record in extended.images] == ["a.png", "b.png", "c.png", "e.png", "f.png"]
    assert (plain.name, extended.name) == ("train", "extended")
    assert extended.num_boxes == plain.num_boxes + 2
    assert split_fingerprint(plain) != split_fingerprint(extended)


def test_an_extended_split_is_found_in_the_folder_and_goes_through_plain_values_and_options(folder: CocoFolder) -> None:
    source = with_extended(folder, "e.png")
    assert DataSource.from_dict(json.loads(json.dumps(source.to_dict()))).extended == source.extended
    assert source.to_options() == ["--data", str(folder.root), "--extended-annotations", str(folder.root / "more.json")]
    (folder.root / "more.json").rename(folder.root / "extended.json")
    found = DataSource.from_folder(folder.root)
    assert found.extended == (folder.root / "extended.json", folder.images)
    assert found.to_options() == ["--data", str(folder.root)]


def test_an_extended_split_that_cannot_be_used_is_refused(folder: CocoFolder) -> None:
    with pytest.raises(DataError, match=r"has none: name their annotations with --extended-annotations"):
        load_dataset(folder.write(), train_split="extended")
    with pytest.raises(DataError, match=r"must not be in val\.json too \(1\): d\.png"):
        load_dataset(with_extended(folder, "e.png", "d.png"), train_split="extended")
    with pytest.raises(DataError, match="adds to the data of --data"):
        DataSource.from_options(None, None, None, None, None, "more.json")
