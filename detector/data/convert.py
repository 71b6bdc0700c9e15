"""`python -m detector.data.convert --from yolo|voc SRC --out DIR`: a COCO-format folder from YOLO or VOC.

YOLO: images/{train,val[,test]}/ with labels/{train,val[,test]}/*.txt (class cx cy w h, shares of the image) and class
names in data.yaml or classes.txt. VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/{train,val[,test]}.txt.
Images are linked (copied where links cannot be made), never changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from detector.commands import CommandError, command
from detector.data.dataset import DataError
from detector.predict import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")


@dataclass
class _Annotated:
    """One image of the source: its file, and (class name, [x, y, width, height] in pixels, crowd) of its boxes."""

    file: Path
    width: int
    height: int
    boxes: list[tuple[str, list[float], bool]] = field(default_factory=list)


def read_yolo(src: Path) -> tuple[dict[str, list[_Annotated]], list[str]]:
    """All splits of a YOLO folder and its class names.

    Raises: DataError naming the file and line that break the format.
    """
    names = _yolo_names(src)
    splits: dict[str, list[_Annotated]] = {}
    for split in SPLITS:
        folder = next((f for f in (src / "images" / split, src / split / "images") if f.is_dir()), None)
        if folder is None and split == "val":
            folder = next((f for f in (src / "images" / "valid", src / "valid" / "images") if f.is_dir()), None)
        if folder is None:
            continue
        labels = src / Path(*("labels" if part == "images" else part for part in folder.relative_to(src).parts))
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        splits[split] = [
            _read_yolo_image(file, labels / file.relative_to(folder).with_suffix(".txt"), names) for file in files
        ]
    return splits, names


def _yolo_names(src: Path) -> list[str]:
    listed = src / "classes.txt"
    if listed.is_file():
        return [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    for path in (src / "data.yaml", src / "dataset.yaml"):
        if path.is_file():
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict):
                return [str(names[key]) for key in sorted(names)]
            if isinstance(names, list):
                return [str(name) for name in names]
    raise DataError(
        f"{src}: a YOLO folder must name its classes in classes.txt or data.yaml (names: [..]); found neither"
    )


def _read_yolo_image(file: Path, label: Path, names: list[str]) -> _Annotated:
    width, height = _size(file)
    image = _Annotated(file, width, height)
    lines = label.read_text(encoding="utf-8").splitlines() if label.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            numbers = [float(part) for part in line.split()]
            name = names[_class_index(numbers[0], len(names))]
            box = _yolo_box(numbers[1:], width, height)
        except (ValueError, IndexError):
            raise DataError(
                f"{label}, line {number}: must be `class cx cy w h` (or a polygon) with a class of 0..{len(names) - 1}, "
                f"got {line!r}"
            ) from None
        image.boxes.append((name, box, False))
    return image


def _class_index(number: float, count: int) -> int:
    if not 0 <= number < count or number != int(number):
        raise ValueError(number)
    return int(number)


def _yolo_box(shares: list[float], width: int, height: int) -> list[float]:
    """[x, y, width, height] in pixels of `cx cy w h [confidence]`, or of the extent of a polygon `x1 y1 x2 y2 ..`."""
    if len(shares) >= 6 and len(shares) % 2 == 0:
        xs, ys = shares[0::2], shares[1::2]
        return [min(xs) * width, min(ys) * height, (max(xs) - min(xs)) * width, (max(ys) - min(ys)) * height]
    if len(shares) not in (4, 5):
        raise ValueError(shares)
    cx, cy, w, h = shares[:4]
    return [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]


def read_voc(src: Path) -> tuple[dict[str, list[_Annotated]], list[str]]:
    """All splits of a VOC folder and its class names, sorted.

    Raises: DataError naming the file that breaks the format.
    """
    sets = src / "ImageSets" / "Main"
    splits: dict[str, list[_Annotated]] = {}
    for split in SPLITS:
        listed = sets / f"{split}.txt"
        if listed.is_file():
            stems = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
            splits[split] = [_read_voc_image(src, stem) for stem in stems]
    names = sorted({name for images in splits.values() for image in images for name, _, _ in image.boxes})
    return splits, names


def _read_voc_image(src: Path, stem: str) -> _Annotated:
    path = src / "Annotations" / f"{stem}.xml"
    try:
        root = ElementTree.parse(path).getroot()
        file = src / "JPEGImages" / (root.findtext("filename") or f"{stem}.jpg")
        if not file.is_file():
            file = src / "JPEGImages" / f"{stem}.jpg"
        image = _Annotated(file, *_size(file))
        for thing in root.iter("object"):
            corners = [float(thing.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
            # VOC counts pixels from 1 and includes the last one.
            x1, y1, x2, y2 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
            difficult = (thing.findtext("difficult") or "0").strip() == "1"
            image.boxes.append((thing.findtext("name") or "", [x1, y1, x2 - x1, y2 - y1], difficult))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: must be a VOC annotation of an image in JPEGImages ({error})") from None
    return image


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, SyntaxError) as error:
        raise DataError(f"{file}: must be a readable image ({error})") from None


def convert(kind: str, src: Path, out: Path) -> dict[str, int]:
    """Writes the COCO-format folder and returns images per split.

    Raises: DataError where the source lacks a train or val split, or breaks its format.
    """
    if not src.is_dir():
        raise DataError(f"{src}: must be a folder in {kind.upper()} layout; there is none")
    splits, names = read_yolo(src) if kind == "yolo" else read_voc(src)
    missing = [split for split in ("train", "val") if not splits.get(split)]
    if missing:
        where = "images/{train,val}/ and labels/{train,val}/" if kind == "yolo" else "ImageSets/Main/{train,val}.txt"
        raise DataError(f"{src}: a {kind.upper()} folder must have {where}; no images for: {', '.join(missing)}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        (out / f"{split}.json").write_text(json.dumps(_as_coco(split, images, names, out)))
    return {split: len(images) for split, images in splits.items()}


def _as_coco(split: str, images: list[_Annotated], names: list[str], out: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    listed = []
    for number, image in enumerate(images, 1):
        target = out / "images" / split / image.file.name
        _link(image.file, target)
        file_name = f"{split}/{image.file.name}"
        listed.append({"id": number, "file_name": file_name, "width": image.width, "height": image.height})
        for name, box, crowd in image.boxes:
            rows.append(
                {"id": len(rows) + 1, "image_id": number, "category_id": names.index(name) + 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": int(crowd)}
            )  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    return {"info": {}, "images": listed, "annotations": rows, "categories": categories}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() or target.is_symlink():
        raise DataError(f"{target}: exists already; two images of a split share a name, or --out was used before")
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def main(arguments: list[str] | None = None) -> None:
    """The command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m detector.data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="kind", choices=("yolo", "voc"), required=True, help="layout of the source")
    parser.add_argument("src", type=Path, help="source folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args(arguments)
    with command():
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise CommandError(f"--out must be a new or empty folder; {options.out} holds something already")
        counts = convert(options.kind, options.src, options.out)
    print(
        f"{options.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()) + " images",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
