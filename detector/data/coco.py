"""Reads COCO-format annotations, checks every rule before anything trains, and says all that is wrong at once."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.dataset import (
    COCO_AREA_RANGES_PX,
    DataError,
    DataSource,
    DetectionDataset,
    ImageRecord,
    Split,
    problem_message,
)

# A box may leave its image by this much, in pixels, before it is called an error: annotation tools round.
ROUNDING_PX = 2.0


def load_dataset(source: DataSource, skip_bad: bool = False, train_split: str = "train") -> DetectionDataset:
    """Reads and checks all splits. Images are opened later, by the cache.

    With `train_split` extended, `train` is the training and the extended images together.

    Raises: DataError with every kind of problem, its count and first offenders. With `skip_bad`, what can be
    dropped or clipped is, and is listed in `dropped`.
    """
    train = read_split("train", *source.train, skip_bad=skip_bad)
    val = read_split("val", *source.val, skip_bad=skip_bad)
    if train_split == "extended":
        train = _extended(train, source, skip_bad)
    test = read_split("test", *source.test, skip_bad=skip_bad) if source.test else None
    for split in [val] + ([test] if test else []):
        _check_same_categories(train, split)
        if train_split == "extended":
            _check_not_trained_on(train, split)
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


def _extended(train: Split, source: DataSource, skip_bad: bool) -> Split:
    """The training split and the extended one together; an image of both counts once."""
    if source.extended is None:
        raise DataError(
            f"train_split extended needs more training images, and {source.name or train.annotations} has none: name "
            "their annotations with --extended-annotations FILE, or put extended.json beside train.json"
        )
    more = read_split("extended", *source.extended, skip_bad=skip_bad)
    _check_same_categories(train, more)
    return train.joined_with(more)


def _check_not_trained_on(train: Split, other: Split) -> None:
    """Scores on images that were trained on would say nothing."""
    trained = {record.path.resolve() for record in train.images}
    leaked = [record.file_name for record in other.images if record.path.resolve() in trained]
    if leaked:
        found = {f"an extended training image must not be in {other.annotations.name} too": leaked}
        raise DataError(problem_message(str(train.annotations), found, droppable=False))


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: this annotation file does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{path}: an annotation file must be a file; this is a folder") from None
    except OSError as error:
        raise DataError(f"{path}: must be a readable file ({error.strerror})") from None
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


IMAGE_KEYS = ("id", "file_name", "width", "height")


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
        more = {
            key: value for key, value in row.items() if key not in IMAGE_KEYS and isinstance(value, (str, int, float))
        }
        records[row["id"]] = ImageRecord(row["id"], file_name, path, int(row["width"]), int(row["height"]), more)
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
