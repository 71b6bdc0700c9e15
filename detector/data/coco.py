"""Reads COCO-format annotations, checks every rule before anything trains, and says all that is wrong at once."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# A box may leave its image by this much, in pixels, before it is called an error: annotation tools round.
ROUNDING_PX = 2.0
OFFENDERS_SHOWN = 3
COCO_AREA_RANGES_PX = (32.0, 96.0)  # sides that part small | medium | large


class DataError(ValueError):
    """A dataset that breaks a rule; the message names the first offenders, the count and the remedy."""


@dataclass(frozen=True)
class ImageRecord:
    """One image as the annotations name it; sizes in stored pixels."""

    id: int | str
    file_name: str
    path: Path
    width: int
    height: int


@dataclass
class Split:
    """The images of one annotation file; the lists run parallel to `images`."""

    name: str
    annotations: Path
    images: list[ImageRecord]
    boxes_xyxy: list[np.ndarray]  # (n, 4) float32, original pixels
    labels: list[np.ndarray]  # (n,) int64, index into class_names
    crowd: list[np.ndarray]  # (n,) bool
    areas: list[np.ndarray]  # (n,) float64, the annotations' own
    class_names: list[str]
    info: dict[str, Any]
    dropped: list[str] = field(default_factory=list)  # what skip_bad left out or clipped, in words

    @property
    def num_boxes(self) -> int:
        return sum(len(boxes) for boxes in self.boxes_xyxy)

    def without_images(self, bad: Mapping[int, str]) -> Split:
        """This split less the images at these positions, each noted in `dropped` with its reason."""
        keep = [n for n in range(len(self.images)) if n not in bad]
        if not any(len(self.boxes_xyxy[n]) for n in keep):
            raise DataError(
                f"{self.annotations}: without its {len(bad)} bad images the {self.name} split has no box left"
            )
        notes = [f"{self.images[n].file_name}: {reason}" for n, reason in sorted(bad.items())]
        return Split(
            self.name,
            self.annotations,
            [self.images[n] for n in keep],
            [self.boxes_xyxy[n] for n in keep],
            [self.labels[n] for n in keep],
            [self.crowd[n] for n in keep],
            [self.areas[n] for n in keep],
            self.class_names,
            self.info,
            self.dropped + notes,
        )


@dataclass
class DataSource:
    """Where a dataset's splits lie: annotation file and image folder each."""

    train: tuple[Path, Path]
    val: tuple[Path, Path]
    test: tuple[Path, Path] | None = None
    name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values with absolute paths, for study.json and workers."""
        plain: dict[str, Any] = {"name": self.name}
        for split in ("train", "val", "test"):
            pair = getattr(self, split)
            plain[split] = [str(path.resolve()) for path in pair] if pair else None
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataSource:
        """The inverse of `to_dict`."""
        pairs = {s: (Path(plain[s][0]), Path(plain[s][1])) if plain.get(s) else None for s in ("train", "val", "test")}
        assert pairs["train"] is not None
        assert pairs["val"] is not None
        return cls(pairs["train"], pairs["val"], pairs["test"], plain["name"])

    @classmethod
    def from_folder(cls, folder: str | Path) -> DataSource:
        """train.json, val.json, optional test.json and images/ of a folder.

        Raises: DataError naming what is missing.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError(
                f"--data {str(folder)!r} must be a folder with train.json, val.json and images/; there is none"
            )
        missing = [name for name in ("train.json", "val.json") if not (root / name).is_file()]
        if missing:
            found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
            raise DataError(
                f"--data {str(folder)!r} must hold train.json, val.json and images/; missing: {', '.join(missing)} "
                f"(found {found}). Name the files with --train-annotations/--train-images/--val-annotations/--val-images, "
                "or make such a folder from YOLO or VOC with `python -m detector.data.convert`"
            )
        images = root / "images" if (root / "images").is_dir() else root
        test = root / "test.json"
        return cls(
            (root / "train.json", images),
            (root / "val.json", images),
            (test, images) if test.is_file() else None,
            name=root.resolve().name,
        )


@dataclass
class DetectionDataset:
    """Checked splits with one list of classes, and what the dataset says of itself."""

    name: str
    train: Split
    val: Split
    test: Split | None
    class_names: list[str]
    full_turn: bool  # images are a full horizontal turn: left and right edge touch
    area_ranges_px: tuple[float, float]  # sides that part small | medium | large

    @property
    def splits(self) -> list[Split]:
        return [self.train, self.val] + ([self.test] if self.test else [])

    @property
    def dropped(self) -> list[str]:
        """Everything that skip_bad left out, in words."""
        return [f"{split.name}: {note}" for split in self.splits for note in split.dropped]


def load_dataset(source: DataSource, skip_bad: bool = False) -> DetectionDataset:
    """Reads and checks all splits. Images are opened later, by the cache.

    Raises: DataError with every kind of problem, its count and first offenders. With `skip_bad`, what can be
    dropped or clipped is, and is listed in `dropped`.
    """
    train = read_split("train", *source.train, skip_bad=skip_bad)
    val = read_split("val", *source.val, skip_bad=skip_bad)
    test = read_split("test", *source.test, skip_bad=skip_bad) if source.test else None
    for split in [val] + ([test] if test else []):
        _check_same_categories(train, split)
    told = train.info.get("detector_search", {})
    areas = told.get("area_ranges_px", COCO_AREA_RANGES_PX) if isinstance(told, dict) else None
    if not isinstance(areas, (list, tuple)) or len(areas) != 2 or not all(is_number(side) for side in areas):
        raise DataError(
            f'{train.annotations}: info.detector_search must be an object like {{"full_turn": true, "area_ranges_px": '
            f"[16, 32]}}, got {told!r}"
        )
    small, medium = areas
    return DetectionDataset(
        source.name or source.train[0].resolve().parent.name,
        train,
        val,
        test,
        train.class_names,
        bool(told.get("full_turn", False)),
        (float(small), float(medium)),
    )


def _check_same_categories(train: Split, other: Split) -> None:
    if other.class_names != train.class_names:
        raise DataError(
            f"{other.annotations}: all splits must list the same categories in the same order of ids; "
            f"{train.annotations.name} has {train.class_names}, {other.annotations.name} has {other.class_names}"
        )


def read_split(name: str, annotations: Path, images_dir: Path, skip_bad: bool = False) -> Split:
    """One annotation file as a Split.

    Raises: DataError listing every kind of problem with its first offenders.
    """
    content = _read_json(annotations)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f'{annotations}: a COCO file must have a list "{key}"; it has {sorted(content)[:8]}')
    problems = _Problems(annotations, skip_bad)
    class_names, index_of = _read_categories(content["categories"], problems)
    records = _read_images(content["images"], images_dir, problems)
    columns = _read_boxes(content["annotations"], records, index_of, problems)
    problems.raise_if_any()
    if not any(len(rows) for rows in columns.values()):
        raise DataError(
            f"{annotations}: the {name} split must have at least one box; it has {len(records)} images and none"
        )
    order = list(records)
    arrays = [_columns_as_arrays(columns[image_id]) for image_id in order]
    return Split(
        name,
        annotations,
        [records[image_id] for image_id in order],
        [boxes for boxes, _, _, _ in arrays],
        [labels for _, labels, _, _ in arrays],
        [crowd for _, _, crowd, _ in arrays],
        [areas for _, _, _, areas in arrays],
        class_names,
        info if isinstance(info := content.get("info"), dict) else {},
        problems.notes,
    )


class _Problems:
    """Collects what is wrong, by rule; with skip_bad the droppable kinds become notes instead."""

    def __init__(self, place: Path, skip_bad: bool) -> None:
        self.place, self.skip_bad = place, skip_bad
        self.found: dict[str, list[str]] = defaultdict(list)
        self.fatal: set[str] = set()
        self.notes: list[str] = []

    def add(self, rule: str, offender: str, droppable: bool = True) -> None:
        if droppable and self.skip_bad:
            self.notes.append(f"{offender}: {rule}")
            return
        self.found[rule].append(offender)
        if not droppable:
            self.fatal.add(rule)

    def raise_if_any(self) -> None:
        if self.found:
            raise DataError(problem_message(str(self.place), self.found, droppable=not self.fatal))


def problem_message(place: str, found: Mapping[str, list[str]], droppable: bool) -> str:
    """One message: each rule, how many broke it, and the first of them by name."""
    lines = [f"{place}: {sum(map(len, found.values()))} problems"]
    for rule, offenders in found.items():
        more = f", and {len(offenders) - OFFENDERS_SHOWN} more" if len(offenders) > OFFENDERS_SHOWN else ""
        lines.append(f"  {rule} ({len(offenders)}): {'; '.join(offenders[:OFFENDERS_SHOWN])}{more}")
    lines.append(
        "  Mend the files, or leave these out with --skip-bad (recorded in study.json)."
        if droppable
        else "  Mend the files; this cannot be skipped."
    )
    return "\n".join(lines)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: this annotation file does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{path}: an annotation file must be a file; this is a folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: must be JSON; reading it said: {error}") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: must be a JSON object with images, annotations, categories; it is a {type(content).__name__}"
        )
    return content


def _read_categories(rows: list[Any], problems: _Problems) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids (gaps and zero are fine), and the class index of every id."""
    names: dict[Any, str] = {}
    for row in rows:
        if not isinstance(row, dict) or not is_id(row.get("id")) or not isinstance(row.get("name"), str):
            problems.add("a category must have an id and a name", repr(row)[:60], droppable=False)
        elif row["id"] in names:
            problems.add("category ids must be unique", f"category {row['id']!r}", droppable=False)
        else:
            names[row["id"]] = row["name"]
    for name, count in Counter(names.values()).items():
        if count > 1:
            problems.add("category names must be unique", f"{name!r} x {count}", droppable=False)
    ordered = sorted(names, key=lambda key: (isinstance(key, str), key))
    return [names[key] for key in ordered], {key: n for n, key in enumerate(ordered)}


def _read_images(rows: list[Any], images_dir: Path, problems: _Problems) -> dict[Any, ImageRecord]:
    records: dict[Any, ImageRecord] = {}
    for row in rows:
        if not isinstance(row, dict) or not is_id(row.get("id")) or not isinstance(row.get("file_name"), str):
            problems.add("an image must have an id and a file_name", repr(row)[:60])
            continue
        file_name = row["file_name"]
        if row["id"] in records:
            problems.add("image ids must be unique", f"image id {row['id']!r} ({file_name})", droppable=False)
            continue
        inside = os.path.normpath(file_name)
        if os.path.isabs(file_name) or inside.split(os.sep)[0] == "..":
            problems.add("an image path must stay inside the image folder", file_name, droppable=False)
            continue
        if not all(_is_whole(row.get(side)) and row[side] > 0 for side in ("width", "height")):
            problems.add("an image must have whole positive width and height", file_name)
            continue
        path = images_dir / inside
        if not path.is_file():
            problems.add(f"an image file must exist in {images_dir}", file_name)
            continue
        records[row["id"]] = ImageRecord(row["id"], file_name, path, int(row["width"]), int(row["height"]))
    return records


def _read_boxes(
    rows: list[Any], records: dict[Any, ImageRecord], index_of: dict[Any, int], problems: _Problems
) -> dict[Any, list[tuple[list[float], int, bool, float]]]:
    """(box xyxy, class index, crowd, area) of every image id, in file order."""
    columns: dict[Any, list[tuple[list[float], int, bool, float]]] = {image_id: [] for image_id in records}
    known_images = set(records)
    seen: set[Any] = set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.add("an annotation must be an object", f"annotation at position {position}")
            continue
        where = f"annotation {row.get('id', f'at position {position}')!r}"
        if "id" in row and not is_id(row["id"]):
            problems.add("an annotation id must be a number or a text", where)
            continue
        if "id" in row and row["id"] in seen:
            problems.add("annotation ids must be unique", where)
            continue
        seen.add(row.get("id", ("position", position)))
        if not is_id(row.get("image_id")) or row["image_id"] not in known_images:
            problems.add("an annotation must name a known image", f"{where} (image_id {row.get('image_id')!r})")
            continue
        if not is_id(row.get("category_id")) or row["category_id"] not in index_of:
            problems.add(
                "an annotation must name a known category", f"{where} (category_id {row.get('category_id')!r})"
            )
            continue
        record = records[row["image_id"]]
        box = _checked_box(row.get("bbox"), record, f"{where} in {record.file_name}", problems)
        if box is not None:
            area = row.get("area")
            own = (box[2] - box[0]) * (box[3] - box[1])
            area = float(area) if area is not None and is_number(area) and area > 0 else own
            columns[record.id].append(
                (box, index_of[row["category_id"]], str(row.get("iscrowd", 0)) in ("1", "True", "1.0"), area)
            )
    return columns


def _checked_box(bbox: Any, record: ImageRecord, where: str, problems: _Problems) -> list[float] | None:
    """COCO [x, y, width, height] as xyxy clipped to the image, or None where it breaks a rule."""
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        problems.add("a bbox must be four finite numbers [x, y, width, height]", f"{where} {bbox!r}")
        return None
    x, y, width, height = map(float, bbox)
    if width <= 0 or height <= 0:
        problems.add("a bbox must have positive width and height", f"{where} {bbox}")
        return None
    clipped = [max(x, 0.0), max(y, 0.0), min(x + width, record.width), min(y + height, record.height)]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        problems.add("a bbox must overlap its image", f"{where} {bbox} outside {record.width}x{record.height}")
        return None
    over = max(-x, -y, x + width - record.width, y + height - record.height)
    if over > ROUNDING_PX:
        problems.add(
            f"a bbox must lie inside its image (up to {ROUNDING_PX:g} pixels are clipped as rounding; --skip-bad clips any)",
            f"{where} {bbox} leaves {record.width}x{record.height}",
        )
    return clipped


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_id(value: Any) -> bool:
    """Whether COCO could use the value as an id: a whole number (1.0, as pandas writes it, is 1) or a text."""
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: Any) -> bool:
    return is_number(value) and float(value).is_integer()


def _columns_as_arrays(
    rows: list[tuple[list[float], int, bool, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([box for box, _, _, _ in rows], dtype=np.float32).reshape(-1, 4),
        np.array([label for _, label, _, _ in rows], dtype=np.int64),
        np.array([crowd for _, _, crowd, _ in rows], dtype=bool),
        np.array([area for _, _, _, area in rows], dtype=np.float64),
    )


def split_fingerprint(split: Split) -> str:
    """Sixteen hex digits over what is trained on: the boxes, classes and bytes of every image that is used."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(split.class_names).encode())
    columns = zip(split.images, split.boxes_xyxy, split.labels, split.crowd, split.areas, strict=True)
    for record, boxes, labels, crowd, areas in columns:
        digest.update(f"{record.id!r} {record.file_name} {record.width} {record.height}".encode())
        digest.update(boxes.tobytes() + labels.tobytes() + crowd.tobytes() + areas.tobytes())
        digest.update(hashlib.blake2b(record.path.read_bytes(), digest_size=16).digest())
    return digest.hexdigest()


def coco_ground_truth(split: Split) -> dict[str, Any]:
    """The split as a COCO object for evaluators; category id = class index + 1, image id = position + 1."""
    annotations: list[dict[str, Any]] = []
    for position, (boxes, labels, crowd, areas) in enumerate(
        zip(split.boxes_xyxy, split.labels, split.crowd, split.areas, strict=True)
    ):
        for box, label, is_crowd, area in zip(
            boxes.tolist(), labels.tolist(), crowd.tolist(), areas.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": position + 1,
                    "category_id": label + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": n + 1, "file_name": record.file_name, "width": record.width, "height": record.height}
            for n, record in enumerate(split.images)
        ],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(split.class_names)],
    }
