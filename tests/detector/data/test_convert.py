"""YOLO and VOC folders become COCO folders that the reader accepts; what breaks their format is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.data.coco import load_dataset
from detector.data.convert import convert, main
from detector.data.dataset import DataError, DataSource


def image(path: Path, width: int = 100, height: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 30, 90)).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def yolo_folder(src: Path) -> Path:
    """train: a.png with two boxes, b.png without a label file; val: c.png."""
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        image(src / "images" / split / f"{name}.png")
    text(src / "labels/train/a.txt", "0 0.5 0.5 0.2 0.4\n\n1 0.1 0.9 0.2 0.2\n")
    text(src / "labels/val/c.txt", "1 0.25 0.5 0.5 1.0\n")
    text(src / "data.yaml", "names: [dog, cat]\n")
    return src


def voc_object(name: str, corners: tuple[Any, Any, Any, Any], difficult: int = 0) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_folder(src: Path) -> Path:
    """train: a with two boxes, one of them difficult; val: b; test: c without boxes."""
    things = {
        "a": voc_object("sheep", (11, 21, 30, 40)) + voc_object("cow", (1, 1, 100, 50), difficult=1),
        "b": voc_object("cow", (1, 1, 10, 5)),
        "c": voc_object("cow", (5, 5, 9, 9)),
    }
    for stem, objects in things.items():
        image(src / "JPEGImages" / f"{stem}.jpg")
        text(src / "Annotations" / f"{stem}.xml", f"<annotation><filename>{stem}.jpg</filename>{objects}</annotation>")
    for split, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        text(src / "ImageSets/Main" / f"{split}.txt", f"{stem}\n")
    return src


def converted(kind: str, src: Path, out: Path) -> dict[str, Any]:
    convert(kind, src, out)
    return json.loads((out / "train.json").read_text())


def test_yolo_by_hand(tmp_path: Path) -> None:
    content = converted("yolo", yolo_folder(tmp_path / "yolo"), tmp_path / "out")
    assert content["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    assert content["images"] == [
        {"id": 1, "file_name": "train/a.png", "width": 100, "height": 50},
        {"id": 2, "file_name": "train/b.png", "width": 100, "height": 50},
    ]
    # 100 x 50: centre (50, 25), sides (20, 20) -> x 40, y 15; centre (10, 45), sides (20, 10) -> x 0, y 40
    first, second = content["annotations"]
    assert first["bbox"] == pytest.approx([40, 15, 20, 20])
    assert (first["image_id"], first["category_id"], first["area"]) == (1, 1, pytest.approx(400))
    assert second["bbox"] == pytest.approx([0, 40, 20, 10])
    assert (second["image_id"], second["category_id"]) == (1, 2)


def test_yolo_is_read_back_by_the_reader(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    assert convert("yolo", src, tmp_path / "out") == {"train": 2, "val": 1}
    dataset = load_dataset(DataSource.from_folder(tmp_path / "out"))
    assert dataset.class_names == ["dog", "cat"]
    assert [len(boxes) for boxes in dataset.train.boxes_xyxy] == [2, 0]
    assert dataset.val.boxes_xyxy[0][0].tolist() == pytest.approx([0, 0, 50, 50])
    assert dataset.train.images[0].path.read_bytes() == (src / "images/train/a.png").read_bytes()
    assert dataset.dropped == []


@pytest.mark.parametrize("file", ["classes.txt", "data.yaml", "dataset.yaml"])
def test_yolo_class_names_come_from_any_of_three_files(tmp_path: Path, file: str) -> None:
    src = yolo_folder(tmp_path / "yolo")
    (src / "data.yaml").unlink()
    text(src / file, "dog\ncat\n" if file == "classes.txt" else "names:\n  1: cat\n  0: dog\n")
    content = converted("yolo", src, tmp_path / "out")
    assert [row["name"] for row in content["categories"]] == ["dog", "cat"]


@pytest.mark.parametrize("layout", ["{split}/images", "images/{split}"])
@pytest.mark.parametrize("val", ["val", "valid"])
def test_yolo_folders_of_both_layouts(tmp_path: Path, layout: str, val: str) -> None:
    src = tmp_path / "yolo"
    for split, name in (("train", "a"), (val, "c")):
        pictures = src / layout.format(split=split)
        image(pictures / "deep" / f"{name}.png")
        labels = src / layout.format(split=split).replace("images", "labels")
        text(labels / "deep" / f"{name}.txt", "0 0.5 0.5 0.2 0.4\n")
    text(src / "classes.txt", "dog\n")
    assert convert("yolo", src, tmp_path / "out") == {"train": 1, "val": 1}
    assert load_dataset(DataSource.from_folder(tmp_path / "out")).train.num_boxes == 1


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2", "2 0.5 0.5 0.2 0.2", "dog 0.5 0.5 0.2 0.2", "0 0.5 half 0.2 0.2"])
def test_a_bad_yolo_line_is_named_with_its_file_and_number(tmp_path: Path, line: str) -> None:
    src = yolo_folder(tmp_path / "yolo")
    text(src / "labels/train/a.txt", f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: must be `class cx cy w h`") as caught:
        convert("yolo", src, tmp_path / "out")
    assert repr(line) in str(caught.value)


def test_a_negative_yolo_class_is_refused(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    text(src / "labels/train/a.txt", "-1 0.5 0.5 0.2 0.4\n")
    with pytest.raises(DataError, match="line 1"):
        convert("yolo", src, tmp_path / "out")


def test_a_yolo_polygon_is_not_read_as_a_box(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    text(src / "labels/train/a.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n")
    try:
        content = converted("yolo", src, tmp_path / "out")
    except DataError:
        return  # refused, or read as what it is: the square 10..90 x 5..45
    assert content["annotations"][0]["bbox"] == pytest.approx([10, 5, 80, 40])


def test_yolo_labels_are_found_below_a_folder_named_images(tmp_path: Path) -> None:
    content = converted("yolo", yolo_folder(tmp_path / "images" / "yolo"), tmp_path / "out")
    assert len(content["annotations"]) == 2


def test_yolo_without_class_names_is_refused(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    (src / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"must name its classes in classes\.txt or data\.yaml"):
        convert("yolo", src, tmp_path / "out")


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    (src / "images/train/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: must be a readable image"):
        convert("yolo", src, tmp_path / "out")


def test_voc_by_hand(tmp_path: Path) -> None:
    content = converted("voc", voc_folder(tmp_path / "voc"), tmp_path / "out")
    assert [row["name"] for row in content["categories"]] == ["cow", "sheep"]
    assert content["images"] == [{"id": 1, "file_name": "train/a.jpg", "width": 100, "height": 50}]
    # pixels 11..30 x 21..40, counted from 1 and both included, are 20 x 20 from (10, 20)
    sheep, cow = content["annotations"]
    assert (sheep["bbox"], sheep["category_id"], sheep["iscrowd"], sheep["area"]) == ([10, 20, 20, 20], 2, 0, 400)
    assert (cow["bbox"], cow["category_id"], cow["iscrowd"]) == ([0, 0, 100, 50], 1, 1)  # difficult: not trained on


def test_voc_is_read_back_by_the_reader(tmp_path: Path) -> None:
    assert convert("voc", voc_folder(tmp_path / "voc"), tmp_path / "out") == {"train": 1, "val": 1, "test": 1}
    dataset = load_dataset(DataSource.from_folder(tmp_path / "out"))
    assert dataset.class_names == ["cow", "sheep"]
    assert dataset.train.boxes_xyxy[0].tolist() == [[10, 20, 30, 40], [0, 0, 100, 50]]
    assert dataset.train.crowd[0].tolist() == [False, True]
    assert dataset.test is not None
    assert dataset.test.boxes_xyxy[0].tolist() == [[4, 4, 9, 9]]
    assert dataset.dropped == []


@pytest.mark.parametrize(
    "broken",
    ["<annotation><object>", "<annotation>" + voc_object("cow", ("one", 1, 2, 2)) + "</annotation>", None],
    ids=["no XML", "no number", "no file"],
)
def test_a_bad_voc_annotation_is_named(tmp_path: Path, broken: str | None) -> None:
    src = voc_folder(tmp_path / "voc")
    (src / "Annotations/a.xml").unlink()
    if broken is not None:
        text(src / "Annotations/a.xml", broken)
    with pytest.raises(DataError, match=r"a\.xml: must be a VOC annotation of an image in JPEGImages"):
        convert("voc", src, tmp_path / "out")


def test_a_voc_annotation_without_its_image_is_named(tmp_path: Path) -> None:
    src = voc_folder(tmp_path / "voc")
    (src / "JPEGImages/a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: must be a readable image"):
        convert("voc", src, tmp_path / "out")


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_a_missing_split_is_named(tmp_path: Path, kind: str) -> None:
    src = yolo_folder(tmp_path / "src") if kind == "yolo" else voc_folder(tmp_path / "src")
    (src / "images/val").rename(src / "elsewhere") if kind == "yolo" else (src / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(DataError, match="no images for: val"):
        convert(kind, src, tmp_path / "out")


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder in VOC layout; there is none"):
        convert("voc", tmp_path / "nowhere", tmp_path / "out")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    src = yolo_folder(tmp_path / "yolo")
    image(src / "images/train/deep/a.png")
    with pytest.raises(DataError, match="two images of a split share a name"):
        convert("yolo", src, tmp_path / "out")


def test_the_command_converts_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--from", "voc", str(voc_folder(tmp_path / "voc")), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert said.out == ""
    assert "1 train, 1 val, 1 test images" in said.err
    assert (tmp_path / "out/train.json").is_file()


def test_the_command_refuses_a_folder_that_holds_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text(tmp_path / "out/mine.txt", "mine")
    with pytest.raises(SystemExit) as left:
        main(["--from", "yolo", str(yolo_folder(tmp_path / "yolo")), "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: --out must be a new or empty folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
