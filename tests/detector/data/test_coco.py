"""The COCO reader: every rule by name, what the message says of the offenders, and what skip_bad leaves out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.data.batches import TrainingData, load_training_data
from detector.data.coco import load_dataset
from detector.data.dataset import DataError, DataSource, coco_ground_truth
from tests.detector.data.conftest import HEIGHT, WIDTH, CocoFolder

BCCD = Path(__file__).resolve().parents[4] / "shared" / "data" / "bccd"
CANVAS = (64, 64)


def refusal(folder: CocoFolder) -> str:
    """What loading the folder is refused with."""
    with pytest.raises(DataError) as caught:
        folder.load()
    return str(caught.value)


def decode(folder: CocoFolder, skip_bad: bool = False) -> TrainingData:
    return load_training_data(folder.write(), CANVAS, skip_bad)


def decoding_refusal(folder: CocoFolder) -> str:
    with pytest.raises(DataError) as caught:
        decode(folder)
    return str(caught.value)


# What is right


def test_a_right_folder_is_read_as_it_stands(folder: CocoFolder) -> None:
    dataset = folder.load()
    assert (dataset.name, dataset.class_names) == ("set", ["cell", "platelet"])
    assert [record.file_name for record in dataset.train.images] == ["a.png", "b.png", "c.png"]
    assert dataset.train.num_boxes == 3
    assert dataset.val.num_boxes == 1
    assert dataset.test is None
    assert dataset.dropped == []
    # [4, 6, 10, 8] is x, y, width, height: 4 + 10 = 14 and 6 + 8 = 14 would hide a swap, so move it
    folder.train["annotations"][0]["bbox"] = [4, 6, 10, 20]
    split = folder.load().train
    np.testing.assert_array_equal(split.boxes_xyxy[0], [[4, 6, 14, 26]])
    assert [labels.tolist() for labels in split.labels] == [[1], [0], [1]]  # category 2, 1, 2
    assert split.areas[0].tolist() == [200.0]  # no area given: 10 x 20


def test_the_annotations_own_area_is_kept(folder: CocoFolder) -> None:
    folder.train["annotations"][0]["area"] = 37.5
    assert folder.load().train.areas[0].tolist() == [37.5]


def test_full_turn_and_area_ranges_come_from_info(folder: CocoFolder) -> None:
    plain = folder.load()
    assert plain.full_turn is False
    assert plain.area_ranges_px == (32.0, 96.0)
    folder.train["info"] = {"detector_search": {"full_turn": True, "area_ranges_px": [16, 32]}}
    told = folder.load()
    assert told.full_turn is True
    assert told.area_ranges_px == (16.0, 32.0)


def test_category_ids_with_gaps_and_zero_become_indices_in_order_of_id(folder: CocoFolder) -> None:
    for content in folder.splits.values():
        content["categories"] = [{"id": 90, "name": "late"}, {"id": 0, "name": "first"}, {"id": 7, "name": "mid"}]
        for row in content["annotations"]:
            row["category_id"] = 7
    folder.train["annotations"][0]["category_id"] = 0
    folder.train["annotations"][1]["category_id"] = 90
    dataset = folder.load()
    assert dataset.class_names == ["first", "mid", "late"]
    assert [labels.tolist() for labels in dataset.train.labels] == [[0], [2], [1]]


def test_ids_may_be_strings(folder: CocoFolder) -> None:
    folder.train["images"][0]["id"] = "a-1"
    folder.train["annotations"][0].update(image_id="a-1", id="box-1")
    for content in folder.splits.values():
        content["categories"][1]["id"] = "p"
        for row in content["annotations"]:
            row["category_id"] = {1: 1, 2: "p"}[row["category_id"]]
    split = folder.load().train
    assert split.images[0].id == "a-1"
    assert split.class_names == ["cell", "platelet"]
    assert split.labels[0].tolist() == [1]


def test_an_image_without_boxes_stays(folder: CocoFolder) -> None:
    del folder.train["annotations"][1]
    data = decode(folder)
    assert data.train.split.boxes_xyxy[1].shape == (0, 4)
    assert data.train.labels.tolist() == [[1], [-1], [1]]


def test_crowd_boxes_are_not_trained_on_but_stay_in_the_ground_truth(folder: CocoFolder) -> None:
    folder.train["annotations"].append(folder.box_row(9, 1, [0, 0, 30, 20], 1, iscrowd=1))
    data = decode(folder)
    assert data.train.split.crowd[0].tolist() == [False, True]
    assert data.train.labels.tolist() == [[1], [0], [1]]  # one box an image: the crowd box takes no place
    truth = coco_ground_truth(data.train.split)["annotations"]
    assert [(row["image_id"], row["bbox"], row["iscrowd"]) for row in truth[:2]] == [
        (1, [4.0, 6.0, 10.0, 8.0], 0),
        (1, [0.0, 0.0, 30.0, 20.0], 1),
    ]


@pytest.mark.parametrize(
    "name", ["with space.png", "blåbær-血液-кровь.png", "deep/er/a.png", "./a2.png", "x/../a3.png"]
)
def test_names_with_spaces_other_alphabets_and_sub_folders_are_read(folder: CocoFolder, name: str) -> None:
    (folder.images / "x").mkdir()
    pixels = folder.paint(name, seed=5)
    folder.train["images"][0]["file_name"] = name
    data = load_training_data(folder.write(), (96, 128))
    assert data.train.split.images[0].file_name == name
    # 40 x 30 onto 128 x 96 is enlarged 3.2 times: the corner pixel fills the canvas's corner
    np.testing.assert_allclose(data.train.images[0, 0, 0], pixels[0, 0], atol=1)


def test_a_byte_order_mark_is_no_obstacle(folder: CocoFolder) -> None:
    source = folder.write()
    path = folder.root / "train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_dataset(source).train.num_boxes == 3


# Pixels of other kinds


def saved_as(folder: CocoFolder, image: Image.Image, name: str = "a.png") -> np.ndarray:
    """The first training image, replaced by `image`, as the cache shows it without resizing."""
    image.save(folder.images / name)
    folder.train["images"][0]["file_name"] = name
    data = load_training_data(folder.write(), (64, 96))
    assert (data.train.images.shape, WIDTH * 64 // HEIGHT) == ((3, 64, 96, 3), 85)
    return np.asarray(data.train.images[0, :64, :85])


def test_grey_images_are_repeated(folder: CocoFolder) -> None:
    grey = np.full((HEIGHT, WIDTH), 90, dtype=np.uint8)
    assert np.unique(saved_as(folder, Image.fromarray(grey))).tolist() == [90]


def test_sixteen_bit_images_are_scaled_to_eight(folder: CocoFolder) -> None:
    # 0x8000 of 0xffff is one half: 127.5 of 255, cut to 127
    deep = np.full((HEIGHT, WIDTH), 0x8000, dtype=np.uint16)
    assert np.unique(saved_as(folder, Image.fromarray(deep))).tolist() == [127]


def test_alpha_is_dropped(folder: CocoFolder) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[...] = (200, 100, 50, 0)  # wholly transparent, and still its colour
    shown = saved_as(folder, Image.fromarray(pixels))
    assert np.unique(shown.reshape(-1, 3), axis=0).tolist() == [[200, 100, 50]]


def test_grey_with_alpha_and_palette_images_are_read(folder: CocoFolder) -> None:
    grey_alpha = Image.merge("LA", [Image.new("L", (WIDTH, HEIGHT), 60), Image.new("L", (WIDTH, HEIGHT), 9)])
    assert np.unique(saved_as(folder, grey_alpha)).tolist() == [60]
    palette = Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).quantize(4)
    assert np.unique(saved_as(folder, palette, "p.png").reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]


def save_rotated(folder: CocoFolder) -> None:
    """a.jpg, stored 40 x 30, left half white, with the EXIF word that viewers turn it by 90 degrees."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:, : WIDTH // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder.images / "a.jpg", exif=exif, quality=95)
    folder.train["images"][0]["file_name"] = "a.jpg"


def test_exif_rotation_is_ignored_where_the_stored_size_is_annotated(folder: CocoFolder) -> None:
    save_rotated(folder)
    shown = decode(folder).train.images[0]  # 64 x 64: 48 rows of content
    assert shown[10:40, 5:25].min() > 240
    assert shown[10:40, 40:60].max() < 15


def test_exif_rotation_is_refused_where_the_turned_size_is_annotated(folder: CocoFolder) -> None:
    save_rotated(folder)
    folder.train["images"][0].update(width=HEIGHT, height=WIDTH)
    folder.train["annotations"][0]["bbox"] = [4, 6, 10, 8]
    message = decoding_refusal(folder)
    assert "EXIF rotation is ignored" in message
    assert "a.jpg is 40x30, annotated 30x40" in message


# Files that cannot be used


def test_a_missing_image_is_named(folder: CocoFolder) -> None:
    (folder.images / "b.png").unlink()
    message = refusal(folder)
    assert "an image file must exist in" in message
    assert "b.png" in message
    assert "--skip-bad" in message
    kept = folder.load(skip_bad=True)
    assert [record.file_name for record in kept.train.images] == ["a.png", "c.png"]
    assert any(note.startswith("train: b.png: an image file must exist") for note in kept.dropped)


@pytest.mark.parametrize("content", [b"this is no image", b""])
def test_an_unreadable_image_is_named_and_can_be_left_out(folder: CocoFolder, content: bytes) -> None:
    (folder.images / "b.png").write_bytes(content)
    message = decoding_refusal(folder)
    assert "an image file must be readable (1): b.png" in message
    kept = decode(folder, skip_bad=True)
    assert [record.file_name for record in kept.train.split.images] == ["a.png", "c.png"]
    assert len(kept.train) == 2
    assert kept.dataset.dropped == ["train: b.png: an image file must be readable"]


def test_a_truncated_image_is_named(folder: CocoFolder) -> None:
    whole = (folder.images / "c.png").read_bytes()
    (folder.images / "c.png").write_bytes(whole[: len(whole) // 2])
    assert "an image file must be readable (1): c.png" in decoding_refusal(folder)
    assert len(decode(folder, skip_bad=True).train) == 2


def test_a_size_that_differs_is_named_with_both_sizes(folder: CocoFolder) -> None:
    folder.train["images"][1].update(width=41)
    message = decoding_refusal(folder)
    assert "an image must have the size that its annotation says" in message
    assert "b.png is 40x30, annotated 41x30" in message
    kept = decode(folder, skip_bad=True)
    assert [record.file_name for record in kept.dataset.train.images] == ["a.png", "c.png"]


def test_skip_bad_that_leaves_no_image_is_a_data_error(folder: CocoFolder) -> None:
    for name in "abc":
        (folder.images / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        decode(folder, skip_bad=True)


# Rules about images


@pytest.mark.parametrize("path", ["../outside.png", "x/../../outside.png", ".."])
def test_a_path_that_leaves_the_folder_is_refused_even_with_skip_bad(folder: CocoFolder, path: str) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.root / "outside.png")
    folder.train["images"][0]["file_name"] = path
    message = refusal(folder)
    assert f"an image path must stay inside the image folder (1): {path}" in message
    assert "this cannot be skipped" in message
    with pytest.raises(DataError, match="must stay inside"):
        folder.load(skip_bad=True)


def test_an_absolute_path_is_refused(folder: CocoFolder) -> None:
    path = str(folder.images / "a.png")
    folder.train["images"][0]["file_name"] = path
    assert f"an image path must stay inside the image folder (1): {path}" in refusal(folder)


def test_duplicate_image_ids_are_refused_even_with_skip_bad(folder: CocoFolder) -> None:
    folder.train["images"][1]["id"] = 1
    message = refusal(folder)
    assert "image ids must be unique (1): image id 1 (b.png)" in message
    with pytest.raises(DataError, match="image ids must be unique"):
        folder.load(skip_bad=True)


@pytest.mark.parametrize("width", [0, -40, 40.5, "40", None, True])
def test_an_image_without_a_whole_positive_size_is_refused(folder: CocoFolder, width: Any) -> None:
    folder.train["images"][2]["width"] = width
    assert "an image must have whole positive width and height (1): c.png" in refusal(folder)


@pytest.mark.parametrize("row", [{"id": 5}, {"file_name": "a.png"}, {"id": 5, "file_name": 3}, "a.png"])
def test_an_image_row_without_id_or_name_is_refused(folder: CocoFolder, row: Any) -> None:
    folder.train["images"].append(row)
    assert "an image must have an id and a file_name (1)" in refusal(folder)
    assert len(folder.load(skip_bad=True).train.images) == 3


# Rules about boxes


BAD_BOXES = {
    "a bbox must have positive width and height": [[4, 6, 0, 8], [4, 6, 10, 0], [4, 6, -3, 8]],
    "a bbox must overlap its image": [[41, 6, 10, 8], [4, 31, 10, 8], [-20, 6, 10, 8], [4, -20, 10, 8], [40, 6, 5, 5]],
    "a bbox must be four finite numbers [x, y, width, height]": [
        [4, 6, 10], [4, 6, 10, 8, 1], None, "4 6 10 8", [4, 6, "10", 8], [4, 6, math.nan, 8], [4, 6, math.inf, 8],
        [True, 6, 10, 8], {},
    ],
    "a bbox must lie inside its image": [[35, 6, 10, 8], [4, 25, 10, 8], [-3, 6, 10, 8], [4, -3, 10, 8]],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "bbox"), [(rule, bbox) for rule, boxes in BAD_BOXES.items() for bbox in boxes])
def test_a_bad_box_is_refused_by_its_rule(folder: CocoFolder, rule: str, bbox: Any) -> None:
    folder.train["annotations"].append(folder.box_row(44, 1, bbox))
    message = refusal(folder)
    assert rule in message
    assert "train.json: 1 problems" in message
    assert "annotation 44 in a.png" in message


@pytest.mark.parametrize("bbox", [[math.nan, 6, 10, 8], [4, 6, 0, 8], [41, 6, 10, 8], None])
def test_skip_bad_drops_a_bad_box_and_records_it(folder: CocoFolder, bbox: Any) -> None:
    folder.train["annotations"].append(folder.box_row(44, 1, bbox))
    dataset = folder.load(skip_bad=True)
    assert dataset.train.num_boxes == 3
    assert len(dataset.dropped) == 1
    assert dataset.dropped[0].startswith("train: annotation 44 in a.png")


def test_skip_bad_clips_a_box_that_leaves_its_image(folder: CocoFolder) -> None:
    folder.train["annotations"][0]["bbox"] = [35, 6, 10, 8]
    dataset = folder.load(skip_bad=True)
    np.testing.assert_array_equal(dataset.train.boxes_xyxy[0], [[35, 6, 40, 14]])
    assert len(dataset.dropped) == 1


@pytest.mark.parametrize(
    ("bbox", "clipped"), [([-2, 6, 10, 8], [0, 6, 8, 14]), ([31, 23.5, 11, 8.5], [31, 23.5, 40, 30])]
)
def test_rounding_of_two_pixels_is_clipped_without_a_word(folder: CocoFolder, bbox: Any, clipped: Any) -> None:
    folder.train["annotations"][0]["bbox"] = bbox
    dataset = folder.load()
    np.testing.assert_array_equal(dataset.train.boxes_xyxy[0], [clipped])
    assert dataset.dropped == []


def test_duplicate_annotation_ids_are_refused(folder: CocoFolder) -> None:
    folder.train["annotations"].append(folder.box_row(1, 2, [1, 1, 5, 5]))
    assert "annotation ids must be unique (1): annotation 1" in refusal(folder)
    assert folder.load(skip_bad=True).train.num_boxes == 3


def test_an_unknown_image_is_refused(folder: CocoFolder) -> None:
    folder.train["annotations"].append(folder.box_row(44, 99, [1, 1, 5, 5]))
    assert "an annotation must name a known image (1): annotation 44 (image_id 99)" in refusal(folder)
    assert folder.load(skip_bad=True).train.num_boxes == 3


def test_an_unknown_category_is_refused(folder: CocoFolder) -> None:
    folder.train["annotations"].append(folder.box_row(44, 1, [1, 1, 5, 5], 3))
    assert "an annotation must name a known category (1): annotation 44 (category_id 3)" in refusal(folder)
    assert folder.load(skip_bad=True).train.num_boxes == 3


def test_an_annotation_that_is_no_object_is_refused(folder: CocoFolder) -> None:
    folder.train["annotations"].append([1, 2, 3])
    assert "an annotation must be an object (1): annotation at position 3" in refusal(folder)


def test_the_message_names_the_first_three_offenders_and_counts_the_rest(folder: CocoFolder) -> None:
    folder.train["annotations"] += [folder.box_row(100 + n, 1, [4, 6, 0, 8]) for n in range(5)]
    folder.train["annotations"].append(folder.box_row(200, 1, [1, 1, 5, 5], 77))
    message = refusal(folder)
    assert "train.json: 6 problems" in message  # both kinds at once
    assert "a bbox must have positive width and height (5): annotation 100 in a.png" in message
    assert "annotation 102 in a.png [4, 6, 0, 8], and 2 more" in message
    assert "annotation 103" not in message
    assert "category_id 77" in message


# Rules about categories, splits and files


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([{"id": 1, "name": "cell"}, {"id": 1, "name": "platelet"}], "category ids must be unique (1): category 1"),
        ([{"id": 1, "name": "cell"}, {"id": 2, "name": "cell"}], "category names must be unique (1): 'cell' x 2"),
        ([{"id": 1, "name": "cell"}, {"id": 2}], "a category must have an id and a name (1)"),
        ([{"id": 1, "name": "cell"}, {"name": "platelet"}], "a category must have an id and a name (1)"),
        ([{"id": 1, "name": "cell"}, "platelet"], "a category must have an id and a name (1): 'platelet'"),
    ],
)
def test_bad_categories_are_refused_even_with_skip_bad(folder: CocoFolder, rows: list[Any], rule: str) -> None:
    folder.train["categories"] = rows
    assert rule in refusal(folder)
    with pytest.raises(DataError):
        folder.load(skip_bad=True)


def test_categories_that_differ_between_splits_are_refused(folder: CocoFolder) -> None:
    folder.splits["val"]["categories"] = [{"id": 1, "name": "platelet"}, {"id": 2, "name": "cell"}]
    message = refusal(folder)
    assert "val.json: all splits must list the same categories" in message
    assert "['cell', 'platelet']" in message
    assert "['platelet', 'cell']" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_boxes_is_refused(folder: CocoFolder, split: str) -> None:
    folder.splits[split]["annotations"] = []
    assert f"the {split} split must have at least one box" in refusal(folder)
    with pytest.raises(DataError, match="must have at least one box"):
        folder.load(skip_bad=True)


def test_a_test_split_is_read_and_checked_too(folder: CocoFolder) -> None:
    folder.splits["test"] = json.loads(json.dumps(folder.splits["val"]))
    dataset = folder.load()
    assert dataset.test is not None
    assert dataset.test.num_boxes == 1
    folder.splits["test"]["annotations"][0]["bbox"] = [0, 0, 0, 0]
    assert "test.json: 1 problems" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"images": [', "must be JSON; reading it said"),
        ("", "must be JSON; reading it said"),
        ("[1, 2]", "it is a list"),
        ('{"images": [], "annotations": []}', 'a COCO file must have a list "categories"'),
        ('{"images": {}, "annotations": [], "categories": []}', 'a COCO file must have a list "images"'),
    ],
)
def test_broken_json_is_refused_with_the_files_name(folder: CocoFolder, text: str, told: str) -> None:
    source = folder.write()
    (folder.root / "val.json").write_text(text)
    with pytest.raises(DataError, match=r"val\.json") as caught:
        load_dataset(source)
    assert told in str(caught.value)


def test_json_that_is_not_text_is_refused(folder: CocoFolder) -> None:
    source = folder.write()
    (folder.root / "train.json").write_bytes(b"\xff\xfe\xfa\x00\x81")
    with pytest.raises(DataError, match=r"train\.json: must be JSON"):
        load_dataset(source)


def test_an_annotation_file_that_is_missing_or_a_folder_is_refused(folder: CocoFolder) -> None:
    source = folder.write()
    (folder.root / "val.json").unlink()
    with pytest.raises(DataError, match=r"val\.json: this annotation file does not exist"):
        load_dataset(source)
    (folder.root / "val.json").mkdir()
    with pytest.raises(DataError, match=r"val\.json: an annotation file must be a file"):
        load_dataset(source)


def test_a_folder_that_lacks_a_split_says_which_and_what_it_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none"):
        DataSource.from_folder(tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"missing: val\.json \(found train\.json\)"):
        DataSource.from_folder(tmp_path / "half")


@pytest.mark.parametrize("where", ["category", "image", "image_id", "category_id", "annotation"])
@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_an_id_that_is_a_list_or_an_object_is_a_data_error(folder: CocoFolder, where: str, value: Any) -> None:
    if where == "category":
        folder.train["categories"][0]["id"] = value
    elif where == "image":
        folder.train["images"][0]["id"] = value
    elif where == "annotation":
        folder.train["annotations"][0]["id"] = value
    else:
        folder.train["annotations"][0][where] = value
    refusal(folder)


@pytest.mark.parametrize("told", [[], "yes", {"area_ranges_px": [16]}, {"area_ranges_px": ["a", "b"]}])
def test_a_malformed_info_entry_is_a_data_error(folder: CocoFolder, told: Any) -> None:
    folder.train["info"] = {"detector_search": told}
    refusal(folder)


# Fingerprint


@pytest.mark.skipif(not BCCD.is_dir(), reason="../shared/data/bccd (364 blood smears) is not here")
def test_real_images_of_blood_smears_load() -> None:
    dataset = load_dataset(DataSource.from_folder(BCCD))
    assert (len(dataset.train.images), len(dataset.val.images)) == (281, 83)
    assert len(dataset.class_names) == 3
    assert not dataset.full_turn
