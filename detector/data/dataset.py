"""What a dataset is once it is read: splits of images and boxes, where they come from, what identifies them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.config import ConfigError, DetectorConfig
from detector.data.cache_rule import CacheRule

SPLITS = ("train", "val", "test", "extended")
COCO_AREA_RANGES_PX = (32.0, 96.0)  # sides that part small | medium | large
OFFENDERS_SHOWN = 3


class DataError(ValueError):
    """A dataset that breaks a rule; the message names the first offenders, the count and the remedy."""


class NoRoomError(OSError, DataError):
    """The disk cannot hold images that are to be kept; a worker's leg waits for room, a plan is refused."""


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


@dataclass(frozen=True)
class ImageRecord:
    """One image as the annotations name it; sizes in stored pixels."""

    id: int | str
    file_name: str
    path: Path
    width: int
    height: int
    more: dict[str, Any] = field(default_factory=dict)  # other numbers and texts of it, e.g. the sequence it belongs to


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
    fingerprint: str = ""  # once fingerprint.split_fingerprint has taken it

    @property
    def num_boxes(self) -> int:
        return sum(len(boxes) for boxes in self.boxes_xyxy)

    def joined_with(self, more: Split) -> Split:
        """These images and those of `more` that are not among them, under the name of `more`."""
        known = {record.path.resolve() for record in self.images}
        new = [n for n, record in enumerate(more.images) if record.path.resolve() not in known]
        return Split(
            more.name,
            more.annotations,
            self.images + [more.images[n] for n in new],
            self.boxes_xyxy + [more.boxes_xyxy[n] for n in new],
            self.labels + [more.labels[n] for n in new],
            self.crowd + [more.crowd[n] for n in new],
            self.areas + [more.areas[n] for n in new],
            self.class_names,
            self.info,
            self.dropped + more.dropped,
        )

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
    extended: tuple[Path, Path] | None = None  # more training images, for configs whose train_split is extended
    link: str = ""  # the place that the files were fetched from, where another machine can fetch them too
    cache: CacheRule = field(default_factory=CacheRule)  # how its images are kept for training

    def to_dict(self) -> dict[str, Any]:
        """Plain values with absolute paths, for study.json and workers."""
        plain: dict[str, Any] = {"name": self.name}
        for split in SPLITS:
            pair = getattr(self, split)
            plain[split] = [str(path.resolve()) for path in pair] if pair else None
        return {**plain, "cache": self.cache.to_dict(), **({"link": self.link} if self.link else {})}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataSource:
        """The inverse of `to_dict`."""
        pairs = {s: (Path(plain[s][0]), Path(plain[s][1])) if plain.get(s) else None for s in SPLITS}
        assert pairs["train"] is not None
        assert pairs["val"] is not None
        link, cache = plain.get("link", ""), CacheRule.from_dict(plain.get("cache"))
        return cls(pairs["train"], pairs["val"], pairs["test"], plain["name"], pairs["extended"], link, cache)

    @classmethod
    def from_options(
        cls,
        folder: str | None,
        train_annotations: str | None,
        train_images: str | None,
        val_annotations: str | None,
        val_images: str | None,
        extended_annotations: str | None = None,
    ) -> DataSource | None:
        """What --data or the four --train-/--val- options name; None where they name nothing.

        Extended annotations are of images in the folder of the training images.

        Raises: DataError where both or some are given, or the folder is not one.
        """
        named = (train_annotations, train_images, val_annotations, val_images)
        if folder and any(named):
            raise DataError("give either --data or the four --train-/--val- options, not both")
        if folder:
            source = cls.from_folder(folder)
            return source.with_extended(extended_annotations)
        if not any(named):
            if extended_annotations:
                raise DataError("--extended-annotations adds to the data of --data; none is named")
            return None
        if not (train_annotations and train_images and val_annotations and val_images):
            raise DataError(
                "--train-annotations, --train-images, --val-annotations and --val-images go together; some are missing"
            )
        train, val = (Path(train_annotations), Path(train_images)), (Path(val_annotations), Path(val_images))
        return cls(train, val, None, train[0].stem).with_extended(extended_annotations)

    def with_extended(self, annotations: str | None) -> DataSource:
        """This source with more training images by an annotation file; as it is where that is None."""
        if not annotations:
            return self
        if not Path(annotations).is_file():
            raise DataError(f"--extended-annotations {annotations}: must be a COCO file; there is none of this name")
        return replace(self, extended=(Path(annotations), self.train[1]))

    def to_options(self) -> list[str]:
        """The words that name this source to a command: --data where its folder says it all."""
        folder = self.train[0].parent
        with contextlib.suppress(DataError):
            there = DataSource.from_folder(folder)
            if (there.train, there.val) == (self.train, self.val):
                more = (
                    ["--extended-annotations", str(self.extended[0])]
                    if self.extended not in (None, there.extended)
                    else []
                )
                return ["--data", str(folder), *more]
        words = ["--train-annotations", "--train-images", "--val-annotations", "--val-images"]
        files = [*self.train, *self.val]
        if self.extended:
            words, files = [*words, "--extended-annotations"], [*files, self.extended[0]]
        return [part for pair in zip(words, files, strict=True) for part in (pair[0], str(pair[1]))]

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
        test, extended = root / "test.json", root / "extended.json"
        return cls(
            (root / "train.json", images),
            (root / "val.json", images),
            (test, images) if test.is_file() else None,
            root.resolve().name,
            (extended, images) if extended.is_file() else None,
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

    def facts(self) -> dict[str, Any]:
        """What is known before anything is decoded, as spaces.fitting.DatasetFacts wants it: sizes (height, width) of
        images and boxes in original pixels, and the image of every box; crowds are left out.

        Raises: DataError where the training split has no box.
        """
        boxes = [
            (n, box)
            for n, rows in enumerate(self.train.boxes_xyxy)
            for box, crowd in zip(rows.tolist(), self.train.crowd[n], strict=True)
            if not crowd
        ]
        if not boxes:
            raise DataError(
                f"{self.train.annotations}: the training split must have a box that is not a crowd's; it has none"
            )
        return {
            "image_sizes": tuple((record.height, record.width) for record in self.train.images),
            "box_sizes": tuple((box[3] - box[1], box[2] - box[0]) for _, box in boxes),
            "box_image": tuple(n for n, _ in boxes),
            "full_turn": self.full_turn,
        }

    @property
    def dropped(self) -> list[str]:
        """Everything that skip_bad left out, in words."""
        return [f"{split.name}: {note}" for split in self.splits for note in split.dropped]


def check_roll(config: DetectorConfig, dataset: DetectionDataset) -> None:
    """Raises: ConfigError where images would be rolled that are no full turn: their edges do not touch."""
    if config.roll_probability > 0 and not dataset.full_turn:
        raise ConfigError(
            f"roll_probability={config.roll_probability:g} needs images that are a full turn, and {dataset.name} does not "
            'say so; set it to 0, or put "detector_search": {"full_turn": true} into the "info" of train.json'
        )


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
            {**record.more, "id": n + 1, "file_name": record.file_name, "width": record.width, "height": record.height}
            for n, record in enumerate(split.images)
        ],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(split.class_names)],
    }
